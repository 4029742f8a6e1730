// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/paging.h"
#include "engine/dbt/segments.h"
#include "engine/dbt/system_interface.h"

namespace vezha::engine::dbt {

using namespace x86;

namespace {

u32 error_of(u16 selector) { return selector & 0xfffcu; }
bool null_selector(u16 selector) { return (selector & 0xfffc) == 0; }

/// L and D together are reserved in a code segment; L means nothing outside long mode.
void check_code_form(const Context& ctx, const Descriptor& d, u16 selector, u32 ext = 0) {
    if (!d.code() || (in_long_mode(ctx) && d.long_mode() && d.default32())) raise_gp(error_of(selector) | ext);
}

Segment code_segment(const Descriptor& d, u16 selector, unsigned cpl) {
    return d.segment(static_cast<u16>((selector & 0xfffc) | cpl));
}

bool is_code64(const Context& ctx, const Segment& cs) { return in_long_mode(ctx) && cs.long_mode(); }

/// A direct far JMP or CALL to a code segment: the CPL stays.
Segment direct_target(Context& ctx, u16 selector, Descriptor& d) {
    check_code_form(ctx, d, selector);
    const unsigned rpl = selector & 3;
    if (d.conforming() ? d.dpl() > ctx.cpl : rpl > ctx.cpl || d.dpl() != ctx.cpl) raise_gp(error_of(selector));
    if (!d.present()) raise(kSegmentNotPresent, error_of(selector));
    return code_segment(d, selector, ctx.cpl);
}

struct GateTarget {
    Descriptor code;
    u16 selector = 0;
    u64 offset = 0;
    unsigned size = 4;  // of a pushed word
};

GateTarget read_call_gate(Context& ctx, u16 selector, Descriptor& gate) {
    const unsigned rpl = selector & 3;
    if (gate.dpl() < ctx.cpl || rpl > gate.dpl()) raise_gp(error_of(selector));
    if (!gate.present()) raise(kSegmentNotPresent, error_of(selector));
    GateTarget t;
    const bool wide = in_long_mode(ctx);
    if (wide) read_upper_half(ctx, selector, gate);
    t.size = wide ? 8 : gate.type() == kCallGate ? 4 : 2;
    t.selector = gate.gate_selector();
    t.offset = gate.gate_offset(wide);
    if (null_selector(t.selector)) raise_gp(0);
    t.code = read_descriptor(ctx, t.selector);
    check_code_form(ctx, t.code, t.selector);
    if (t.code.dpl() > ctx.cpl || (wide && !t.code.long_mode())) raise_gp(error_of(t.selector));
    if (!t.code.present()) raise(kSegmentNotPresent, error_of(t.selector));
    return t;
}

bool is_call_gate(const Context& ctx, const Descriptor& d) {
    return !d.code_or_data() && (d.type() == kCallGate || (d.type() == kCallGate16 && !in_long_mode(ctx)));
}

/// After a return to an outer ring, data segments that the new CPL may not use become null (SDM vol. 3A, 5.8.6).
void drop_privileged_segments(Context& ctx) {
    for (SegmentIndex index : {kEs, kDs, kFs, kGs}) {
        Segment& s = ctx.segment[index];
        const bool conforming_code = (s.type() & 0xc) == 0xc;
        if (s.unusable() || (!conforming_code && s.dpl() < ctx.cpl))
            s = {.selector = 0, .attributes = 0, .limit = 0, .base = s.base};
    }
}

/// The common tail of RET far and IRET: checks the popped CS.
Segment return_target(Context& ctx, u16 selector, u64 rip) {
    if (null_selector(selector)) raise_gp(0);
    Descriptor d = read_descriptor(ctx, selector);
    check_code_form(ctx, d, selector);
    const unsigned rpl = selector & 3;
    if (rpl < ctx.cpl || (d.conforming() ? d.dpl() > rpl : d.dpl() != rpl)) raise_gp(error_of(selector));
    if (!d.present()) raise(kSegmentNotPresent, error_of(selector));
    const Segment cs = d.segment(selector);
    check_target(cs, is_code64(ctx, cs), rip);
    set_accessed(ctx, d);
    return d.segment(selector);
}

/// SS for a return to CPL `rpl` into `cs`.
Segment return_stack_segment(Context& ctx, u16 selector, unsigned rpl, const Segment& cs) {
    if (null_selector(selector)) {
        if (!is_code64(ctx, cs) || rpl == 3 || (selector & 3) != rpl) raise_gp(0);
        return {.selector = selector, .attributes = static_cast<u16>(rpl << 5)};
    }
    Descriptor d = read_descriptor(ctx, selector);
    if ((selector & 3) != rpl || !d.writable() || d.dpl() != rpl) raise_gp(error_of(selector));
    if (!d.present()) raise(kStackFault, error_of(selector));
    set_accessed(ctx, d);
    return d.segment(selector);
}

void set_stack_pointer(Context& ctx, const Segment& ss, u64 sp, bool code64) {
    if (code64) ctx.gpr[kRsp] = sp;
    else if (ss.default32()) ctx.gpr[kRsp] = sp & 0xffff'ffff;
    else ctx.gpr[kRsp] = (ctx.gpr[kRsp] & ~u64{0xffff}) | (sp & 0xffff);
}

constexpr u64 kPopfMask = rflags::kArithmetic | rflags::kTf | rflags::kDf | rflags::kNt;

void real_interrupt_return(Context& ctx, unsigned size) {
    if (v86_mode(ctx) && iopl(ctx) < 3) raise_gp(0);
    Stack stack(ctx);
    const u64 rip = stack.pop(size);
    const auto cs = static_cast<u16>(stack.pop(size));
    const u64 image = stack.pop(size);
    check_target(ctx.segment[kCs], false, rip);
    u64 mask = kPopfMask | rflags::kIf;
    if (!v86_mode(ctx)) mask |= rflags::kIopl;
    if (size == 4) mask |= rflags::kRf | rflags::kAc | rflags::kId;
    stack.commit();
    ctx.flags = (ctx.flags & ~mask) | (image & mask) | rflags::kFixed;
    if (size == 2) ctx.flags &= ~rflags::kRf;
    set_real_segment(ctx, kCs, cs);
    ctx.rip = rip;
    update_mode(ctx);
}

void return_to_v86(Context& ctx, Stack& stack, u64 rip, u16 cs, u64 image) {
    const u64 sp = stack.pop(4);
    std::array<u16, 6> selectors{};
    selectors[kSs] = static_cast<u16>(stack.pop(4));
    for (SegmentIndex index : {kEs, kDs, kFs, kGs}) selectors[index] = static_cast<u16>(stack.pop(4));
    selectors[kCs] = cs;
    if (rip > 0xffff) raise_gp(0);
    constexpr u64 kMask = kPopfMask | rflags::kIf | rflags::kIopl | rflags::kVm | rflags::kRf | rflags::kAc | rflags::kId |
                          rflags::kVif | rflags::kVip;
    ctx.flags = (ctx.flags & ~kMask) | (image & kMask) | rflags::kFixed;
    for (u8 i = 0; i < kSegments; ++i) set_real_segment(ctx, static_cast<SegmentIndex>(i), selectors[i]);
    ctx.gpr[kRsp] = sp & 0xffff'ffff;
    ctx.rip = rip & 0xffff;
    ctx.cpl = 3;
    update_mode(ctx);
}

}  // namespace

void far_jump(Context& ctx, u16 selector, u64 offset, unsigned size) {
    offset &= mask_bytes(size);
    if (real_or_v86(ctx)) {
        check_target(ctx.segment[kCs], false, offset);
        set_real_segment(ctx, kCs, selector);
        ctx.rip = offset;
        update_mode(ctx);
        return;
    }
    if (null_selector(selector)) raise_gp(0);
    Descriptor d = read_descriptor(ctx, selector);
    if (d.code_or_data()) {
        const Segment cs = direct_target(ctx, selector, d);
        check_target(cs, is_code64(ctx, cs), offset);
        set_accessed(ctx, d);
        set_cs(ctx, code_segment(d, selector, ctx.cpl), ctx.cpl);
        ctx.rip = offset;
        return;
    }
    if (!is_call_gate(ctx, d)) raise_gp(error_of(selector));  // hardware task switches: not yet
    GateTarget t = read_call_gate(ctx, selector, d);
    if (!t.code.conforming() && t.code.dpl() != ctx.cpl) raise_gp(error_of(t.selector));
    const Segment cs = code_segment(t.code, t.selector, ctx.cpl);
    check_target(cs, is_code64(ctx, cs), t.offset);
    set_accessed(ctx, t.code);
    set_cs(ctx, code_segment(t.code, t.selector, ctx.cpl), ctx.cpl);
    ctx.rip = t.offset;
}

void far_call(Context& ctx, u16 selector, u64 offset, unsigned size, u64 return_rip) {
    offset &= mask_bytes(size);
    const u16 old_cs = ctx.segment[kCs].selector;
    if (real_or_v86(ctx)) {
        Stack stack(ctx);
        stack.push(old_cs, size);
        stack.push(return_rip, size);
        check_target(ctx.segment[kCs], false, offset);
        stack.commit();
        set_real_segment(ctx, kCs, selector);
        ctx.rip = offset;
        update_mode(ctx);
        return;
    }
    if (null_selector(selector)) raise_gp(0);
    Descriptor d = read_descriptor(ctx, selector);
    if (d.code_or_data()) {
        const Segment cs = direct_target(ctx, selector, d);
        check_target(cs, is_code64(ctx, cs), offset);
        Stack stack(ctx);
        stack.push(old_cs, size);
        stack.push(return_rip, size);
        set_accessed(ctx, d);
        stack.commit();
        set_cs(ctx, code_segment(d, selector, ctx.cpl), ctx.cpl);
        ctx.rip = offset;
        return;
    }
    if (!is_call_gate(ctx, d)) raise_gp(error_of(selector));
    const unsigned parameters = d.low >> 32 & 0x1f;
    GateTarget t = read_call_gate(ctx, selector, d);
    const unsigned new_cpl = t.code.conforming() ? ctx.cpl : t.code.dpl();
    const Segment cs = code_segment(t.code, t.selector, new_cpl);
    const bool code64 = is_code64(ctx, cs);
    if (new_cpl == ctx.cpl) {
        check_target(cs, code64, t.offset);
        Stack stack(ctx, ctx.segment[kSs], ctx.gpr[kRsp], code64, current_privilege(ctx));
        stack.push(old_cs, t.size);
        stack.push(return_rip, t.size);
        set_accessed(ctx, t.code);
        stack.commit();
    } else {
        const InnerStack inner = inner_stack(ctx, new_cpl, 0, 0);
        check_target(cs, code64, t.offset);
        Stack outer(ctx);
        Stack stack(ctx, inner.ss, inner.sp, code64, Privilege::Supervisor, inner.ss.selector & 0xfffcu);
        stack.push(ctx.segment[kSs].selector, t.size);
        stack.push(ctx.gpr[kRsp] & mask_bytes(t.size), t.size);
        if (!in_long_mode(ctx))
            for (unsigned i = parameters; i-- > 0;) stack.push(outer.peek(u64{i} * t.size, t.size), t.size);
        stack.push(old_cs, t.size);
        stack.push(return_rip, t.size);
        set_accessed(ctx, t.code);
        ctx.segment[kSs] = inner.ss;
        stack.commit();
    }
    set_cs(ctx, code_segment(t.code, t.selector, new_cpl), new_cpl);
    ctx.rip = t.offset;
}

void far_return(Context& ctx, unsigned size, u16 release) {
    Stack stack(ctx);
    const u64 rip = stack.pop(size);
    const auto selector = static_cast<u16>(stack.pop(size));
    if (real_or_v86(ctx)) {
        check_target(ctx.segment[kCs], false, rip);
        stack.skip(release);
        stack.commit();
        set_real_segment(ctx, kCs, selector);
        ctx.rip = rip;
        update_mode(ctx);
        return;
    }
    const Segment cs = return_target(ctx, selector, rip);
    const unsigned rpl = selector & 3;
    stack.skip(release);
    if (rpl == ctx.cpl) {
        stack.commit();
        set_cs(ctx, cs, rpl);
        ctx.rip = rip;
        return;
    }
    const u64 sp = stack.pop(size);
    const auto ss_selector = static_cast<u16>(stack.pop(size));
    const Segment ss = return_stack_segment(ctx, ss_selector, rpl, cs);
    ctx.segment[kSs] = ss;
    set_cs(ctx, cs, rpl);
    ctx.rip = rip;
    set_stack_pointer(ctx, ss, sp + release, is_code64(ctx, cs));
    drop_privileged_segments(ctx);
    update_mode(ctx);
}

void interrupt_return(Context& ctx, unsigned size) {
    if (real_or_v86(ctx)) {
        real_interrupt_return(ctx, size);
        ctx.nmi_masked = false;
        return;
    }
    if (ctx.flags & rflags::kNt) {
        // The long mode IRET has no tasks to return to; in protected mode task switches are not there yet.
        raise_gp(0);
    }
    Stack stack(ctx);
    const u64 rip = stack.pop(size);
    const auto selector = static_cast<u16>(stack.pop(size));
    const u64 image = stack.pop(size);
    if ((image & rflags::kVm) && ctx.cpl == 0 && !in_long_mode(ctx) && size == 4) {
        return_to_v86(ctx, stack, rip, selector, image);
        ctx.nmi_masked = false;
        return;
    }
    const Segment cs = return_target(ctx, selector, rip);
    const unsigned rpl = selector & 3;
    const bool outer = rpl != ctx.cpl;
    u64 mask = kPopfMask;
    if (size >= 4) mask |= rflags::kRf | rflags::kAc | rflags::kId;
    if (ctx.cpl <= iopl(ctx)) mask |= rflags::kIf;
    if (ctx.cpl == 0) {
        mask |= rflags::kIopl;
        if (size >= 4) mask |= rflags::kVif | rflags::kVip;
    }
    // 64-bit code always pops SS:RSP.
    if (outer || in_code64(ctx)) {
        const u64 sp = stack.pop(size);
        const auto ss_selector = static_cast<u16>(stack.pop(size));
        const Segment ss = return_stack_segment(ctx, ss_selector, rpl, cs);
        ctx.segment[kSs] = ss;
        set_stack_pointer(ctx, ss, sp, is_code64(ctx, cs));
    } else {
        stack.commit();
    }
    ctx.flags = (ctx.flags & ~mask) | (image & mask) | rflags::kFixed;
    if (size == 2) ctx.flags &= ~rflags::kRf;
    ctx.rip = rip;
    ctx.segment[kCs] = cs;
    ctx.cpl = static_cast<u8>(rpl);
    if (outer) drop_privileged_segments(ctx);
    ctx.nmi_masked = false;
    update_mode(ctx);
}

}  // namespace vezha::engine::dbt
