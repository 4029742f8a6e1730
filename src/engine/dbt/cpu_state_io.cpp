// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "engine/dbt/apic_fabric.h"
#include "engine/dbt/control_registers.h"
#include "engine/dbt/msr.h"
#include "engine/dbt/paging.h"
#include "engine/dbt/paravirtual.h"
#include "engine/dbt/segments.h"
#include "engine/dbt/system_interface.h"

namespace vezha::engine::dbt {

using namespace x86;

CpuState to_cpu_state(Context& ctx) {
    park_vector_state(ctx);
    CpuState s;
    s.gpr = ctx.gpr;
    s.rip = ctx.rip;
    s.rflags = ctx.flags;
    s.segment = ctx.segment;
    s.tr = ctx.tr;
    s.ldtr = ctx.ldtr;
    s.gdtr = ctx.gdtr;
    s.idtr = ctx.idtr;
    s.cr0 = ctx.cr0;
    s.cr2 = ctx.cr2;
    s.cr3 = ctx.cr3;
    s.cr4 = ctx.cr4;
    s.cr8 = ctx.lapic->cr8();
    s.efer = ctx.efer;
    s.xcr0 = ctx.xcr0;
    s.dr = ctx.dr;
    s.dr6 = ctx.dr6;
    s.dr7 = ctx.dr7;
    s.apic_base = ctx.apic_base;
    s.tsc = local_apics(ctx).saved_tsc(ctx);
    s.tsc_deadline = ctx.lapic->tsc_deadline();
    for (u32 index : saved_msrs()) {
        u64 value = 0;
        if (get_msr(ctx, index, value)) s.msrs.push_back({index, value});
    }
    s.xsave = ctx.xsave;
    ctx.lapic->save(s.lapic);
    s.mp_state = ctx.mp_state;
    auto& e = s.events;
    e.exception_pending = ctx.fault.pending;
    e.exception_has_error_code = ctx.fault.has_error_code;
    e.exception_vector = ctx.fault.vector;
    e.exception_error_code = ctx.fault.error_code;
    e.exception_payload = ctx.fault.address;
    e.exception_has_payload = ctx.fault.pending && (ctx.fault.vector == kPageFault || ctx.fault.vector == kDebug);
    e.nmi_pending = ctx.nmi_pending != 0 || ctx.lapic->nmi_waiting() || (ctx.attention.load() & attention::kNmi);
    e.nmi_masked = ctx.nmi_masked;
    e.sti_shadow = ctx.sti_shadow;
    e.mov_ss_shadow = ctx.mov_ss_shadow;
    return s;
}

Result<> from_cpu_state(Context& ctx, const CpuState& s) {
    // What would break the engine's own assumptions is refused; other nonsense is the guest's own problem.
    if ((s.cr0 & cr0::kPg) && !(s.cr0 & cr0::kPe)) return fail(ErrorCode::InvalidFormat, "CR0 has paging without protection");
    const bool long_mode = s.efer & efer::kLma;
    if (long_mode && (!(s.cr0 & cr0::kPg) || !(s.cr4 & cr4::kPae) || !(s.efer & efer::kLme)))
        return fail(ErrorCode::InvalidFormat, "EFER says long mode, CR0 or CR4 do not");
    if ((s.cr0 | s.rflags) >> 32) return fail(ErrorCode::InvalidFormat, "reserved bits in CR0 or RFLAGS");
    if (s.cr4 & ~allowed_cr4(ctx))
        return fail(ErrorCode::Unsupported, "CR4 {:#x} has features that this CPU model lacks", s.cr4);
    if (const u64 extra = s.xcr0 & ~supported_xcr0(); extra || !(s.xcr0 & 1))
        return fail(ErrorCode::Unsupported, "XCR0 {:#x} is not possible on this host", s.xcr0);

    park_vector_state(ctx);
    ctx.gpr = s.gpr;
    ctx.rip = s.rip;
    ctx.flags = s.rflags | rflags::kFixed;
    ctx.segment = s.segment;
    ctx.tr = s.tr;
    ctx.ldtr = s.ldtr;
    ctx.gdtr = s.gdtr;
    ctx.idtr = s.idtr;
    ctx.cr0 = s.cr0 | cr0::kEt;
    ctx.cr2 = s.cr2;
    ctx.cr3 = s.cr3;
    ctx.cr4 = s.cr4;
    ctx.efer = s.efer;
    ctx.xcr0 = s.xcr0;
    ctx.dr = s.dr;
    ctx.dr6 = s.dr6;
    ctx.dr7 = s.dr7 | 0x400;
    ctx.apic_base = s.apic_base;
    ctx.cpl = !(s.cr0 & cr0::kPe) ? 0 : s.rflags & rflags::kVm ? 3 : static_cast<u8>(s.segment[kSs].dpl());
    if (uses_pdptes(ctx) && !load_pdptes(ctx, ctx.cr3))
        return fail(ErrorCode::InvalidFormat, "the PDPTEs at CR3 {:#x} have reserved bits", ctx.cr3);

    u64 adjust = 0;
    for (const auto& m : s.msrs)
        if (m.index == msr::kTscAdjust) adjust = m.value;
    ctx.tsc_adjust = adjust;
    local_apics(ctx).adopt_tsc(ctx, s.tsc);
    for (const auto& m : s.msrs) {
        if (m.index == msr::kTscAdjust || m.index == msr::kTsc || m.index == msr::kTscDeadline) continue;
        if (!set_msr(ctx, m.index, m.value) && m.value != 0)
            return fail(ErrorCode::Unsupported, "MSR {:#x} = {:#x} is not possible with this CPU model", m.index, m.value);
    }
    ctx.xsave = s.xsave;
    u32 mxcsr;
    std::memcpy(&mxcsr, ctx.xsave.bytes.data() + 24, sizeof mxcsr);
    mxcsr &= 0xffff;  // reserved bits would make XRSTOR fault on the host
    std::memcpy(ctx.xsave.bytes.data() + 24, &mxcsr, sizeof mxcsr);
    u64 header[8] = {};
    std::memcpy(header, ctx.xsave.bytes.data() + 512, sizeof(u64));
    header[0] &= supported_xcr0();
    std::memcpy(ctx.xsave.bytes.data() + 512, header, sizeof header);
    ctx.lapic->load(s.lapic);
    ctx.lapic->set_cr8(s.cr8);
    if (s.tsc_deadline) ctx.lapic->set_tsc_deadline(s.tsc_deadline);
    ctx.mp_state = s.mp_state;

    const auto& e = s.events;
    ctx.fault = {.pending = e.exception_pending, .vector = e.exception_vector, .has_error_code = e.exception_has_error_code,
                 .error_code = e.exception_error_code, .address = e.exception_has_payload ? e.exception_payload : ctx.cr2};
    if (e.exception_pending && e.exception_vector == kDebug && !e.exception_has_payload) ctx.fault.address = 0;
    ctx.nmi_masked = e.nmi_masked;
    ctx.sti_shadow = e.sti_shadow;
    ctx.mov_ss_shadow = e.mov_ss_shadow;
    ctx.shutdown = false;
    ctx.nmi_pending = 0;
    ctx.lapic->take_nmis();
    if (e.nmi_pending) request_attention(ctx, attention::kNmi);
    // An interrupt that was acknowledged and not delivered goes back to pend: it has the highest priority still.
    if (e.interrupt_injected && e.interrupt_vector >= 16) ctx.lapic->unacknowledge(e.interrupt_vector);
    request_attention(ctx, attention::kRecheck);
    update_mode(ctx);
    flush_tlb(ctx, FlushScope::All);
    return {};
}

}  // namespace vezha::engine::dbt
