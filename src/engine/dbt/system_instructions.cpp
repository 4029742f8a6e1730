// SPDX-License-Identifier: Apache-2.0
#include <Zydis/Mnemonic.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "engine/dbt/apic_fabric.h"
#include "engine/dbt/control_registers.h"
#include "engine/dbt/exceptions.h"
#include "engine/dbt/fast_calls.h"
#include "engine/dbt/legacy_instructions.h"
#include "engine/dbt/linear_memory.h"
#include "engine/dbt/msr.h"
#include "engine/dbt/operands.h"
#include "engine/dbt/paging.h"
#include "engine/dbt/paravirtual.h"
#include "engine/dbt/port_io.h"
#include "engine/dbt/tsc.h"

namespace vezha::engine::dbt {

using namespace x86;

namespace {

void require_cpl0(const Context& ctx) {
    if (ctx.cpl != 0) raise_gp(0);
}

/// #GP for SGDT, SIDT, SLDT, STR, SMSW outside ring 0 with CR4.UMIP.
void require_not_umip(const Context& ctx) {
    if ((ctx.cr4 & cr4::kUmip) && ctx.cpl != 0) raise_gp(0);
}

void require_protected(const Context& ctx) {
    if (real_or_v86(ctx)) raise_ud();
}

/// After IF may have become set, or an interrupt may have become acceptable: asks the vCPU loop to look.
void look_for_interrupts(Context& ctx) {
    if ((ctx.flags & rflags::kIf) && ctx.lapic && (ctx.lapic->pending_vector() >= 0 || ctx.lapic->accepts_ext_int()))
        ctx.attention.fetch_or(attention::kRecheck);
}

unsigned operand_bytes(const Instruction& in) { return in.info.operand_width / 8; }

bool is_between(ZydisRegister reg, ZydisRegister first, ZydisRegister last) { return reg >= first && reg <= last; }
bool is_segment(const ZydisDecodedOperand& o) {
    return o.type == ZYDIS_OPERAND_TYPE_REGISTER && is_between(o.reg.value, ZYDIS_REGISTER_ES, ZYDIS_REGISTER_GS);
}
bool is_control(const ZydisDecodedOperand& o) {
    return o.type == ZYDIS_OPERAND_TYPE_REGISTER && is_between(o.reg.value, ZYDIS_REGISTER_CR0, ZYDIS_REGISTER_CR15);
}
bool is_debug(const ZydisDecodedOperand& o) {
    return o.type == ZYDIS_OPERAND_TYPE_REGISTER && is_between(o.reg.value, ZYDIS_REGISTER_DR0, ZYDIS_REGISTER_DR15);
}
SegmentIndex segment_of(ZydisRegister reg) { return static_cast<SegmentIndex>(reg - ZYDIS_REGISTER_ES); }

void check_general_detect(Context& ctx) {
    if (ctx.dr7 & (1 << 13)) throw GuestFault{debug_fault(1 << 13)};
}

Outcome mov(Context& ctx, const Instruction& in) {
    const auto& to = in.operands[0];
    const auto& from = in.operands[1];
    const unsigned wide = in_code64(ctx) ? 8 : 4;
    if (is_control(to)) {
        require_cpl0(ctx);
        write_control(ctx, static_cast<unsigned>(to.reg.value - ZYDIS_REGISTER_CR0),
                      read_register(ctx, from.reg.value) & mask_bytes(wide));
        look_for_interrupts(ctx);
        ctx.rip = next_rip(ctx, in);
        return Outcome::Jumped;
    }
    if (is_control(from)) {
        require_cpl0(ctx);
        write_register(ctx, to.reg.value, read_control(ctx, static_cast<unsigned>(from.reg.value - ZYDIS_REGISTER_CR0)));
        return Outcome::Next;
    }
    if (is_debug(to) || is_debug(from)) {
        const auto index = static_cast<unsigned>((is_debug(to) ? to : from).reg.value - ZYDIS_REGISTER_DR0);
        if (index > 7) raise_ud();
        require_cpl0(ctx);
        check_general_detect(ctx);
        if (is_debug(to)) write_debug(ctx, index, read_register(ctx, from.reg.value) & mask_bytes(wide));
        else write_register(ctx, to.reg.value, read_debug(ctx, index));
        return Outcome::Next;
    }
    if (is_segment(to)) {
        const SegmentIndex index = segment_of(to.reg.value);
        if (index == kCs) raise_ud();
        load_segment(ctx, index, static_cast<u16>(read_operand(ctx, in, from, 2)));
        if (index == kSs) ctx.mov_ss_shadow = true;
        return Outcome::Next;
    }
    if (is_segment(from)) {
        const u16 selector = ctx.segment[segment_of(from.reg.value)].selector;
        const unsigned size = to.type == ZYDIS_OPERAND_TYPE_REGISTER ? to.size / 8 : 2;
        write_operand(ctx, in, to, size, selector);
        return Outcome::Next;
    }
    raise_ud();
}

Outcome push_segment(Context& ctx, const Instruction& in) {
    Stack stack(ctx);
    stack.push(ctx.segment[segment_of(in.operands[0].reg.value)].selector, operand_bytes(in));
    stack.commit();
    return Outcome::Next;
}

Outcome pop_segment(Context& ctx, const Instruction& in) {
    const SegmentIndex index = segment_of(in.operands[0].reg.value);
    Stack stack(ctx);
    const auto selector = static_cast<u16>(stack.pop(operand_bytes(in)));
    load_segment(ctx, index, selector);  // POP SS pops by the old stack size
    stack.commit();
    if (index == kSs) ctx.mov_ss_shadow = true;
    return Outcome::Next;
}

Outcome load_far_pointer(Context& ctx, const Instruction& in, SegmentIndex index) {
    const unsigned size = in.operands[0].size / 8;
    const u64 linear = operand_linear(ctx, in, in.operands[1], size + 2, false);
    const u64 offset = read_linear(ctx, linear, size, current_privilege(ctx));
    const auto selector = static_cast<u16>(read_linear(ctx, linear + size, 2, current_privilege(ctx)));
    load_segment(ctx, index, selector);
    write_register(ctx, in.operands[0].reg.value, offset);
    return Outcome::Next;
}

// ---- flags -------------------------------------------------------------------------------------------------------

void require_iopl(const Context& ctx) {
    if (real_mode(ctx)) return;
    if (v86_mode(ctx) ? iopl(ctx) < 3 : ctx.cpl > iopl(ctx)) raise_gp(0);
}

Outcome push_flags(Context& ctx, const Instruction& in) {
    if (v86_mode(ctx) && iopl(ctx) < 3) raise_gp(0);
    Stack stack(ctx);
    stack.push(ctx.flags & ~(rflags::kVm | rflags::kRf), operand_bytes(in));
    stack.commit();
    return Outcome::Next;
}

Outcome pop_flags(Context& ctx, const Instruction& in) {
    if (v86_mode(ctx) && iopl(ctx) < 3) raise_gp(0);
    const unsigned size = operand_bytes(in);
    Stack stack(ctx);
    const u64 image = stack.pop(size);
    u64 mask = rflags::kArithmetic | rflags::kTf | rflags::kDf | rflags::kNt;
    if (size > 2) mask |= rflags::kAc | rflags::kId;
    if (real_mode(ctx) || v86_mode(ctx) || ctx.cpl <= iopl(ctx)) mask |= rflags::kIf;
    if (ctx.cpl == 0) mask |= rflags::kIopl;
    stack.commit();
    ctx.flags = (ctx.flags & ~mask & ~rflags::kRf) | (image & mask) | rflags::kFixed;
    update_mode(ctx);
    look_for_interrupts(ctx);
    return Outcome::Next;
}

Outcome set_interrupt_flag(Context& ctx) {
    require_iopl(ctx);
    if (!(ctx.flags & rflags::kIf)) ctx.sti_shadow = true;
    ctx.flags |= rflags::kIf;
    look_for_interrupts(ctx);
    return Outcome::Next;
}

Outcome set_ac(Context& ctx, bool on) {
    if (ctx.cpl != 0 || !(ctx.cpuid.query(7, 0).ebx >> 20 & 1)) raise_ud();
    ctx.flags = on ? ctx.flags | rflags::kAc : ctx.flags & ~rflags::kAc;
    update_mode(ctx);
    return Outcome::Next;
}

// ---- descriptor tables -------------------------------------------------------------------------------------------

Outcome load_table(Context& ctx, const Instruction& in, DescriptorTable& table) {
    require_cpl0(ctx);
    const unsigned base_size = in_code64(ctx) ? 8 : 4;
    const u64 linear = operand_linear(ctx, in, in.operands[0], 2 + base_size, false);
    const auto limit = static_cast<u16>(read_linear(ctx, linear, 2, current_privilege(ctx)));
    u64 base = read_linear(ctx, linear + 2, base_size, current_privilege(ctx));
    if (base_size == 8 && !is_canonical(base)) raise_gp(0);
    if (base_size == 4 && in.info.operand_width == 16) base &= 0xff'ffff;
    table = {.base = base, .limit = limit};
    return Outcome::Next;
}

Outcome store_table(Context& ctx, const Instruction& in, const DescriptorTable& table) {
    require_not_umip(ctx);
    const unsigned base_size = in_code64(ctx) ? 8 : 4;
    const u64 linear = operand_linear(ctx, in, in.operands[0], 2 + base_size, true);
    check_writable(ctx, linear, 2 + base_size, current_privilege(ctx));
    write_linear(ctx, linear, 2, table.limit, current_privilege(ctx));
    write_linear(ctx, linear + 2, base_size, table.base, current_privilege(ctx));
    return Outcome::Next;
}

/// SLDT, STR, SMSW: 16 bits to memory, the operand size to a register.
Outcome store_word(Context& ctx, const Instruction& in, u64 value) {
    require_not_umip(ctx);
    const auto& to = in.operands[0];
    write_operand(ctx, in, to, to.type == ZYDIS_OPERAND_TYPE_REGISTER ? to.size / 8 : 2, value);
    return Outcome::Next;
}

Outcome load_machine_status(Context& ctx, const Instruction& in) {
    require_cpl0(ctx);
    const u64 value = read_operand(ctx, in, in.operands[0], 2);
    write_cr0(ctx, (ctx.cr0 & ~u64{0xe}) | (value & 0xf));  // PE can be set but not cleared
    ctx.rip = next_rip(ctx, in);
    return Outcome::Jumped;
}

// ---- translations ------------------------------------------------------------------------------------------------

Outcome invalidate_pcid(Context& ctx, const Instruction& in) {
    if (!(ctx.cpuid.query(7, 0).ebx >> 10 & 1)) raise_ud();
    require_cpl0(ctx);
    const u64 type = read_register(ctx, in.operands[0].reg.value);
    const u64 at = operand_linear(ctx, in, in.operands[1], 16, false);
    const u64 pcid = read_linear(ctx, at, 8, current_privilege(ctx));
    const u64 linear = read_linear(ctx, at + 8, 8, current_privilege(ctx));
    if (type > 3) raise_gp(0);
    if (type < 2 && (pcid >> 12 || (!(ctx.cr4 & cr4::kPcide) && pcid != 0))) raise_gp(0);
    if (type == 0 && !is_canonical(linear)) raise_gp(0);
    flush_tlb(ctx, type == 0 ? FlushScope::Page : type == 2 ? FlushScope::All : FlushScope::NonGlobal, linear);
    return Outcome::Next;
}

Outcome invalidate_page(Context& ctx, const Instruction& in) {
    require_cpl0(ctx);
    const u64 offset = effective_offset(ctx, in, in.operands[0]);
    const SegmentIndex index = operand_segment(in.operands[0]);
    u64 linear = offset + (!in_code64(ctx) || index >= kFs ? ctx.segment[index].base : 0);
    if (!in_code64(ctx)) linear &= 0xffff'ffff;
    if (is_canonical(linear)) flush_tlb(ctx, FlushScope::Page, linear);
    return Outcome::Next;
}

// ---- MSRs and their like -----------------------------------------------------------------------------------------

void set_edx_eax(Context& ctx, u64 value) {
    ctx.gpr[kRax] = value & 0xffff'ffff;
    ctx.gpr[kRdx] = value >> 32;
}
u64 edx_eax(const Context& ctx) { return (ctx.gpr[kRax] & 0xffff'ffff) | ctx.gpr[kRdx] << 32; }

Outcome read_model_register(Context& ctx) {
    require_cpl0(ctx);
    u64 value = 0;
    if (!read_msr(ctx, static_cast<u32>(ctx.gpr[kRcx]), value)) {
        log_debug("dbt", "rdmsr {:#x}: #GP", static_cast<u32>(ctx.gpr[kRcx]));
        raise_gp(0);
    }
    set_edx_eax(ctx, value);
    return Outcome::Next;
}

Outcome write_model_register(Context& ctx) {
    require_cpl0(ctx);
    if (!write_msr(ctx, static_cast<u32>(ctx.gpr[kRcx]), edx_eax(ctx))) {
        log_debug("dbt", "wrmsr {:#x} = {:#x}: #GP", static_cast<u32>(ctx.gpr[kRcx]), edx_eax(ctx));
        raise_gp(0);
    }
    return Outcome::Next;
}

Outcome read_time_stamp(Context& ctx, bool with_aux) {
    if (with_aux && !(ctx.cpuid.query(0x80000001, 0).edx >> 27 & 1)) raise_ud();
    if ((ctx.cr4 & cr4::kTsd) && ctx.cpl != 0) raise_gp(0);
    set_edx_eax(ctx, guest_tsc(ctx));
    if (with_aux) ctx.gpr[kRcx] = ctx.tsc_aux & 0xffff'ffff;
    return Outcome::Next;
}

Outcome cpuid(Context& ctx) {
    const auto leaf = static_cast<u32>(ctx.gpr[kRax]);
    const auto subleaf = static_cast<u32>(ctx.gpr[kRcx]);
    CpuidRegisters r = ctx.cpuid.query(leaf, subleaf);
    // What follows the processor's present state.
    if (leaf == 1) {
        r.ecx = (r.ecx & ~(1u << 27)) | (ctx.cr4 & cr4::kOsxsave ? 1u << 27 : 0);
        if (!(ctx.apic_base & apic_base::kEnable)) r.edx &= ~(1u << 9);
    } else if (leaf == 7 && subleaf == 0) {
        r.ecx = (r.ecx & ~(1u << 4)) | (ctx.cr4 & cr4::kPke ? 1u << 4 : 0);
    } else if (leaf == 0xd && subleaf <= 1 && ctx.cpuid.find(0xd)) {
        u32 size = 576, compacted = 576;
        for (u32 bit = 2; bit < 32; ++bit) {
            if (!(ctx.xcr0 >> bit & 1)) continue;
            const auto component = ctx.cpuid.query(0xd, bit);
            size = std::max(size, component.eax + component.ebx);
            if (component.ecx & 2) compacted = static_cast<u32>(align_up(compacted, 64));
            compacted += component.eax;
        }
        if (subleaf == 0) r.ebx = size;
        else if (r.eax & 0xa) r.ebx = compacted;
    }
    ctx.gpr[kRax] = r.eax;
    ctx.gpr[kRbx] = r.ebx;
    ctx.gpr[kRcx] = r.ecx;
    ctx.gpr[kRdx] = r.edx;
    return Outcome::Next;
}

Outcome xgetbv(Context& ctx) {
    if (!(ctx.cr4 & cr4::kOsxsave)) raise_ud();
    switch (static_cast<u32>(ctx.gpr[kRcx])) {
        case 0: set_edx_eax(ctx, ctx.xcr0); return Outcome::Next;
        case 1: {
            if (!(ctx.cpuid.query(0xd, 1).eax & 4)) raise_gp(0);
            park_vector_state(ctx);
            u64 in_use;
            std::memcpy(&in_use, ctx.xsave.bytes.data() + 512, sizeof in_use);
            set_edx_eax(ctx, in_use & ctx.xcr0);
            return Outcome::Next;
        }
        default: raise_gp(0);
    }
}

Outcome xsetbv(Context& ctx) {
    if (!(ctx.cr4 & cr4::kOsxsave)) raise_ud();
    require_cpl0(ctx);
    if (static_cast<u32>(ctx.gpr[kRcx]) != 0) raise_gp(0);
    park_vector_state(ctx);
    write_xcr0(ctx, edx_eax(ctx));
    return Outcome::Next;
}

Outcome segment_base(Context& ctx, const Instruction& in, SegmentIndex index, bool write) {
    if (!in_code64(ctx) || !(ctx.cr4 & cr4::kFsgsbase)) raise_ud();
    const auto& operand = in.operands[0];
    if (write) {
        const u64 value = read_register(ctx, operand.reg.value);
        if (!is_canonical(value)) raise_gp(0);
        ctx.segment[index].base = value;
        update_mode(ctx);
    } else {
        write_register(ctx, operand.reg.value, ctx.segment[index].base);
    }
    return Outcome::Next;
}

Outcome swap_gs(Context& ctx) {
    if (!in_code64(ctx)) raise_ud();
    require_cpl0(ctx);
    std::swap(ctx.segment[kGs].base, ctx.kernel_gs_base);
    update_mode(ctx);
    return Outcome::Next;
}

// ---- transfers ---------------------------------------------------------------------------------------------------

Outcome software_interrupt(Context& ctx, const Instruction& in, u8 vector, EventKind kind) {
    if (v86_mode(ctx) && in.info.mnemonic == ZYDIS_MNEMONIC_INT && iopl(ctx) < 3) raise_gp(0);
    deliver_event(ctx, {.vector = vector, .kind = kind}, next_rip(ctx, in));
    return Outcome::Jumped;
}

/// Selector and offset of a far JMP or CALL.
void far_target(Context& ctx, const Instruction& in, u16& selector, u64& offset, unsigned& size) {
    const auto& operand = in.operands[0];
    size = operand_bytes(in);
    if (operand.type == ZYDIS_OPERAND_TYPE_POINTER) {
        selector = operand.ptr.segment;
        offset = operand.ptr.offset;
        return;
    }
    const u64 linear = operand_linear(ctx, in, operand, size + 2, false);
    offset = read_linear(ctx, linear, size, current_privilege(ctx));
    selector = static_cast<u16>(read_linear(ctx, linear + size, 2, current_privilege(ctx)));
}

Outcome transfer(Context& ctx, const Instruction& in) {
    if (in.info.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR) raise_ud();
    u16 selector = 0;
    u64 offset = 0;
    unsigned size = 0;
    switch (in.info.mnemonic) {
        case ZYDIS_MNEMONIC_JMP:
            far_target(ctx, in, selector, offset, size);
            far_jump(ctx, selector, offset, size);
            break;
        case ZYDIS_MNEMONIC_CALL:
            far_target(ctx, in, selector, offset, size);
            far_call(ctx, selector, offset, size, next_rip(ctx, in));
            break;
        default: {
            const auto& operand = in.operands[0];
            const bool releases = in.info.operand_count_visible > 0 && operand.type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
            far_return(ctx, operand_bytes(in), releases ? static_cast<u16>(operand.imm.value.u) : u16{0});
            break;
        }
    }
    return Outcome::Jumped;
}

Outcome return_from_interrupt(Context& ctx, unsigned size) {
    interrupt_return(ctx, size);
    look_for_interrupts(ctx);
    if (ctx.nmi_pending) ctx.attention.fetch_or(attention::kRecheck);
    return Outcome::Jumped;
}

Outcome halt(Context& ctx) {
    require_cpl0(ctx);
    ctx.mp_state = MpState::Halted;
    look_for_interrupts(ctx);
    return Outcome::Next;
}

Outcome touch_cache_line(Context& ctx, const Instruction& in) {
    // Only the access rights matter: caches are coherent.
    (void)read_operand(ctx, in, in.operands[0], 1);
    return Outcome::Next;
}

Outcome dispatch(Context& ctx, const Instruction& in) {
    Outcome outcome;
    switch (in.info.mnemonic) {
        case ZYDIS_MNEMONIC_MOV: return mov(ctx, in);
        case ZYDIS_MNEMONIC_PUSH:
            if (is_segment(in.operands[0])) return push_segment(ctx, in);
            raise_ud();
        case ZYDIS_MNEMONIC_POP:
            if (is_segment(in.operands[0])) return pop_segment(ctx, in);
            raise_ud();
        case ZYDIS_MNEMONIC_LDS: return load_far_pointer(ctx, in, kDs);
        case ZYDIS_MNEMONIC_LES: return load_far_pointer(ctx, in, kEs);
        case ZYDIS_MNEMONIC_LFS: return load_far_pointer(ctx, in, kFs);
        case ZYDIS_MNEMONIC_LGS: return load_far_pointer(ctx, in, kGs);
        case ZYDIS_MNEMONIC_LSS: return load_far_pointer(ctx, in, kSs);

        case ZYDIS_MNEMONIC_PUSHF:
        case ZYDIS_MNEMONIC_PUSHFD:
        case ZYDIS_MNEMONIC_PUSHFQ: return push_flags(ctx, in);
        case ZYDIS_MNEMONIC_POPF:
        case ZYDIS_MNEMONIC_POPFD:
        case ZYDIS_MNEMONIC_POPFQ: return pop_flags(ctx, in);
        case ZYDIS_MNEMONIC_STI: return set_interrupt_flag(ctx);
        case ZYDIS_MNEMONIC_CLI:
            require_iopl(ctx);
            ctx.flags &= ~rflags::kIf;
            return Outcome::Next;
        case ZYDIS_MNEMONIC_STAC: return set_ac(ctx, true);
        case ZYDIS_MNEMONIC_CLAC: return set_ac(ctx, false);

        case ZYDIS_MNEMONIC_LGDT: return load_table(ctx, in, ctx.gdtr);
        case ZYDIS_MNEMONIC_LIDT: return load_table(ctx, in, ctx.idtr);
        case ZYDIS_MNEMONIC_SGDT: return store_table(ctx, in, ctx.gdtr);
        case ZYDIS_MNEMONIC_SIDT: return store_table(ctx, in, ctx.idtr);
        case ZYDIS_MNEMONIC_SLDT: require_protected(ctx); return store_word(ctx, in, ctx.ldtr.selector);
        case ZYDIS_MNEMONIC_STR: require_protected(ctx); return store_word(ctx, in, ctx.tr.selector);
        case ZYDIS_MNEMONIC_SMSW: return store_word(ctx, in, ctx.cr0);
        case ZYDIS_MNEMONIC_LLDT:
            require_protected(ctx);
            require_cpl0(ctx);
            load_ldtr(ctx, static_cast<u16>(read_operand(ctx, in, in.operands[0], 2)));
            return Outcome::Next;
        case ZYDIS_MNEMONIC_LTR:
            require_protected(ctx);
            require_cpl0(ctx);
            load_tr(ctx, static_cast<u16>(read_operand(ctx, in, in.operands[0], 2)));
            return Outcome::Next;
        case ZYDIS_MNEMONIC_LMSW: return load_machine_status(ctx, in);
        case ZYDIS_MNEMONIC_CLTS:
            require_cpl0(ctx);
            ctx.cr0 &= ~cr0::kTs;
            update_mode(ctx);
            return Outcome::Next;
        case ZYDIS_MNEMONIC_LAR:
        case ZYDIS_MNEMONIC_LSL:
        case ZYDIS_MNEMONIC_VERR:
        case ZYDIS_MNEMONIC_VERW: return execute_descriptor_query(ctx, in);

        case ZYDIS_MNEMONIC_INVLPG: return invalidate_page(ctx, in);
        case ZYDIS_MNEMONIC_INVPCID: return invalidate_pcid(ctx, in);
        case ZYDIS_MNEMONIC_WBINVD:
        case ZYDIS_MNEMONIC_INVD: require_cpl0(ctx); return Outcome::Next;
        case ZYDIS_MNEMONIC_CLFLUSH:
        case ZYDIS_MNEMONIC_CLFLUSHOPT:
        case ZYDIS_MNEMONIC_CLWB: return touch_cache_line(ctx, in);

        case ZYDIS_MNEMONIC_RDMSR: return read_model_register(ctx);
        case ZYDIS_MNEMONIC_WRMSR: return write_model_register(ctx);
        case ZYDIS_MNEMONIC_RDTSC: return read_time_stamp(ctx, false);
        case ZYDIS_MNEMONIC_RDTSCP: return read_time_stamp(ctx, true);
        case ZYDIS_MNEMONIC_RDPID:
            if (!(ctx.cpuid.query(7, 0).ecx >> 22 & 1)) raise_ud();
            write_register(ctx, in.operands[0].reg.value, ctx.tsc_aux);
            return Outcome::Next;
        case ZYDIS_MNEMONIC_RDPMC: raise_gp(0);  // no counters
        case ZYDIS_MNEMONIC_CPUID: return cpuid(ctx);
        case ZYDIS_MNEMONIC_XGETBV: return xgetbv(ctx);
        case ZYDIS_MNEMONIC_XSETBV: return xsetbv(ctx);
        case ZYDIS_MNEMONIC_RDFSBASE: return segment_base(ctx, in, kFs, false);
        case ZYDIS_MNEMONIC_RDGSBASE: return segment_base(ctx, in, kGs, false);
        case ZYDIS_MNEMONIC_WRFSBASE: return segment_base(ctx, in, kFs, true);
        case ZYDIS_MNEMONIC_WRGSBASE: return segment_base(ctx, in, kGs, true);
        case ZYDIS_MNEMONIC_SWAPGS: return swap_gs(ctx);

        case ZYDIS_MNEMONIC_SYSCALL: execute_syscall(ctx, in); return Outcome::Jumped;
        case ZYDIS_MNEMONIC_SYSRET:
            execute_sysret(ctx, in);
            look_for_interrupts(ctx);
            if (ctx.flags & rflags::kTf) {  // traps at once: the TF that counts is the new one (SDM vol. 2, SYSRET)
                ctx.fault = debug_fault(1 << 14);
                deliver_fault(ctx);
            }
            return Outcome::Jumped;
        case ZYDIS_MNEMONIC_SYSENTER: execute_sysenter(ctx); return Outcome::Jumped;
        case ZYDIS_MNEMONIC_SYSEXIT: execute_sysexit(ctx, in); return Outcome::Jumped;

        case ZYDIS_MNEMONIC_JMP:
        case ZYDIS_MNEMONIC_CALL:
        case ZYDIS_MNEMONIC_RET: return transfer(ctx, in);
        case ZYDIS_MNEMONIC_IRET: return return_from_interrupt(ctx, 2);
        case ZYDIS_MNEMONIC_IRETD: return return_from_interrupt(ctx, 4);
        case ZYDIS_MNEMONIC_IRETQ: return return_from_interrupt(ctx, 8);
        case ZYDIS_MNEMONIC_INT:
            return software_interrupt(ctx, in, static_cast<u8>(in.operands[0].imm.value.u), EventKind::SoftwareInterrupt);
        case ZYDIS_MNEMONIC_INT3: return software_interrupt(ctx, in, kBreakpoint, EventKind::SoftwareInterrupt);
        case ZYDIS_MNEMONIC_INT1: return software_interrupt(ctx, in, kDebug, EventKind::External);
        case ZYDIS_MNEMONIC_INTO:
            if (!(ctx.flags & rflags::kOf)) return Outcome::Next;
            return software_interrupt(ctx, in, kOverflow, EventKind::SoftwareInterrupt);
        case ZYDIS_MNEMONIC_HLT: return halt(ctx);

        case ZYDIS_MNEMONIC_IN:
        case ZYDIS_MNEMONIC_OUT:
        case ZYDIS_MNEMONIC_INSB:
        case ZYDIS_MNEMONIC_INSW:
        case ZYDIS_MNEMONIC_INSD:
        case ZYDIS_MNEMONIC_OUTSB:
        case ZYDIS_MNEMONIC_OUTSW:
        case ZYDIS_MNEMONIC_OUTSD: return execute_port_io(ctx, in);

        case ZYDIS_MNEMONIC_VMCALL:
        case ZYDIS_MNEMONIC_VMMCALL: hypercall(ctx); return Outcome::Next;
        default:
            if (execute_legacy(ctx, in, outcome)) return outcome;
            raise_ud();
    }
}

}  // namespace

Outcome execute_system(Context& ctx, const Instruction& instruction) {
    try {
        return dispatch(ctx, instruction);
    } catch (const GuestFault& fault) {
        ctx.fault = fault.fault;
        return Outcome::Fault;
    }
}

}  // namespace vezha::engine::dbt
