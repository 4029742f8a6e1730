// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/paravirtual.h"

#include <bit>

#include "base/time.h"
#include "engine/dbt/apic_fabric.h"
#include "engine/dbt/segments.h"
#include "engine/dbt/tsc.h"

namespace vezha::engine::dbt {

using namespace x86;

namespace {

/// One per vCPU, in guest memory; the guest reads it with its own RDTSC. Odd versions mean: being written.
struct ClockPage {
    u32 version, pad;
    u64 tsc_timestamp, system_time;
    u32 tsc_to_system_mul;
    i8 tsc_shift;
    u8 flags, pad2[2];
};
static_assert(sizeof(ClockPage) == 32);
constexpr u8 kTscStable = 1;

struct WallClock {
    u32 version, seconds, nanoseconds;
};

/// ns = ((ticks << shift) * mul) >> 32, with mul as large as 32 bits allow.
struct Scale {
    u32 mul;
    i8 shift;
};
Scale scale_for(u64 hz) {
    Scale s{0, 0};
    unsigned __int128 factor = (static_cast<unsigned __int128>(kNsPerSec) << 32) / hz;
    while (factor >> 32) {
        factor >>= 1;
        ++s.shift;
    }
    while (!(factor >> 31)) {
        --s.shift;
        factor = s.shift < 0 ? (static_cast<unsigned __int128>(kNsPerSec) << (32 - s.shift)) / hz : factor << 1;
    }
    s.mul = static_cast<u32>(factor);
    return s;
}

u64 apply(const Scale& s, u64 ticks) {
    const u64 shifted = s.shift >= 0 ? ticks << s.shift : ticks >> -s.shift;
    return static_cast<u64>((static_cast<unsigned __int128>(shifted) * s.mul) >> 32);
}

constexpr u64 kEnosys = static_cast<u64>(-1000), kEinval = static_cast<u64>(-22), kEperm = static_cast<u64>(-1);
enum Hypercall : u64 { kCallVapicPollIrq = 1, kCallKickCpu = 5, kCallSendIpi = 10 };

u64 send_ipi(Context& ctx, u64 bitmap_low, u64 bitmap_high, u64 first, u64 icr) {
    InterruptMessage m{.vector = static_cast<u8>(icr),
                       .delivery = static_cast<InterruptMessage::Delivery>(icr >> 8 & 7)};
    if (m.delivery != InterruptMessage::Fixed && m.delivery != InterruptMessage::Nmi) return kEinval;
    if (first > ~u32{0}) return 0;
    u64 sent = 0;
    const bool wide = in_code64(ctx);
    const unsigned per_word = wide ? 64 : 32;
    for (unsigned i = 0; i < 2 * per_word; ++i) {
        const u64 word = i < per_word ? bitmap_low : bitmap_high;
        if (!(word >> (i % per_word) & 1)) continue;
        if (first + i > ~u32{0}) break;
        if (Lapic* target = local_apics(ctx).find(static_cast<u32>(first + i))) {
            target->post(m);
            ++sent;
        }
    }
    return sent;
}

}  // namespace

void add_paravirtual_cpuid(CpuidTable& table) {
    table.set({.leaf = 0x40000000, .value = {0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d}});  // "KVMKVMKVM"
    using namespace kvm_feature;
    const u32 features = 1u << kNopIoDelay | 1u << kClockSource2 | 1u << kPvUnhalt | 1u << kSendIpi |
                         1u << kPollControl | 1u << kClockStable;
    table.set({.leaf = 0x40000001, .value = {features, 0, 0, 0}});
}

u64 paravirtual_clock_ns(const Context& ctx) {
    return apply(scale_for(local_apics(ctx).tsc_hz()), guest_tsc(ctx) - ctx.tsc_adjust);
}

void update_clock_page(Context& ctx) {
    if (!(ctx.kvm_system_time & 1)) return;
    const u64 gpa = ctx.kvm_system_time & ~u64{1};
    const Scale scale = scale_for(local_apics(ctx).tsc_hz());
    ClockPage page{.version = 1, .tsc_timestamp = ctx.tsc_adjust, .system_time = 0, .tsc_to_system_mul = scale.mul,
                   .tsc_shift = scale.shift, .flags = kTscStable};
    if (auto old = ctx.memory->read_object<u32>({gpa})) page.version = (*old & ~1u) + 3;
    // Only this vCPU reads its page, but another may look at it (vDSO): odd version first, even version last.
    if (!ctx.memory->write_object({gpa}, page)) return;
    std::atomic_thread_fence(std::memory_order_release);
    (void)ctx.memory->write_object({gpa}, page.version + 1);
}

bool read_paravirtual_msr(Context& ctx, u32 index, u64& value) {
    if (!ctx.cpuid.find(0x40000001)) return false;
    switch (index) {
        case msr::kKvmWallClock: value = ctx.kvm_wall_clock; return true;
        case msr::kKvmSystemTime: value = ctx.kvm_system_time; return true;
        case msr::kKvmPollControl: value = ctx.kvm_poll_control; return true;
        default: return false;
    }
}

bool restore_wall_clock(Context& ctx, u64 value) {
    ctx.kvm_wall_clock = value;
    return true;
}

bool write_paravirtual_msr(Context& ctx, u32 index, u64 value) {
    if (!ctx.cpuid.find(0x40000001)) return false;
    switch (index) {
        case msr::kKvmWallClock: {
            ctx.kvm_wall_clock = value;
            const u64 boot = realtime_ns() - paravirtual_clock_ns(ctx);
            WallClock clock{.version = 1, .seconds = static_cast<u32>(boot / kNsPerSec),
                            .nanoseconds = static_cast<u32>(boot % kNsPerSec)};
            if (auto old = ctx.memory->read_object<u32>({value})) clock.version = (*old & ~1u) + 3;
            if (ctx.memory->write_object({value}, clock)) (void)ctx.memory->write_object({value}, clock.version + 1);
            return true;
        }
        case msr::kKvmSystemTime:
            ctx.kvm_system_time = value;
            update_clock_page(ctx);
            return true;
        case msr::kKvmPollControl:
            if (value & ~u64{1}) return false;
            ctx.kvm_poll_control = value;  // the sleep of HLT does not poll anyway
            return true;
        default: return false;
    }
}

void hypercall(Context& ctx) {
    const u64 mask = in_code64(ctx) ? ~u64{0} : 0xffff'ffff;
    const u64 number = ctx.gpr[kRax] & mask;
    u64 answer;
    if (ctx.cpl != 0) {
        answer = kEperm;
    } else {
        switch (number) {
            case kCallVapicPollIrq: answer = 0; break;
            case kCallKickCpu:
                if (Lapic* target = local_apics(ctx).find(static_cast<u32>(ctx.gpr[kRcx]))) target->unhalt();
                answer = 0;
                break;
            case kCallSendIpi:
                answer = send_ipi(ctx, ctx.gpr[kRbx] & mask, ctx.gpr[kRcx] & mask, ctx.gpr[kRdx] & mask,
                                  ctx.gpr[kRsi] & mask);
                break;
            default: answer = kEnosys; break;
        }
    }
    ctx.gpr[kRax] = answer & mask;
}

}  // namespace vezha::engine::dbt
