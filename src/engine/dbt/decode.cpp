// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/decode.h"

#include <Zydis/Zydis.h>

#include <algorithm>

namespace vezha::engine::dbt {

int gpr_index(ZydisRegister r) {
    if (r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_BL) return r - ZYDIS_REGISTER_AL;
    if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH) return r - ZYDIS_REGISTER_AH;
    if (r >= ZYDIS_REGISTER_SPL && r <= ZYDIS_REGISTER_R15B) return r - ZYDIS_REGISTER_SPL + 4;
    if (r >= ZYDIS_REGISTER_AX && r <= ZYDIS_REGISTER_R15W) return r - ZYDIS_REGISTER_AX;
    if (r >= ZYDIS_REGISTER_EAX && r <= ZYDIS_REGISTER_R15D) return r - ZYDIS_REGISTER_EAX;
    if (r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15) return r - ZYDIS_REGISTER_RAX;
    return -1;
}

namespace {

u8 pack_flags(u32 cpu_flags) {
    return static_cast<u8>((cpu_flags & ZYDIS_CPUFLAG_CF ? 1 : 0) | (cpu_flags & ZYDIS_CPUFLAG_PF ? 2 : 0) |
                           (cpu_flags & ZYDIS_CPUFLAG_AF ? 4 : 0) | (cpu_flags & ZYDIS_CPUFLAG_ZF ? 8 : 0) |
                           (cpu_flags & ZYDIS_CPUFLAG_SF ? 16 : 0) | (cpu_flags & ZYDIS_CPUFLAG_OF ? 32 : 0));
}

Kind system_or(ZydisMnemonic m) {
    switch (m) {
    case ZYDIS_MNEMONIC_MOVSB: case ZYDIS_MNEMONIC_MOVSW: case ZYDIS_MNEMONIC_MOVSQ:
    case ZYDIS_MNEMONIC_STOSB: case ZYDIS_MNEMONIC_STOSW: case ZYDIS_MNEMONIC_STOSD: case ZYDIS_MNEMONIC_STOSQ:
    case ZYDIS_MNEMONIC_LODSB: case ZYDIS_MNEMONIC_LODSW: case ZYDIS_MNEMONIC_LODSD: case ZYDIS_MNEMONIC_LODSQ:
    case ZYDIS_MNEMONIC_SCASB: case ZYDIS_MNEMONIC_SCASW: case ZYDIS_MNEMONIC_SCASD: case ZYDIS_MNEMONIC_SCASQ:
    case ZYDIS_MNEMONIC_CMPSB: case ZYDIS_MNEMONIC_CMPSW: case ZYDIS_MNEMONIC_CMPSQ:
        return Kind::String;
    case ZYDIS_MNEMONIC_PAUSE: return Kind::Pause;
    case ZYDIS_MNEMONIC_LEA: return Kind::Lea;
    case ZYDIS_MNEMONIC_LEAVE: return Kind::Leave;
    case ZYDIS_MNEMONIC_ENTER: case ZYDIS_MNEMONIC_PUSHA: case ZYDIS_MNEMONIC_PUSHAD: case ZYDIS_MNEMONIC_POPA:
    case ZYDIS_MNEMONIC_POPAD:
        return Kind::Odd;
    case ZYDIS_MNEMONIC_NOP: case ZYDIS_MNEMONIC_PREFETCH: case ZYDIS_MNEMONIC_PREFETCHNTA: case ZYDIS_MNEMONIC_PREFETCHT0:
    case ZYDIS_MNEMONIC_PREFETCHT1: case ZYDIS_MNEMONIC_PREFETCHT2: case ZYDIS_MNEMONIC_PREFETCHW:
    case ZYDIS_MNEMONIC_ENDBR32: case ZYDIS_MNEMONIC_ENDBR64:
        return Kind::Nothing;
    case ZYDIS_MNEMONIC_PUSHF: case ZYDIS_MNEMONIC_PUSHFD: case ZYDIS_MNEMONIC_PUSHFQ: case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD: case ZYDIS_MNEMONIC_POPFQ: case ZYDIS_MNEMONIC_CLI: case ZYDIS_MNEMONIC_STI:
    case ZYDIS_MNEMONIC_CLAC: case ZYDIS_MNEMONIC_STAC: case ZYDIS_MNEMONIC_HLT: case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_RDTSC: case ZYDIS_MNEMONIC_RDTSCP: case ZYDIS_MNEMONIC_RDPMC: case ZYDIS_MNEMONIC_RDPID:
    case ZYDIS_MNEMONIC_RDMSR: case ZYDIS_MNEMONIC_WRMSR: case ZYDIS_MNEMONIC_SYSCALL: case ZYDIS_MNEMONIC_SYSRET:
    case ZYDIS_MNEMONIC_SYSENTER: case ZYDIS_MNEMONIC_SYSEXIT: case ZYDIS_MNEMONIC_SWAPGS: case ZYDIS_MNEMONIC_INT:
    case ZYDIS_MNEMONIC_INT1: case ZYDIS_MNEMONIC_INT3: case ZYDIS_MNEMONIC_INTO: case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD: case ZYDIS_MNEMONIC_IRETQ: case ZYDIS_MNEMONIC_LGDT: case ZYDIS_MNEMONIC_LIDT:
    case ZYDIS_MNEMONIC_LLDT: case ZYDIS_MNEMONIC_LTR: case ZYDIS_MNEMONIC_SGDT: case ZYDIS_MNEMONIC_SIDT:
    case ZYDIS_MNEMONIC_SLDT: case ZYDIS_MNEMONIC_STR: case ZYDIS_MNEMONIC_SMSW: case ZYDIS_MNEMONIC_LMSW:
    case ZYDIS_MNEMONIC_CLTS: case ZYDIS_MNEMONIC_INVD: case ZYDIS_MNEMONIC_WBINVD:
    case ZYDIS_MNEMONIC_INVLPG: case ZYDIS_MNEMONIC_INVPCID: case ZYDIS_MNEMONIC_IN: case ZYDIS_MNEMONIC_OUT:
    case ZYDIS_MNEMONIC_INSB: case ZYDIS_MNEMONIC_INSW: case ZYDIS_MNEMONIC_INSD: case ZYDIS_MNEMONIC_OUTSB:
    case ZYDIS_MNEMONIC_OUTSW: case ZYDIS_MNEMONIC_OUTSD: case ZYDIS_MNEMONIC_LDS: case ZYDIS_MNEMONIC_LES:
    case ZYDIS_MNEMONIC_LFS: case ZYDIS_MNEMONIC_LGS: case ZYDIS_MNEMONIC_LSS: case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL: case ZYDIS_MNEMONIC_VERR: case ZYDIS_MNEMONIC_VERW: case ZYDIS_MNEMONIC_ARPL:
    case ZYDIS_MNEMONIC_BOUND: case ZYDIS_MNEMONIC_RDFSBASE: case ZYDIS_MNEMONIC_RDGSBASE: case ZYDIS_MNEMONIC_WRFSBASE:
    case ZYDIS_MNEMONIC_WRGSBASE: case ZYDIS_MNEMONIC_XGETBV: case ZYDIS_MNEMONIC_XSETBV: case ZYDIS_MNEMONIC_MONITOR:
    case ZYDIS_MNEMONIC_MWAIT: case ZYDIS_MNEMONIC_MONITORX: case ZYDIS_MNEMONIC_MWAITX: case ZYDIS_MNEMONIC_RSM:
    case ZYDIS_MNEMONIC_UD0: case ZYDIS_MNEMONIC_UD1: case ZYDIS_MNEMONIC_UD2: case ZYDIS_MNEMONIC_AAA:
    case ZYDIS_MNEMONIC_AAD: case ZYDIS_MNEMONIC_AAM: case ZYDIS_MNEMONIC_AAS: case ZYDIS_MNEMONIC_DAA:
    case ZYDIS_MNEMONIC_DAS: case ZYDIS_MNEMONIC_SALC: case ZYDIS_MNEMONIC_VMCALL: case ZYDIS_MNEMONIC_VMMCALL:
    case ZYDIS_MNEMONIC_VMRUN: case ZYDIS_MNEMONIC_VMLOAD: case ZYDIS_MNEMONIC_VMSAVE: case ZYDIS_MNEMONIC_STGI:
    case ZYDIS_MNEMONIC_CLGI: case ZYDIS_MNEMONIC_SKINIT: case ZYDIS_MNEMONIC_INVLPGA: case ZYDIS_MNEMONIC_VMLAUNCH:
    case ZYDIS_MNEMONIC_VMRESUME: case ZYDIS_MNEMONIC_VMXOFF: case ZYDIS_MNEMONIC_VMXON: case ZYDIS_MNEMONIC_VMREAD:
    case ZYDIS_MNEMONIC_VMWRITE: case ZYDIS_MNEMONIC_VMPTRLD: case ZYDIS_MNEMONIC_VMPTRST: case ZYDIS_MNEMONIC_VMCLEAR:
    case ZYDIS_MNEMONIC_VMFUNC: case ZYDIS_MNEMONIC_INVEPT: case ZYDIS_MNEMONIC_INVVPID: case ZYDIS_MNEMONIC_GETSEC:
    case ZYDIS_MNEMONIC_RDPKRU: case ZYDIS_MNEMONIC_WRPKRU: case ZYDIS_MNEMONIC_XSAVES: case ZYDIS_MNEMONIC_XSAVES64:
    case ZYDIS_MNEMONIC_XRSTORS: case ZYDIS_MNEMONIC_XRSTORS64: case ZYDIS_MNEMONIC_XBEGIN: case ZYDIS_MNEMONIC_XEND:
    case ZYDIS_MNEMONIC_XABORT: case ZYDIS_MNEMONIC_XTEST: case ZYDIS_MNEMONIC_CLZERO: case ZYDIS_MNEMONIC_ENCLU:
    case ZYDIS_MNEMONIC_ENCLS: case ZYDIS_MNEMONIC_ENCLV: case ZYDIS_MNEMONIC_PCONFIG: case ZYDIS_MNEMONIC_TPAUSE:
    case ZYDIS_MNEMONIC_UMWAIT: case ZYDIS_MNEMONIC_UMONITOR: case ZYDIS_MNEMONIC_SERIALIZE: case ZYDIS_MNEMONIC_RDPRU:
    case ZYDIS_MNEMONIC_TLBSYNC: case ZYDIS_MNEMONIC_INVLPGB: case ZYDIS_MNEMONIC_PTWRITE:
        return Kind::System;
    default: return Kind::Plain;
    }
}

bool is_shift(ZydisMnemonic m) {
    switch (m) {
    case ZYDIS_MNEMONIC_SHL: case ZYDIS_MNEMONIC_SHR: case ZYDIS_MNEMONIC_SAR: case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR: case ZYDIS_MNEMONIC_RCL: case ZYDIS_MNEMONIC_RCR: case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
        return true;
    default: return false;
    }
}

/// Which trap the CPU mode gives to x87, MMX, SSE and AVX instructions (SDM vol. 3A, 2.5; vol. 2A, 2.4).
void check_vector_mode(Decoded& d, u64 mode, bool x87, bool mmx, bool sse, bool avx, bool avx512) {
    const bool vex = d.insn.info.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX || d.insn.info.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
    int vector = -1;
    if (d.insn.info.mnemonic == ZYDIS_MNEMONIC_FWAIT) {
        if ((mode & key::kTs) && (mode & key::kMp)) vector = 7;
    } else if (vex && (sse || avx || avx512)) {
        if (!(mode & key::kOsxsave) || !(mode & key::kAvx) || (avx512 && !(mode & key::kAvx512))) vector = 6;
        else if (mode & key::kTs) vector = 7;
    } else if (sse) {
        if ((mode & key::kEm) || !(mode & key::kOsfxsr)) vector = 6;
        else if (mode & key::kTs) vector = 7;
    } else if (mmx) {
        if (mode & key::kEm) vector = 6;
        else if (mode & key::kTs) vector = 7;
    } else if (x87) {
        if (mode & (key::kEm | key::kTs)) vector = 7;
    }
    if (vector >= 0) {
        d.kind = Kind::Raise;
        d.vector = static_cast<u8>(vector);
    }
}

void analyse(Decoded& d, u64 mode) {
    const auto& info = d.insn.info;
    d.kind = system_or(info.mnemonic);
    bool x87 = info.meta.category == ZYDIS_CATEGORY_X87_ALU || info.meta.isa_ext == ZYDIS_ISA_EXT_X87, mmx = false, sse = false,
         avx = false, avx512 = info.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX, gather = false, vector_register = false;
    for (unsigned i = 0; i < info.operand_count; ++i) {
        const auto& o = d.insn.operands[i];
        if (o.type == ZYDIS_OPERAND_TYPE_REGISTER) {
            const int gpr = gpr_index(o.reg.value);
            if (gpr >= 0) d.registers |= static_cast<u16>(1u << gpr);
            if (o.visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN && o.reg.value >= ZYDIS_REGISTER_AH &&
                o.reg.value <= ZYDIS_REGISTER_BH)
                d.high8 = true;
            switch (ZydisRegisterGetClass(o.reg.value)) {
            case ZYDIS_REGCLASS_X87: x87 = true; break;
            case ZYDIS_REGCLASS_MMX: mmx = vector_register = true; break;
            case ZYDIS_REGCLASS_XMM: sse = vector_register = true; break;
            case ZYDIS_REGCLASS_YMM: avx = vector_register = true; break;
            case ZYDIS_REGCLASS_ZMM: avx512 = vector_register = true; break;
            case ZYDIS_REGCLASS_MASK: avx512 = vector_register = true; break;
            case ZYDIS_REGCLASS_SEGMENT:
                if (o.visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN) d.kind = Kind::System;
                break;
            case ZYDIS_REGCLASS_CONTROL: case ZYDIS_REGCLASS_DEBUG:
                if (o.visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT) d.kind = Kind::System;
                break;
            default: break;
            }
        } else if (o.type == ZYDIS_OPERAND_TYPE_MEMORY) {
            for (const ZydisRegister r : {o.mem.base, o.mem.index}) {
                const int gpr = gpr_index(r);
                if (gpr >= 0) d.registers |= static_cast<u16>(1u << gpr);
            }
            if (o.mem.type == ZYDIS_MEMOP_TYPE_VSIB) gather = true;
            if (o.visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT) d.memory = static_cast<int>(i);
        }
    }
    switch (info.mnemonic) {
    case ZYDIS_MNEMONIC_XLAT: case ZYDIS_MNEMONIC_MASKMOVQ: case ZYDIS_MNEMONIC_MASKMOVDQU: case ZYDIS_MNEMONIC_VMASKMOVDQU:
        for (unsigned i = 0; i < info.operand_count; ++i)
            if (d.insn.operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY) d.memory = static_cast<int>(i);
        break;
    case ZYDIS_MNEMONIC_FXSAVE: case ZYDIS_MNEMONIC_FXSAVE64: case ZYDIS_MNEMONIC_FXRSTOR: case ZYDIS_MNEMONIC_FXRSTOR64:
        x87 = true;
        break;
    case ZYDIS_MNEMONIC_LDMXCSR: case ZYDIS_MNEMONIC_STMXCSR: sse = true; break;
    case ZYDIS_MNEMONIC_VLDMXCSR: case ZYDIS_MNEMONIC_VSTMXCSR: case ZYDIS_MNEMONIC_VZEROUPPER: case ZYDIS_MNEMONIC_VZEROALL:
        avx = true;
        break;
    case ZYDIS_MNEMONIC_EMMS: mmx = true; break;
    case ZYDIS_MNEMONIC_VMASKMOVPS: case ZYDIS_MNEMONIC_VMASKMOVPD: case ZYDIS_MNEMONIC_VPMASKMOVD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ:
        d.masked = true;
        break;
    case ZYDIS_MNEMONIC_XSAVE: case ZYDIS_MNEMONIC_XSAVE64: case ZYDIS_MNEMONIC_XSAVEOPT: case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XSAVEC: case ZYDIS_MNEMONIC_XSAVEC64: case ZYDIS_MNEMONIC_XRSTOR: case ZYDIS_MNEMONIC_XRSTOR64:
        d.xsave = true;
        if (!(mode & key::kOsxsave)) d.kind = Kind::Raise, d.vector = 6;
        else if (mode & key::kTs) d.kind = Kind::Raise, d.vector = 7;
        break;
    default: break;
    }
    if (avx512 && info.avx.mask.mode != ZYDIS_MASK_MODE_INVALID && info.avx.mask.mode != ZYDIS_MASK_MODE_DISABLED && d.memory >= 0 &&
        info.avx.mask.reg != ZYDIS_REGISTER_K0 && info.avx.mask.reg != ZYDIS_REGISTER_NONE)
        d.masked = true;
    switch (info.meta.exception_class) {  // those of the "no fault suppression" kind
    case ZYDIS_EXCEPTION_CLASS_E1NF: case ZYDIS_EXCEPTION_CLASS_E2NF: case ZYDIS_EXCEPTION_CLASS_E3NF:
    case ZYDIS_EXCEPTION_CLASS_E4NF: case ZYDIS_EXCEPTION_CLASS_E5NF: case ZYDIS_EXCEPTION_CLASS_E6NF:
    case ZYDIS_EXCEPTION_CLASS_E9NF: case ZYDIS_EXCEPTION_CLASS_E10NF: case ZYDIS_EXCEPTION_CLASS_E11NF:
        d.masked = false;
        break;
    default: break;
    }
    // SDM vol. 2: E4NF, but Zydis 4.0 says E4.
    if (info.mnemonic == ZYDIS_MNEMONIC_VGF2P8AFFINEQB || info.mnemonic == ZYDIS_MNEMONIC_VGF2P8AFFINEINVQB) d.masked = false;
    // MOD 0 with a SIB base field of 5 means displacement and no base, whatever REX.B is; Zydis 4.0 names R13D with
    // 32-bit addresses.
    if (d.memory >= 0 && info.raw.sib.offset && info.raw.modrm.mod == 0 && info.raw.sib.base == 5) {
        auto& memory = d.insn.operands[d.memory].mem;
        memory.base = ZYDIS_REGISTER_NONE;
        memory.disp.has_displacement = ZYAN_TRUE;
        memory.disp.value = info.raw.disp.value;
    }
    if (info.mnemonic == ZYDIS_MNEMONIC_PAUSE && info.raw.rex.B) {  // F3 is idle here: XCHG R8, RAX
        d.kind = Kind::Plain;
        d.registers |= 1 << 0 | 1 << 8;
    }
    // MOVNTI, CRC32 and friends name general registers only; moves between general and vector registers count as vector.
    if (d.kind == Kind::Plain) check_vector_mode(d, mode, x87, mmx, sse, avx, avx512);
    d.vector_like = vector_register || x87;
    d.locked = (info.attributes & ZYDIS_ATTRIB_HAS_LOCK) || (info.mnemonic == ZYDIS_MNEMONIC_XCHG && d.memory >= 0);

    switch (info.meta.category) {
    case ZYDIS_CATEGORY_COND_BR:
        switch (info.mnemonic) {
        case ZYDIS_MNEMONIC_LOOP: case ZYDIS_MNEMONIC_LOOPE: case ZYDIS_MNEMONIC_LOOPNE: case ZYDIS_MNEMONIC_JCXZ:
        case ZYDIS_MNEMONIC_JECXZ: case ZYDIS_MNEMONIC_JRCXZ:
            d.kind = Kind::Loop;
            break;
        case ZYDIS_MNEMONIC_XBEGIN: d.kind = Kind::System; break;
        default: d.kind = Kind::JumpIf; break;
        }
        break;
    case ZYDIS_CATEGORY_UNCOND_BR:
        d.kind = info.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR ? Kind::System : Kind::Jump;
        break;
    case ZYDIS_CATEGORY_CALL:
        if (info.mnemonic == ZYDIS_MNEMONIC_CALL)
            d.kind = info.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR ? Kind::System : Kind::Call;
        break;
    case ZYDIS_CATEGORY_RET:
        if (info.mnemonic == ZYDIS_MNEMONIC_RET)
            d.kind = info.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR ? Kind::System : Kind::Return;
        break;
    case ZYDIS_CATEGORY_PUSH:
        if (info.mnemonic == ZYDIS_MNEMONIC_PUSH && d.kind == Kind::Plain) d.kind = Kind::Push;
        break;
    case ZYDIS_CATEGORY_POP:
        if (info.mnemonic == ZYDIS_MNEMONIC_POP && d.kind == Kind::Plain) d.kind = Kind::Pop;
        break;
    default: break;
    }
    // MOVSD and CMPSD are a string instruction or an SSE one.
    if ((info.mnemonic == ZYDIS_MNEMONIC_MOVSD || info.mnemonic == ZYDIS_MNEMONIC_CMPSD) &&
        info.meta.category == ZYDIS_CATEGORY_STRINGOP)
        d.kind = Kind::String;
    if (gather && d.kind == Kind::Plain) d.kind = Kind::Gather;
    if (info.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED) d.kind = Kind::System;
    if (d.kind == Kind::Nothing && info.mnemonic == ZYDIS_MNEMONIC_NOP) d.memory = -1;

    const ZydisAccessedFlags* flags = info.cpu_flags;
    if (flags) {
        d.flags_read = pack_flags(flags->tested);
        d.flags_written = pack_flags(flags->modified | flags->set_0 | flags->set_1 | flags->undefined);
        switch (info.mnemonic) {
        case ZYDIS_MNEMONIC_AND: case ZYDIS_MNEMONIC_OR: case ZYDIS_MNEMONIC_XOR: case ZYDIS_MNEMONIC_TEST: break;
        default:
            // What the manuals leave undefined stays as it was on some processors.
            if (!is_shift(info.mnemonic)) d.flags_written = pack_flags(flags->modified | flags->set_0 | flags->set_1);
            break;
        }
        if (is_shift(info.mnemonic)) {
            // A count of zero leaves every flag as it was.
            bool certain = false;
            for (unsigned i = 0; i < info.operand_count; ++i) {
                const auto& o = d.insn.operands[i];
                if (o.type == ZYDIS_OPERAND_TYPE_IMMEDIATE) certain = (o.imm.value.u & (info.operand_width == 64 ? 63 : 31)) != 0;
            }
            if (!certain) d.flags_read |= d.flags_written, d.flags_written = 0;
        }
    }
    if (info.mnemonic == ZYDIS_MNEMONIC_BSF || info.mnemonic == ZYDIS_MNEMONIC_BSR) d.flags_written &= 8;
    if (d.kind != Kind::Plain && d.kind != Kind::Push && d.kind != Kind::Pop && d.kind != Kind::Lea && d.kind != Kind::Nothing &&
        d.kind != Kind::Leave && d.kind != Kind::JumpIf)
        d.flags_read = kAllFlags;
}

}  // namespace

ZyanStatus decode_one(std::span<const u8> bytes, u64 rip, u64 mode, Decoded& out) {
    static const auto decoders = [] {
        std::array<ZydisDecoder, 3> d{};
        ZydisDecoderInit(&d[key::kCode16], ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
        ZydisDecoderInit(&d[key::kCode32], ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
        ZydisDecoderInit(&d[key::kCode64], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
        return d;
    }();
    const ZydisDecoder& decoder = decoders[mode & key::kCodeMask];
    ZydisDecoderContext context;
    const usize length = std::min<usize>(bytes.size(), 15);
    ZyanStatus status = ZydisDecoderDecodeInstruction(&decoder, &context, bytes.data(), length, &out.insn.info);
    if (!ZYAN_SUCCESS(status)) return status;
    status = ZydisDecoderDecodeOperands(&decoder, &context, &out.insn.info, out.insn.operands, out.insn.info.operand_count);
    if (!ZYAN_SUCCESS(status)) return status;
    out.insn.rip = rip;
    std::copy_n(bytes.data(), out.insn.info.length, out.insn.bytes);
    out.memory = -1;
    out.high8 = out.vector_like = out.locked = out.masked = out.xsave = false;
    out.registers = 0;
    out.flags_read = out.flags_written = 0;
    out.vector = 0;
    analyse(out, mode);
    return status;
}

}  // namespace vezha::engine::dbt
