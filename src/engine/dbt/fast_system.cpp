// SPDX-License-Identifier: Apache-2.0
// Compiled with -mgeneral-regs-only: the guest's vector registers are live here. No library calls.
#include "engine/dbt/fast_system.h"

#include <Zydis/Mnemonic.h>

namespace vezha::engine::dbt {

namespace {

using namespace x86;

u64 iopl(const Context& ctx) { return ctx.flags >> 12 & 3; }
bool canonical(u64 address) { return static_cast<i64>(address << 16) >> 16 == static_cast<i64>(address); }

/// Interrupts that came while IF was clear may wait: have the loop look.
void interrupts_on(GuestRun& run) {
    if (run.maybe_pending.load(std::memory_order_relaxed)) run.ctx.attention.fetch_or(attention::kRecheck);
}

/// Pointer to the `count` words at RSP + displacement, if they lie in one page of plain memory.
u64* stack_words(GuestRun& run, i64 displacement, unsigned count, bool write) {
    const u64 linear = run.ctx.gpr[kRsp] + static_cast<u64>(displacement);
    if ((linear & 0xfff) + 8 * count > 4096 || (linear & 7)) return nullptr;
    bool special;
    u64* at = reinterpret_cast<u64*>(data_pointer(run, linear, write, special));
    if (!at) run.ctx.fault = {};  // the slow way finds it again
    return at;
}

void set_code(Context& ctx, Segment cs, Segment ss, u8 cpl) {
    ctx.segment[kCs] = cs;
    ctx.segment[kSs] = ss;
    ctx.cpl = cpl;
    update_mode(ctx);
}

Segment flat(u64 selector, u16 attributes) {
    Segment s;
    s.selector = static_cast<u16>(selector);
    s.attributes = attributes;
    s.limit = 0xffff'ffff;
    return s;
}
constexpr u16 kCode64 = 0xa09b, kData = 0xc093, kRing3 = 0x60;

bool system_call(GuestRun& run, const Instruction& in) {
    Context& ctx = run.ctx;
    if (!(ctx.efer & efer::kSce)) return false;
    ctx.gpr[kRcx] = in.rip + in.info.length;
    ctx.gpr[kR11] = ctx.flags & ~rflags::kRf;
    ctx.flags = (ctx.flags & ~ctx.sfmask & ~rflags::kRf) | rflags::kFixed;
    ctx.rip = ctx.lstar;
    const u64 selector = ctx.star >> 32 & 0xfffc;
    set_code(ctx, flat(selector, kCode64), flat(selector + 8, kData), 0);
    return true;
}

bool system_return(GuestRun& run, const Instruction& in) {
    Context& ctx = run.ctx;
    if (!(ctx.efer & efer::kSce) || ctx.cpl != 0 || in.info.operand_width != 64 || !canonical(ctx.gpr[kRcx])) return false;
    if (ctx.gpr[kR11] & rflags::kTf) return false;
    ctx.flags = (ctx.gpr[kR11] & 0x3c'7fd7) | rflags::kFixed;
    ctx.rip = ctx.gpr[kRcx];
    const u64 selector = ctx.star >> 48;
    set_code(ctx, flat((selector + 16) | 3, kCode64 | kRing3), flat((selector + 8) | 3, kData | kRing3), 3);
    if (ctx.flags & rflags::kIf) interrupts_on(run);
    return true;
}

/// IRETQ between flat segments of rings 0 and 3 whose descriptors are what every 64-bit kernel has.
bool interrupt_return(GuestRun& run) {
    Context& ctx = run.ctx;
    if (ctx.cpl != 0 || (ctx.flags & rflags::kNt) || ctx.nmi_masked) return false;
    const u64* frame = stack_words(run, 0, 5, false);
    if (!frame) return false;
    const u64 rip = frame[0], cs = frame[1] & 0xffff, image = frame[2], rsp = frame[3], ss = frame[4] & 0xffff;
    if (!canonical(rip) || (image & (rflags::kTf | rflags::kVm | rflags::kVif | rflags::kVip | rflags::kNt))) return false;
    constexpr u64 kMask = rflags::kArithmetic | rflags::kDf | rflags::kIf | rflags::kIopl | rflags::kRf | rflags::kAc | rflags::kId;
    if (cs == ctx.segment[kCs].selector && ss == ctx.segment[kSs].selector) {
        ctx.flags = (ctx.flags & ~kMask) | (image & kMask) | rflags::kFixed;
        ctx.rip = rip;
        ctx.gpr[kRsp] = rsp;
        update_mode(ctx);
    } else {
        // To ring 3: the descriptors must be those of SYSRET's flat segments.
        if ((cs & 7) != 3 || (ss & 7) != 3 || (cs | 7) > ctx.gdtr.limit || (ss | 7) > ctx.gdtr.limit) return false;
        u64 descriptor[2];
        const u64 selectors[2] = {cs, ss};
        for (int i = 0; i < 2; ++i) {
            const u64 linear = ctx.gdtr.base + (selectors[i] & ~u64{7});
            bool special;
            const u8* at = (linear & 0xfff) > 4088 ? nullptr : data_pointer(run, linear, false, special);
            if (!at) {
                ctx.fault = {};
                return false;
            }
            descriptor[i] = *reinterpret_cast<const u64*>(at);
        }
        // Present, ring 3, accessed; 64-bit readable code and flat writable data.
        if ((descriptor[0] >> 40 & 0x60ff) != 0x20fb || (descriptor[1] >> 40 & 0xff) != 0xf3) return false;
        if (descriptor[1] >> 56 || (descriptor[1] >> 16 & 0xff'ffff)) return false;
        for (const SegmentIndex index : {kEs, kDs, kFs, kGs})  // a ring 0 segment would become null
            if (const Segment& s = ctx.segment[index]; s.present() && s.dpl() < 3) return false;
        ctx.flags = (ctx.flags & ~kMask) | (image & kMask) | rflags::kFixed;
        ctx.rip = rip;
        ctx.gpr[kRsp] = rsp;
        set_code(ctx, flat(cs, kCode64 | kRing3), flat(ss, kData | kRing3), 3);
    }
    if (ctx.flags & rflags::kIf) interrupts_on(run);
    return true;
}

}  // namespace

Fast fast_system(GuestRun& run, const Instruction& in) {
    Context& ctx = run.ctx;
    if (!ctx.code64 || (ctx.flags & rflags::kTf)) return Fast::No;
    const u64 next = in.rip + in.info.length;
    switch (in.info.mnemonic) {
    case ZYDIS_MNEMONIC_CLI:
        if (ctx.cpl > iopl(ctx)) return Fast::No;
        ctx.flags &= ~rflags::kIf;
        break;
    case ZYDIS_MNEMONIC_STI: {
        if (ctx.cpl > iopl(ctx)) return Fast::No;
        const bool was_on = ctx.flags & rflags::kIf;
        ctx.flags |= rflags::kIf;
        ctx.rip = next;
        interrupts_on(run);
        return was_on ? Fast::Done : Fast::Shadow;
    }
    case ZYDIS_MNEMONIC_PUSHFQ: {
        u64* top = stack_words(run, -8, 1, true);
        if (!top) return Fast::No;
        *top = ctx.flags & ~(rflags::kVm | rflags::kRf);
        ctx.gpr[kRsp] -= 8;
        break;
    }
    case ZYDIS_MNEMONIC_POPFQ: {
        const u64* top = stack_words(run, 0, 1, false);
        if (!top || (*top & (rflags::kTf | rflags::kNt))) return Fast::No;
        u64 mask = rflags::kArithmetic | rflags::kDf | rflags::kNt | rflags::kAc | rflags::kId;
        if (ctx.cpl <= iopl(ctx)) mask |= rflags::kIf;
        if (ctx.cpl == 0) mask |= rflags::kIopl;
        const u64 before = ctx.flags;
        ctx.flags = (before & ~mask & ~rflags::kRf) | (*top & mask) | rflags::kFixed;
        ctx.gpr[kRsp] += 8;
        if ((before ^ ctx.flags) & rflags::kAc) update_mode(ctx);
        if (ctx.flags & ~before & rflags::kIf) interrupts_on(run);
        break;
    }
    case ZYDIS_MNEMONIC_STAC: case ZYDIS_MNEMONIC_CLAC:
        if (ctx.cpl != 0 || !(ctx.cr4 & cr4::kSmap)) return Fast::No;
        if (in.info.mnemonic == ZYDIS_MNEMONIC_STAC) ctx.flags |= rflags::kAc;
        else ctx.flags &= ~rflags::kAc;
        update_mode(ctx);
        break;
    case ZYDIS_MNEMONIC_SWAPGS: {
        if (ctx.cpl != 0) return Fast::No;
        const u64 base = ctx.segment[kGs].base;
        ctx.segment[kGs].base = ctx.kernel_gs_base;
        ctx.kernel_gs_base = base;
        break;
    }
    case ZYDIS_MNEMONIC_RDTSC: {
        if ((ctx.cr4 & cr4::kTsd) && ctx.cpl != 0) return Fast::No;
        const u64 tsc = __builtin_ia32_rdtsc() + ctx.tsc_offset;
        ctx.gpr[kRax] = tsc & 0xffff'ffff;
        ctx.gpr[kRdx] = tsc >> 32;
        break;
    }
    case ZYDIS_MNEMONIC_SYSCALL: return system_call(run, in) ? Fast::Done : Fast::No;
    case ZYDIS_MNEMONIC_SYSRET: return system_return(run, in) ? Fast::Done : Fast::No;
    case ZYDIS_MNEMONIC_IRETQ: return interrupt_return(run) ? Fast::Done : Fast::No;
    default: return Fast::No;
    }
    ctx.rip = next;
    return Fast::Done;
}

}  // namespace vezha::engine::dbt
