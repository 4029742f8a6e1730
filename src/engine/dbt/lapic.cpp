// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/lapic.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/log.h"
#include "engine/dbt/system_interface.h"
#include "engine/dbt/tsc.h"

namespace vezha::engine::dbt {

using namespace x86;
namespace reg = x86::lapic;

namespace {
constexpr u32 kLvtMasked = 1 << 16;
constexpr u32 kErrorSendIllegal = 1 << 5, kErrorReceiveIllegal = 1 << 6, kErrorRegister = 1 << 7;

struct LvtInfo {
    u32 offset, writable;
};
constexpr LvtInfo kLvts[] = {
    {reg::kLvtTimer, 0x7'00ff & ~0x1000u},   {reg::kLvtThermal, 0x1'07ff}, {reg::kLvtPerf, 0x1'07ff},
    {reg::kLvtLint0, 0x1'a7ff},              {reg::kLvtLint1, 0x1'a7ff},   {reg::kLvtError, 0x1'00ff},
};
}  // namespace

Lapic::Lapic(Context& ctx, u32 apic_id, const Outside& outside) : ctx_(ctx), apic_id_(apic_id), outside_(outside) {
    reset();
    timer_ = outside_.clock->new_timer([this] { timer_fired(); });
}

Lapic::~Lapic() { timer_->cancel(); }

void Lapic::reset() {
    for (auto& r : registers_) r.store(0, std::memory_order_relaxed);
    put(reg::kId, x2apic() ? apic_id_ : apic_id_ << 24);
    put(reg::kVersion, 0x0005'0014);
    put(reg::kDfr, ~u32{0});
    put(reg::kSpurious, 0xff);
    for (const auto& lvt : kLvts) put(lvt.offset, kLvtMasked);
    // Machines without firmware expect the virtual wire that a BIOS would have set up.
    if (ctx_.apic_base & apic_base::kBsp) put(reg::kLvtLint0, InterruptMessage::ExtInt << 8);
    if (x2apic()) put(reg::kLdr, (apic_id_ >> 4) << 16 | 1u << (apic_id_ & 15));
    pending_errors_ = 0;
    std::lock_guard lock(timer_mutex_);
    timer_running_ = false;
    tsc_deadline_ = 0;
    if (timer_) timer_->cancel();
}

bool Lapic::hardware_enabled() const { return ctx_.apic_base & apic_base::kEnable; }
bool Lapic::x2apic() const {
    constexpr u64 kBoth = apic_base::kEnable | apic_base::kX2apic;
    return (ctx_.apic_base & kBoth) == kBoth;
}

int Lapic::highest(u32 bank) const {
    for (int word = 7; word >= 0; --word)
        if (u32 bits = registers_[bank / 16 + static_cast<u32>(word)].load(std::memory_order_acquire))
            return word * 32 + 31 - std::countl_zero(bits);
    return -1;
}

u32 Lapic::ppr() const {
    const u32 tpr = get(reg::kTpr);
    const int isr = highest(reg::kIsr);
    const u32 service = isr < 0 ? 0 : static_cast<u32>(isr) & 0xf0;
    return (tpr & 0xf0) >= service ? tpr : service;
}

int Lapic::pending_vector() const {
    if (!hardware_enabled()) return -1;
    const int irr = highest(reg::kIrr);
    if (irr < 0 || !software_enabled()) return -1;
    return (static_cast<u32>(irr) & 0xf0) > (ppr() & 0xf0) ? irr : -1;
}

void Lapic::acknowledge(u8 vector) {
    const u32 bit = 1u << (vector & 31);
    registers_[reg::kIrr / 16 + vector / 32].fetch_and(~bit, std::memory_order_acq_rel);
    registers_[reg::kIsr / 16 + vector / 32].fetch_or(bit, std::memory_order_acq_rel);
}

void Lapic::unacknowledge(u8 vector) {
    const u32 bit = 1u << (vector & 31);
    registers_[reg::kIsr / 16 + vector / 32].fetch_and(~bit, std::memory_order_acq_rel);
    registers_[reg::kIrr / 16 + vector / 32].fetch_or(bit, std::memory_order_acq_rel);
}

bool Lapic::accepts_ext_int() const {
    if (!(ctx_.apic_base & apic_base::kBsp)) return false;
    if (!hardware_enabled()) return true;
    const u32 lint0 = get(reg::kLvtLint0);
    return !(lint0 & kLvtMasked) && (lint0 >> 8 & 7) == InterruptMessage::ExtInt;
}

void Lapic::set_cr8(u64 value) {
    put(reg::kTpr, static_cast<u32>(value << 4) & 0xff);
    recheck();
}

void Lapic::recheck() {
    if (pending_vector() >= 0) request_attention(ctx_, attention::kInterrupt);
}

void Lapic::unhalt() {
    unhalted_ = true;
    request_attention(ctx_, attention::kInterrupt);
}

bool Lapic::matches(const InterruptMessage& m) const {
    if (!hardware_enabled()) return m.delivery == InterruptMessage::Init || m.delivery == InterruptMessage::StartUp
                                        ? !m.logical && m.destination == apic_id_
                                        : false;
    const bool x2 = x2apic();
    if (m.destination == (m.from_x2apic ? ~u32{0} : 0xffu)) return true;
    if (!m.logical) return m.destination == (x2 ? apic_id_ : get(reg::kId) >> 24);  // the xAPIC's ID can be written
    const u32 ldr = get(reg::kLdr);
    if (x2) return (m.destination >> 16) == (ldr >> 16) && (m.destination & ldr & 0xffff);
    const u32 mine = ldr >> 24;
    if (get(reg::kDfr) >> 28 == 0xf) return mine & m.destination;
    return (mine >> 4) == (m.destination >> 4 & 0xf) && (mine & m.destination & 0xf);  // cluster model
}

u32 Lapic::arbitration_priority() const {
    // Software-disabled processors are never picked while another is there.
    if (!software_enabled()) return 0x1000;
    const int irr = highest(reg::kIrr);
    return std::max(ppr(), irr < 0 ? 0u : static_cast<u32>(irr)) & 0xf0;
}

void Lapic::post(const InterruptMessage& m) {
    switch (m.delivery) {
        case InterruptMessage::Fixed:
        case InterruptMessage::LowestPriority: {
            if (!software_enabled()) return;
            if (m.vector < 16) return error(kErrorReceiveIllegal);
            const u32 word = m.vector / 32u, bit = 1u << (m.vector & 31);
            auto& tmr = registers_[reg::kTmr / 16 + word];
            if (m.level) tmr.fetch_or(bit, std::memory_order_acq_rel);
            else tmr.fetch_and(~bit, std::memory_order_acq_rel);
            registers_[reg::kIrr / 16 + word].fetch_or(bit, std::memory_order_acq_rel);
            request_attention(ctx_, attention::kInterrupt);
            return;
        }
        case InterruptMessage::Nmi:
            ++nmis_;
            request_attention(ctx_, attention::kInterrupt);
            return;
        case InterruptMessage::Init:
            sipi_vector_ = -1;  // a SIPI counts only after the INIT
            request_attention(ctx_, attention::kInit);
            return;
        case InterruptMessage::StartUp:
            sipi_vector_ = m.vector;
            request_attention(ctx_, attention::kSipi);
            return;
        case InterruptMessage::ExtInt: request_attention(ctx_, attention::kInterrupt); return;
        case InterruptMessage::Smi: return;  // no SMM
    }
}

void Lapic::deliver_lvt(u32 lvt) {
    const u32 value = get(lvt);
    if (value & kLvtMasked) return;
    const auto mode = static_cast<InterruptMessage::Delivery>(lvt == reg::kLvtTimer ? 0 : value >> 8 & 7);
    post({.vector = static_cast<u8>(value), .delivery = mode});
}

void Lapic::error(u32 bit) {
    if (!(pending_errors_.fetch_or(bit) & bit) && !(get(reg::kLvtError) & kLvtMasked) && (get(reg::kLvtError) & 0xff) >= 16)
        deliver_lvt(reg::kLvtError);
}

void Lapic::end_of_interrupt() {
    const int vector = highest(reg::kIsr);
    if (vector < 0) return;
    const u32 word = static_cast<u32>(vector) / 32, bit = 1u << (vector & 31);
    registers_[reg::kIsr / 16 + word].fetch_and(~bit, std::memory_order_acq_rel);
    const bool level = registers_[reg::kTmr / 16 + word].load(std::memory_order_acquire) & bit;
    recheck();
    if (level && outside_.eoi) outside_.eoi(static_cast<u8>(vector));
}

void Lapic::write_icr(u64 value, bool x2) {
    const auto low = static_cast<u32>(value);
    InterruptMessage m{
        .vector = static_cast<u8>(low),
        .delivery = static_cast<InterruptMessage::Delivery>(low >> 8 & 7),
        .logical = (low & (1 << 11)) != 0,
        .level = false,
        .from_x2apic = x2,
        .destination = x2 ? static_cast<u32>(value >> 32) : static_cast<u32>(value >> 56),
    };
    // INIT level de-assert only synchronised arbitration IDs, long ago.
    if (m.delivery == InterruptMessage::Init && (low & (1 << 15)) && !(low & (1 << 14))) return;
    if ((m.delivery == InterruptMessage::Fixed || m.delivery == InterruptMessage::LowestPriority) && m.vector < 16)
        return error(kErrorSendIllegal);
    outside_.send(*this, m, low >> 18 & 3);
}

u32 Lapic::read(u32 offset) {
    switch (offset) {
        case reg::kPpr: return ppr();
        case reg::kApr: return arbitration_priority() & 0xff;
        case reg::kTimerCurrent: return current_count();
        case reg::kEoi:
        case reg::kSelfIpi: return 0;
        default: return get(offset);
    }
}

void Lapic::set_lvt(u32 offset, u32 value) {
    for (const auto& lvt : kLvts)
        if (lvt.offset == offset) value &= lvt.writable;
    if (!software_enabled()) value |= kLvtMasked;
    if (offset == reg::kLvtTimer) {
        const auto old = timer_mode();
        const auto wanted = static_cast<TimerMode>(value >> 17 & 3);
        if (wanted != old && old != TimerMode::TscDeadline) settle_timer();
        put(offset, value);
        if (timer_mode() != old && (old == TimerMode::TscDeadline || timer_mode() == TimerMode::TscDeadline)) {
            std::lock_guard lock(timer_mutex_);
            timer_running_ = false;
            tsc_deadline_ = 0;
            put(reg::kTimerInitial, 0);
            timer_->cancel();
        }
        return;
    }
    put(offset, value);
    if (offset == reg::kLvtLint0) request_attention(ctx_, attention::kInterrupt);  // ExtINT may get through now
}

void Lapic::write(u32 offset, u32 value) {
    switch (offset) {
        case reg::kId:
            if (!x2apic()) put(offset, value & 0xff00'0000);
            return;
        case reg::kTpr:
            put(offset, value & 0xff);
            recheck();
            return;
        case reg::kEoi: end_of_interrupt(); return;
        case reg::kLdr: put(offset, value & 0xff00'0000); return;
        case reg::kDfr: put(offset, value | 0x0fff'ffff); return;
        case reg::kSpurious:
            put(offset, value & 0x1ff);
            if (!(value & 0x100))
                for (const auto& lvt : kLvts) put(lvt.offset, get(lvt.offset) | kLvtMasked);
            recheck();
            return;
        case reg::kEsr: put(offset, pending_errors_.exchange(0)); return;
        case reg::kIcrHigh: put(offset, value & 0xff00'0000); return;
        case reg::kIcrLow:
            put(offset, value & 0xc'cfff);
            write_icr(u64{get(reg::kIcrHigh)} << 32 | (value & 0xc'cfff), false);
            return;
        case reg::kLvtTimer:
        case reg::kLvtThermal:
        case reg::kLvtPerf:
        case reg::kLvtLint0:
        case reg::kLvtLint1:
        case reg::kLvtError: set_lvt(offset, value); return;
        case reg::kTimerInitial:
            if (timer_mode() != TimerMode::TscDeadline) start_timer(value);
            return;
        case reg::kTimerDivide: {
            put(offset, value & 0xb);
            // The count goes on with the new divisor from where it is.
            if (const u32 left = current_count(); left && timer_mode() != TimerMode::TscDeadline) {
                std::lock_guard lock(timer_mutex_);
                const u64 now = outside_.clock->now_ns();
                timer_start_ns_ = now - (get(reg::kTimerInitial) - left) * divisor();
                timer_->arm(now + left * divisor());
            }
            return;
        }
        default: return;  // read-only or reserved
    }
}

namespace {
bool exists(u32 offset) {
    switch (offset) {
        case reg::kId:
        case reg::kVersion:
        case reg::kTpr:
        case reg::kApr:
        case reg::kPpr:
        case reg::kEoi:
        case reg::kLdr:
        case reg::kDfr:
        case reg::kSpurious:
        case reg::kEsr:
        case reg::kIcrLow:
        case reg::kIcrHigh:
        case reg::kLvtTimer:
        case reg::kLvtThermal:
        case reg::kLvtPerf:
        case reg::kLvtLint0:
        case reg::kLvtLint1:
        case reg::kLvtError:
        case reg::kTimerInitial:
        case reg::kTimerCurrent:
        case reg::kTimerDivide: return true;
        default: return offset >= reg::kIsr && offset < reg::kEsr && offset % 16 == 0;
    }
}
}  // namespace

u32 Lapic::mmio_read(u32 offset) {
    if (!exists(offset)) {
        error(kErrorRegister);
        return 0;
    }
    return read(offset);
}

void Lapic::mmio_write(u32 offset, u32 value) {
    if (!exists(offset)) return error(kErrorRegister);
    write(offset, value);
}

// SDM vol. 3A, table 11-6 and 11.12.1.3.
bool Lapic::msr_read(u32 index, u64& value) {
    const u32 offset = (index - msr::kX2apicBase) * 16;
    if (!x2apic() || !exists(offset)) return false;
    switch (offset) {
        case reg::kEoi:
        case reg::kDfr:
        case reg::kApr:
        case reg::kIcrHigh: return false;
        case reg::kIcrLow: value = get(reg::kIcrLow) | u64{get(reg::kIcrHigh)} << 32; return true;
        default: value = read(offset); return true;
    }
}

bool Lapic::msr_write(u32 index, u64 value) {
    const u32 offset = (index - msr::kX2apicBase) * 16;
    if (!x2apic()) return false;
    if (offset == reg::kSelfIpi) {
        if (value >> 8) return false;
        if (value < 16) error(kErrorSendIllegal);
        else outside_.send(*this, {.vector = static_cast<u8>(value), .from_x2apic = true}, 1);
        return true;
    }
    if (!exists(offset)) return false;
    if (offset == reg::kIcrLow) {
        if (value & 0xfff3'2000) return false;
        put(reg::kIcrLow, static_cast<u32>(value) & 0xc'cfff);
        put(reg::kIcrHigh, static_cast<u32>(value >> 32));
        write_icr(value, true);
        return true;
    }
    if (value >> 32) return false;
    const auto v = static_cast<u32>(value);
    switch (offset) {
        case reg::kTpr:
            if (v & ~0xffu) return false;
            break;
        case reg::kEoi:
        case reg::kEsr:
            if (v) return false;
            break;
        case reg::kSpurious:
            if (v & ~0x1ffu) return false;
            break;
        case reg::kTimerDivide:
            if (v & ~0xbu) return false;
            break;
        case reg::kTimerInitial: break;
        case reg::kLvtTimer:
        case reg::kLvtThermal:
        case reg::kLvtPerf:
        case reg::kLvtLint0:
        case reg::kLvtLint1:
        case reg::kLvtError:
            for (const auto& lvt : kLvts)
                if (lvt.offset == offset && (v & ~(lvt.writable | 0x1000u | 0x4000u))) return false;
            break;
        default: return false;  // read-only
    }
    write(offset, v);
    return true;
}

bool Lapic::write_base(u64 value) {
    const u64 allowed = 0xd00 | (((u64{1} << ctx_.physical_bits) - 1) & ~u64{0xfff});
    if (value & ~allowed) return false;
    if ((value & apic_base::kX2apic) && !(ctx_.cpuid.query(1, 0).ecx >> 21 & 1)) return false;
    constexpr u64 kBoth = apic_base::kEnable | apic_base::kX2apic;
    const u64 from = ctx_.apic_base & kBoth, to = value & kBoth;
    // SDM vol. 3A, 11.12.5: x2APIC only from xAPIC, and back only through "disabled".
    if (to == apic_base::kX2apic) return false;
    if (from == kBoth && to == apic_base::kEnable) return false;
    if (from == 0 && to == kBoth) return false;
    const bool moved = (ctx_.apic_base ^ value) & ~u64{0xfff};
    ctx_.apic_base = value;
    if (to == 0 && from != 0) {
        reset();
    } else if (to == kBoth && from != kBoth) {
        put(reg::kId, apic_id_);
        put(reg::kLdr, (apic_id_ >> 4) << 16 | 1u << (apic_id_ & 15));
    } else if (to == apic_base::kEnable && from == 0) {
        put(reg::kId, apic_id_ << 24);
    }
    // The xAPIC page appeared, moved or went: the software TLB remembers what is RAM.
    if (moved || to != from) flush_tlb(ctx_, FlushScope::All);
    return true;
}

// ---- timer -------------------------------------------------------------------------------------------------------

u64 Lapic::divisor() const {
    const u32 value = get(reg::kTimerDivide);
    const u32 code = (value & 3) | (value >> 1 & 4);
    return code == 7 ? 1 : u64{2} << code;
}

u64 Lapic::period_ns() const { return u64{get(reg::kTimerInitial)} * divisor(); }

u32 Lapic::current_count() const {
    std::lock_guard lock(timer_mutex_);
    const u32 initial = get(reg::kTimerInitial);
    if (!timer_running_ || initial == 0 || timer_mode() == TimerMode::TscDeadline) return 0;
    const u64 ticks = (outside_.clock->now_ns() - timer_start_ns_) / divisor();
    if (timer_mode() == TimerMode::Periodic) return initial - static_cast<u32>(ticks % initial);
    return ticks >= initial ? 0 : initial - static_cast<u32>(ticks);
}

void Lapic::start_timer(u32 initial) {
    std::lock_guard lock(timer_mutex_);
    put(reg::kTimerInitial, initial);
    timer_running_ = initial != 0;
    if (!timer_running_) return timer_->cancel();
    timer_start_ns_ = outside_.clock->now_ns();
    timer_->arm(timer_start_ns_ + period_ns());
}

/// The guest's view of the count goes by the clock; the alarm may still be on its way. Before the mode changes, what is
/// due happens.
void Lapic::settle_timer() {
    {
        std::lock_guard lock(timer_mutex_);
        if (!timer_running_ || outside_.clock->now_ns() < timer_start_ns_ + period_ns()) return;
    }
    timer_fired();
}

void Lapic::timer_fired() {
    {
        std::lock_guard lock(timer_mutex_);
        const u64 now = outside_.clock->now_ns();
        switch (timer_mode()) {
            case TimerMode::TscDeadline:
                if (tsc_deadline_ == 0) return;
                if (guest_tsc(ctx_) < tsc_deadline_) return arm_deadline_locked();  // a little early
                tsc_deadline_ = 0;
                break;
            case TimerMode::Periodic: {
                if (!timer_running_) return;
                const u64 period = period_ns();
                if (period == 0 || now < timer_start_ns_ + period) return;
                // A late alarm skips the periods that nobody saw, as a guest would merge them in its IRR.
                timer_start_ns_ += (now - timer_start_ns_) / period * period;
                timer_->arm(timer_start_ns_ + period);
                break;
            }
            default:
                if (!timer_running_ || now < timer_start_ns_ + period_ns()) return;
                timer_running_ = false;
                break;
        }
    }
    deliver_lvt(reg::kLvtTimer);
}

u64 Lapic::tsc_deadline() const {
    std::lock_guard lock(timer_mutex_);
    return timer_mode() == TimerMode::TscDeadline ? tsc_deadline_ : 0;
}

void Lapic::arm_deadline_locked() {
    const u64 tsc = guest_tsc(ctx_);
    const u64 ticks = tsc_deadline_ > tsc ? tsc_deadline_ - tsc : 0;
    // A year is as good as never and keeps the sum in range.
    const u64 ns = std::min(bus::ticks_to_ns(std::min(ticks, u64{1} << 60), outside_.tsc_hz), u64{31'536'000} * kNsPerSec);
    timer_->arm(outside_.clock->now_ns() + ns);
}

void Lapic::set_tsc_deadline(u64 value) {
    if (timer_mode() != TimerMode::TscDeadline) return;
    {
        std::lock_guard lock(timer_mutex_);
        tsc_deadline_ = value;
        if (value == 0) return timer_->cancel();
        if (guest_tsc(ctx_) < value) return arm_deadline_locked();
        tsc_deadline_ = 0;  // already past: fires at once
        timer_->cancel();
    }
    deliver_lvt(reg::kLvtTimer);
}

void Lapic::tsc_changed() {
    std::lock_guard lock(timer_mutex_);
    if (timer_mode() == TimerMode::TscDeadline && tsc_deadline_ != 0) arm_deadline_locked();
}

// ---- state -------------------------------------------------------------------------------------------------------

void Lapic::save(LapicState& out) const {
    out = {};
    for (u32 i = 0; i < 64; ++i) {
        u32 value = registers_[i].load(std::memory_order_relaxed);
        if (i * 16 == reg::kTimerCurrent) value = current_count();
        std::memcpy(out.registers.data() + i * 16, &value, sizeof value);
    }
}

void Lapic::load(const LapicState& in) {
    u32 current = 0;
    for (u32 i = 0; i < 64; ++i) {
        u32 value;
        std::memcpy(&value, in.registers.data() + i * 16, sizeof value);
        if (i * 16 == reg::kTimerCurrent) current = value;
        registers_[i].store(value, std::memory_order_relaxed);
    }
    put(reg::kId, x2apic() ? apic_id_ : apic_id_ << 24);
    put(reg::kVersion, 0x0005'0014);
    {
        std::lock_guard lock(timer_mutex_);
        tsc_deadline_ = 0;
        timer_->cancel();
        const u32 initial = get(reg::kTimerInitial);
        timer_running_ = timer_mode() != TimerMode::TscDeadline && initial != 0 && current != 0;
        if (timer_running_) {
            const u64 now = outside_.clock->now_ns();
            timer_start_ns_ = now - (initial - std::min(current, initial)) * divisor();
            timer_->arm(timer_start_ns_ + period_ns());
        }
    }
    request_attention(ctx_, attention::kInterrupt);
}

}  // namespace vezha::engine::dbt
