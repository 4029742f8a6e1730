// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/fast_calls.h"

#include "engine/dbt/paging.h"

namespace vezha::engine::dbt {

using namespace x86;

namespace {

Segment flat(u64 selector, u16 attributes) {
    return {.selector = static_cast<u16>(selector), .attributes = attributes, .limit = 0xffff'ffff, .base = 0};
}
constexpr u16 kCode64 = 0xa09b, kCode32 = 0xc09b, kData = 0xc093, kRing3 = 0x60;

}  // namespace

bool shows_amd(const Context& ctx) { return ctx.amd; }

void execute_syscall(Context& ctx, const Instruction& in) {
    if (!(ctx.efer & efer::kSce)) raise_ud();
    if (!in_code64(ctx) && !shows_amd(ctx)) raise_ud();
    const u64 next = next_rip(ctx, in);
    const u64 selector = ctx.star >> 32 & 0xfffc;
    if (in_long_mode(ctx)) {
        const u64 target = in_code64(ctx) ? ctx.lstar : ctx.cstar;
        ctx.gpr[kRcx] = next;
        ctx.gpr[kR11] = ctx.flags & ~rflags::kRf;
        ctx.flags = (ctx.flags & ~ctx.sfmask & ~rflags::kRf) | rflags::kFixed;
        ctx.rip = target;
        ctx.segment[kSs] = flat(selector + 8, kData);
        set_cs(ctx, flat(selector, kCode64), 0);
    } else {
        ctx.gpr[kRcx] = next;
        ctx.flags &= ~(rflags::kIf | rflags::kVm | rflags::kRf);
        ctx.rip = ctx.star & 0xffff'ffff;
        ctx.segment[kSs] = flat(selector + 8, kData);
        set_cs(ctx, flat(selector, kCode32), 0);
    }
}

void execute_sysret(Context& ctx, const Instruction& in) {
    if (!(ctx.efer & efer::kSce)) raise_ud();
    if (!in_code64(ctx) && !shows_amd(ctx)) raise_ud();
    if (ctx.cpl != 0 || real_mode(ctx)) raise_gp(0);
    const u64 selector = ctx.star >> 48;
    const bool wide = in_code64(ctx) && in.info.operand_width == 64;
    if (wide && !is_canonical(ctx.gpr[kRcx])) raise_gp(0);
    if (in_long_mode(ctx)) {
        constexpr u64 kMask = 0x3c'7fd7;  // RF and VM are cleared
        ctx.flags = (ctx.gpr[kR11] & kMask) | rflags::kFixed;
    } else {
        ctx.flags |= rflags::kIf;
    }
    ctx.rip = wide ? ctx.gpr[kRcx] : ctx.gpr[kRcx] & 0xffff'ffff;
    ctx.segment[kSs] = flat((selector + 8) | 3, kData | kRing3);
    set_cs(ctx, wide ? flat((selector + 16) | 3, kCode64 | kRing3) : flat(selector | 3, kCode32 | kRing3), 3);
}

void execute_sysenter(Context& ctx) {
    if (in_long_mode(ctx) && shows_amd(ctx)) raise_ud();
    if (real_mode(ctx) || !(ctx.sysenter_cs & 0xfffc)) raise_gp(0);
    const bool wide = in_long_mode(ctx);
    ctx.flags &= ~(rflags::kVm | rflags::kIf | rflags::kRf);
    const u64 selector = ctx.sysenter_cs & 0xfffc;
    ctx.gpr[kRsp] = wide ? ctx.sysenter_esp : ctx.sysenter_esp & 0xffff'ffff;
    ctx.rip = wide ? ctx.sysenter_eip : ctx.sysenter_eip & 0xffff'ffff;
    ctx.segment[kSs] = flat(selector + 8, kData);
    set_cs(ctx, flat(selector, wide ? kCode64 : kCode32), 0);
}

void execute_sysexit(Context& ctx, const Instruction& in) {
    if (in_long_mode(ctx) && shows_amd(ctx)) raise_ud();
    if (real_mode(ctx) || ctx.cpl != 0 || !(ctx.sysenter_cs & 0xfffc)) raise_gp(0);
    const bool wide = in_code64(ctx) && in.info.operand_width == 64;
    if (wide && (!is_canonical(ctx.gpr[kRcx]) || !is_canonical(ctx.gpr[kRdx]))) raise_gp(0);
    const u64 selector = ctx.sysenter_cs & 0xfffc;
    const u64 mask = wide ? ~u64{0} : 0xffff'ffff;
    ctx.rip = ctx.gpr[kRdx] & mask;
    ctx.gpr[kRsp] = ctx.gpr[kRcx] & mask;
    ctx.segment[kSs] = flat((selector + (wide ? 40 : 24)) | 3, kData | kRing3);
    set_cs(ctx, flat((selector + (wide ? 32 : 16)) | 3, static_cast<u16>((wide ? kCode64 : kCode32) | kRing3)), 3);
}

}  // namespace vezha::engine::dbt
