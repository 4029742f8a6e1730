// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/exceptions.h"

#include "base/log.h"
#include "engine/dbt/paging.h"
#include "engine/dbt/segments.h"
#include "engine/dbt/system_interface.h"

namespace vezha::engine::dbt {

using namespace x86;

namespace {

/// Flags that entering a handler clears.
constexpr u64 kClearedByGate = rflags::kTf | rflags::kNt | rflags::kRf | rflags::kVm;

u64 flags_image(const Context& ctx, const Event& event) {
    // Faults push RF set so that an instruction breakpoint does not fire again (SDM vol. 3B, 17.3.1.1). #DB is here a
    // trap, except for instruction breakpoints, whose raiser has set RF in the flags.
    if (event.kind == EventKind::Fault && event.vector != kDebug && event.vector != kBreakpoint && event.vector != kOverflow)
        return ctx.flags | rflags::kRf;
    return ctx.flags;
}

void deliver_real(Context& ctx, const Event& event, u64 return_rip) {
    const u32 entry = event.vector * 4u;
    if (entry + 3 > ctx.idtr.limit) raise_gp(entry * 2 + 2);
    const u64 vector = read_linear(ctx, (ctx.idtr.base + entry) & 0xffff'ffff, 4, Privilege::ImplicitSupervisor);
    Stack stack(ctx);
    stack.push(ctx.flags & 0xffff, 2);
    stack.push(ctx.segment[kCs].selector, 2);
    stack.push(return_rip & 0xffff, 2);
    stack.commit();
    ctx.flags &= ~(rflags::kIf | rflags::kTf | rflags::kAc | rflags::kRf);
    set_real_segment(ctx, kCs, static_cast<u16>(vector >> 16));
    ctx.rip = vector & 0xffff;
    update_mode(ctx);
}

struct Gate {
    Descriptor descriptor;
    bool interrupt = false;  // clears IF
    unsigned size = 4;       // of a pushed word
};

Gate read_gate(Context& ctx, const Event& event, u32 ext) {
    const bool wide = in_long_mode(ctx);
    const u32 error = event.vector * 8u + 2 + ext;
    const u32 offset = event.vector * (wide ? 16u : 8u);
    if (offset + (wide ? 15u : 7u) > ctx.idtr.limit) raise_gp(error);
    Gate gate;
    Descriptor& d = gate.descriptor;
    u64 linear = ctx.idtr.base + offset;
    if (!wide) linear &= 0xffff'ffff;
    d.low = read_linear(ctx, linear, 8, Privilege::ImplicitSupervisor);
    if (wide) d.high = read_linear(ctx, linear + 8, 8, Privilege::ImplicitSupervisor);
    const unsigned type = d.type();
    const bool known = wide ? type == kInterruptGate || type == kTrapGate
                            : type == kInterruptGate || type == kTrapGate || type == kInterruptGate16 ||
                                  type == kTrapGate16 || type == kTaskGate;
    if (d.code_or_data() || !known) raise_gp(error);
    if (event.kind == EventKind::SoftwareInterrupt && d.dpl() < ctx.cpl) raise_gp(error);
    if (!d.present()) raise(kSegmentNotPresent, error);
    if (type == kTaskGate) {
        LOG_GUEST_ERROR("dbt", "vector {} goes through a task gate: hardware task switches are not there yet", event.vector);
        raise(kInvalidTss, (d.gate_selector() & 0xfffcu) | ext);
    }
    gate.interrupt = type == kInterruptGate || type == kInterruptGate16;
    gate.size = wide ? 8 : type & 8 ? 4 : 2;
    return gate;
}

void push_v86_segments(Context& ctx, Stack& stack, unsigned size) {
    for (SegmentIndex index : {kGs, kFs, kDs, kEs}) stack.push(ctx.segment[index].selector, size);
}

void deliver_protected(Context& ctx, const Event& event, u64 return_rip) {
    const u32 ext = event.kind == EventKind::SoftwareInterrupt ? 0 : 1;
    const bool wide = in_long_mode(ctx);
    const bool v86 = v86_mode(ctx);
    Gate gate = read_gate(ctx, event, ext);
    const u16 selector = gate.descriptor.gate_selector();
    if ((selector & 0xfffc) == 0) raise_gp(ext);
    const u32 cs_error = (selector & 0xfffcu) | ext;
    Descriptor code = read_descriptor(ctx, selector, kGeneralProtection, ext);
    if (!code.code() || code.dpl() > ctx.cpl) raise_gp(cs_error);
    if (wide && (!code.long_mode() || code.default32())) raise_gp(cs_error);
    if (!code.present()) raise(kSegmentNotPresent, cs_error);
    const unsigned new_cpl = code.conforming() ? ctx.cpl : code.dpl();
    if (v86 && new_cpl != 0) raise_gp(cs_error);
    const bool inner = new_cpl != ctx.cpl;
    const unsigned size = gate.size;
    const u64 image = flags_image(ctx, event);
    const u64 offset = gate.descriptor.gate_offset(wide);

    Segment ss = ctx.segment[kSs];
    u64 sp = ctx.gpr[kRsp];
    const unsigned ist = wide ? gate.descriptor.low >> 32 & 7 : 0;
    if (inner || ist) {
        const InnerStack stack = inner_stack(ctx, new_cpl, ist, ext);
        sp = stack.sp;
        if (inner || !wide) ss = stack.ss;
    }
    if (wide) sp &= ~u64{15};
    const Privilege privilege = new_cpl == 3 ? Privilege::User : Privilege::Supervisor;
    Stack stack(ctx, ss, sp, wide, privilege, inner ? (ss.selector & 0xfffcu) | ext : ext);
    if (inner && v86) push_v86_segments(ctx, stack, size);
    if (inner || wide) {
        stack.push(ctx.segment[kSs].selector, size);
        stack.push(ctx.gpr[kRsp], size);
    }
    stack.push(image, size);
    stack.push(ctx.segment[kCs].selector, size);
    stack.push(return_rip, size);
    if (event.has_error_code) stack.push(event.error_code, size);
    const Segment cs = code.segment(static_cast<u16>((selector & 0xfffc) | new_cpl));
    check_target(cs, wide, offset);
    set_accessed(ctx, code);

    ctx.segment[kSs] = ss;
    stack.commit();
    ctx.flags &= ~kClearedByGate;
    if (gate.interrupt) ctx.flags &= ~rflags::kIf;
    if (v86)
        for (SegmentIndex index : {kGs, kFs, kDs, kEs}) ctx.segment[index] = {};
    ctx.rip = offset;
    set_cs(ctx, code.segment(static_cast<u16>((selector & 0xfffc) | new_cpl)), new_cpl);
}

/// How a second fault during delivery combines with the first (SDM vol. 3A, table 6-5).
enum class Class : u8 { Benign, Contributory, PageFault, DoubleFault };

Class classify(const Event& event) {
    if (event.kind != EventKind::Fault) return Class::Benign;
    switch (event.vector) {
        case kDivideError:
        case kInvalidTss:
        case kSegmentNotPresent:
        case kStackFault:
        case kGeneralProtection: return Class::Contributory;
        case kPageFault: return Class::PageFault;
        case kDoubleFault: return Class::DoubleFault;
        default: return Class::Benign;
    }
}

void deliver_until_done(Context& ctx, Event event) {
    // Each round is one exception met while delivering the one before; ends by delivery or shutdown.
    for (int round = 0; round < 8; ++round) {
        try {
            deliver_event(ctx, event, ctx.rip);
            return;
        } catch (const GuestFault& nested) {
            const Fault& f = nested.fault;
            if (f.vector == kPageFault) ctx.cr2 = f.address;
            const Event next{.vector = f.vector, .kind = EventKind::Fault, .has_error_code = f.has_error_code,
                             .error_code = f.error_code};
            const Class first = classify(event), second = classify(next);
            if (first == Class::DoubleFault && second != Class::Benign) break;
            const bool doubled = (first == Class::Contributory && second == Class::Contributory) ||
                                 (first == Class::PageFault && second != Class::Benign);
            event = doubled ? Event{.vector = kDoubleFault, .kind = EventKind::Fault, .has_error_code = true} : next;
        }
    }
    log_info("dbt", "triple fault at rip {:#x}, vector {}, cr2 {:#x}", ctx.rip, event.vector, ctx.cr2);
    ctx.shutdown = true;
}

}  // namespace

void deliver_event(Context& ctx, const Event& event, u64 return_rip) {
    if (real_mode(ctx)) deliver_real(ctx, event, return_rip);
    else deliver_protected(ctx, event, return_rip);
    ctx.sti_shadow = ctx.mov_ss_shadow = false;
}

void deliver_external(Context& ctx, u8 vector, EventKind kind) {
    deliver_until_done(ctx, {.vector = vector, .kind = kind});
}

Fault debug_fault(u64 dr6_bits) { return {.pending = true, .vector = kDebug, .address = dr6_bits}; }

void deliver_fault(Context& ctx) {
    const Fault fault = ctx.fault;
    ctx.fault = {};
    if (ctx.mp_state == MpState::Halted) ctx.mp_state = MpState::Runnable;  // a trap after HLT
    if (fault.vector == kPageFault) ctx.cr2 = fault.address;
    if (fault.vector == kDebug) {
        // B0-B3, BD, BS, BT are sticky but for B0-B3, which say what matched this time.
        ctx.dr6 = (ctx.dr6 & ~u64{15}) | fault.address;
        ctx.dr7 &= ~(u64{1} << 13);  // GD
    }
    Event event{.vector = fault.vector, .kind = EventKind::Fault, .has_error_code = fault.has_error_code,
                .error_code = fault.error_code};
    if (real_mode(ctx)) event.has_error_code = false;
    deliver_until_done(ctx, event);
}

void init_reset(Context& ctx) {
    const u32 version = ctx.cpuid.query(1, 0).eax;
    ctx.gpr = {};
    ctx.gpr[kRdx] = version;
    ctx.rip = 0xfff0;
    ctx.flags = rflags::kFixed;
    for (auto& s : ctx.segment) s = real_mode_segment(0);
    ctx.segment[kCs] = {0xf000, 0x9b, 0xffff, 0xffff'0000};
    ctx.tr = {0, 0x8b, 0xffff, 0};
    ctx.ldtr = {0, 0x82, 0xffff, 0};
    ctx.gdtr = ctx.idtr = {0, 0xffff};
    ctx.cr0 = (ctx.cr0 & (cr0::kCd | cr0::kNw)) | cr0::kEt;
    ctx.cr2 = ctx.cr3 = ctx.cr4 = ctx.efer = 0;
    ctx.dr = {};
    ctx.dr6 = 0xffff'0ff0;
    ctx.dr7 = 0x400;
    ctx.cpl = 0;
    ctx.sti_shadow = ctx.mov_ss_shadow = ctx.nmi_masked = false;
    ctx.fault = {};
    update_mode(ctx);
    flush_tlb(ctx, FlushScope::All);
}

}  // namespace vezha::engine::dbt
