// SPDX-License-Identifier: Apache-2.0
#include "tests/differential/generator.h"

#include <fmt/core.h>

#include <cstring>

namespace vezha::differential {

namespace {

/// Not user-mode code, not the same twice, or not comparable from outside.
bool excluded(const ZydisDecodedInstruction& i) {
    if (i.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED) return true;
    switch (i.meta.category) {
        case ZYDIS_CATEGORY_CALL:
        case ZYDIS_CATEGORY_RET:
        case ZYDIS_CATEGORY_COND_BR:
        case ZYDIS_CATEGORY_UNCOND_BR:
        case ZYDIS_CATEGORY_INTERRUPT:
        case ZYDIS_CATEGORY_IO:
        case ZYDIS_CATEGORY_IOSTRINGOP:
        case ZYDIS_CATEGORY_SYSCALL:
        case ZYDIS_CATEGORY_SYSRET:
        case ZYDIS_CATEGORY_SYSTEM:
        case ZYDIS_CATEGORY_SEGOP:
        case ZYDIS_CATEGORY_RDWRFSGS:
        case ZYDIS_CATEGORY_CLDEMOTE:
        case ZYDIS_CATEGORY_VTX:
        case ZYDIS_CATEGORY_XSAVE:
        case ZYDIS_CATEGORY_XSAVEOPT:
        case ZYDIS_CATEGORY_CET:
        case ZYDIS_CATEGORY_PKU:
        case ZYDIS_CATEGORY_WAITPKG:
        case ZYDIS_CATEGORY_RDRAND:
        case ZYDIS_CATEGORY_RDSEED:
        case ZYDIS_CATEGORY_KEYLOCKER:
        case ZYDIS_CATEGORY_AMX_TILE:
        case ZYDIS_CATEGORY_MPX: return true;
        default: break;
    }
    switch (i.mnemonic) {
        case ZYDIS_MNEMONIC_PUSHF: case ZYDIS_MNEMONIC_PUSHFQ: case ZYDIS_MNEMONIC_POPF: case ZYDIS_MNEMONIC_POPFQ:
        case ZYDIS_MNEMONIC_STI: case ZYDIS_MNEMONIC_CLI: case ZYDIS_MNEMONIC_STAC: case ZYDIS_MNEMONIC_CLAC:
        case ZYDIS_MNEMONIC_CPUID: case ZYDIS_MNEMONIC_RDTSC: case ZYDIS_MNEMONIC_RDTSCP: case ZYDIS_MNEMONIC_RDPID:
        case ZYDIS_MNEMONIC_XGETBV: case ZYDIS_MNEMONIC_RDPMC: case ZYDIS_MNEMONIC_RDPRU:
        case ZYDIS_MNEMONIC_LAR: case ZYDIS_MNEMONIC_LSL: case ZYDIS_MNEMONIC_VERR: case ZYDIS_MNEMONIC_VERW:
        case ZYDIS_MNEMONIC_SMSW: case ZYDIS_MNEMONIC_STR: case ZYDIS_MNEMONIC_SLDT: case ZYDIS_MNEMONIC_SGDT: case ZYDIS_MNEMONIC_SIDT:
        case ZYDIS_MNEMONIC_MONITORX: case ZYDIS_MNEMONIC_MWAITX: case ZYDIS_MNEMONIC_MONITOR: case ZYDIS_MNEMONIC_MWAIT:
        case ZYDIS_MNEMONIC_CLZERO: case ZYDIS_MNEMONIC_XBEGIN: case ZYDIS_MNEMONIC_XABORT: case ZYDIS_MNEMONIC_XEND: case ZYDIS_MNEMONIC_XTEST:
        case ZYDIS_MNEMONIC_UD0: case ZYDIS_MNEMONIC_UD1: case ZYDIS_MNEMONIC_UD2:
        case ZYDIS_MNEMONIC_INT3: case ZYDIS_MNEMONIC_INT1: case ZYDIS_MNEMONIC_ENTER:
        case ZYDIS_MNEMONIC_FNSAVE: case ZYDIS_MNEMONIC_FNSTENV: case ZYDIS_MNEMONIC_FRSTOR: case ZYDIS_MNEMONIC_FLDENV:
        case ZYDIS_MNEMONIC_FXSAVE: case ZYDIS_MNEMONIC_FXSAVE64: case ZYDIS_MNEMONIC_FXRSTOR: case ZYDIS_MNEMONIC_FXRSTOR64:
        case ZYDIS_MNEMONIC_VMCALL: case ZYDIS_MNEMONIC_VMMCALL: case ZYDIS_MNEMONIC_VMFUNC: case ZYDIS_MNEMONIC_PCONFIG:
        case ZYDIS_MNEMONIC_WRPKRU: case ZYDIS_MNEMONIC_RDPKRU: case ZYDIS_MNEMONIC_PTWRITE: case ZYDIS_MNEMONIC_SERIALIZE:
        case ZYDIS_MNEMONIC_ENCLU: case ZYDIS_MNEMONIC_ENCLV: case ZYDIS_MNEMONIC_GETSEC: case ZYDIS_MNEMONIC_MCOMMIT:
        case ZYDIS_MNEMONIC_HRESET: case ZYDIS_MNEMONIC_XRESLDTRK: case ZYDIS_MNEMONIC_XSUSLDTRK:
        case ZYDIS_MNEMONIC_LLWPCB: case ZYDIS_MNEMONIC_SLWPCB: case ZYDIS_MNEMONIC_LWPINS: case ZYDIS_MNEMONIC_LWPVAL:
            return true;
        default: return false;
    }
}

/// Leaves flags undefined that a later instruction could read: fine alone, not in a sequence.
bool has_undefined_flags(ZydisMnemonic mnemonic) {
    switch (mnemonic) {
        case ZYDIS_MNEMONIC_IMUL: case ZYDIS_MNEMONIC_MUL: case ZYDIS_MNEMONIC_DIV: case ZYDIS_MNEMONIC_IDIV:
        case ZYDIS_MNEMONIC_BT: case ZYDIS_MNEMONIC_BTC: case ZYDIS_MNEMONIC_BTR: case ZYDIS_MNEMONIC_BTS:
        case ZYDIS_MNEMONIC_BSF: case ZYDIS_MNEMONIC_BSR: case ZYDIS_MNEMONIC_SHLD: case ZYDIS_MNEMONIC_SHRD:
        case ZYDIS_MNEMONIC_BZHI: case ZYDIS_MNEMONIC_BEXTR: case ZYDIS_MNEMONIC_LZCNT: case ZYDIS_MNEMONIC_TZCNT: return true;
        default: return false;
    }
}

int gpr_index(ZydisRegister r) {
    if (r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15) return r - ZYDIS_REGISTER_RAX;
    if (r >= ZYDIS_REGISTER_EAX && r <= ZYDIS_REGISTER_R15D) return r - ZYDIS_REGISTER_EAX;
    return -1;
}

}  // namespace

Generator::Generator(u64 seed, u64 xcr0) : random_(seed), xcr0_(xcr0) {
    ZydisDecoderInit(&decoder_, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
}

u64 Generator::random_value() {
    switch (random_.below(8)) {
        case 0: return random_.next();
        case 1: return random_.below(64);
        case 2: {
            constexpr u64 kSpecial[] = {0, 1, ~u64{0}, u64{1} << 63, ~u64{0} >> 1, 0x80, 0x7fff, 0xffff'ffff, 0x8000'0000, 0xff};
            return kSpecial[random_.below(std::size(kSpecial))];
        }
        default: return kData + 256 + random_.below(kDataSize - 512);
    }
}

void Generator::random_vectors(MachineState& state) {
    u8* image = state.xsave.bytes.data();
    std::memset(image, 0, state.xsave.bytes.size());
    const u16 control = 0x37f;
    const u32 mxcsr = 0x1f80 | (random_.chance(25) ? static_cast<u32>(random_.below(4) << 13) : 0) |
                      (random_.chance(10) ? 0x8040 : 0);
    std::memcpy(image, &control, 2);
    std::memcpy(image + 24, &mxcsr, 4);
    auto fill = [&](usize from, usize size) {
        for (usize i = 0; i < size; i += 8) {
            u64 value = random_.next();
            if (random_.chance(30)) {  // a plausible double or two floats
                const double d = static_cast<double>(static_cast<i64>(random_.next())) / 65536.0;
                std::memcpy(&value, &d, 8);
            } else if (random_.chance(20)) {
                const float f[2] = {static_cast<float>(static_cast<i32>(random_.next())) / 256.0f, -1.5f};
                std::memcpy(&value, f, 8);
            }
            std::memcpy(image + from + i, &value, 8);
        }
    };
    u64 in_use = 3;
    if (random_.chance(50)) {
        // Some valid x87 stack: all tags full, values 1.0 with random mantissas.
        image[4] = 0xff;
        for (unsigned i = 0; i < 8; ++i) {
            const u64 mantissa = random_.next() | u64{1} << 63;
            const u16 exponent = static_cast<u16>(0x3fff - 20 + random_.below(40)) | static_cast<u16>(random_.below(2) << 15);
            std::memcpy(image + 32 + 16 * i, &mantissa, 8);
            std::memcpy(image + 32 + 16 * i + 8, &exponent, 2);
        }
    }
    fill(160, 256);
    struct { unsigned bit; u32 offset, size; } const kParts[] = {{2, 576, 256}};
    for (auto [bit, offset, size] : kParts)
        if (xcr0_ >> bit & 1) {
            in_use |= u64{1} << bit;
            fill(offset, size);
        }
    std::memcpy(image + 512, &in_use, 8);
}

void Generator::random_state(MachineState& state) {
    for (auto& r : state.gpr) r = random_value();
    state.gpr[x86::kRsp] = kData + 1024 + (random_.below(kDataSize - 2048) & ~u64{7});
    if (random_.chance(5)) state.gpr[x86::kRsp] = kData + random_.below(32);
    if (random_.chance(60)) state.gpr[x86::kRcx] = random_.below(40);
    state.flags = (random_.next() & kComparedFlags & ~u64{0x400}) | 2;
    if (random_.chance(10)) state.flags |= 0x400;
    for (usize i = 0; i < kDataSize; i += 8) {
        const u64 value = random_.chance(20) ? random_value() : random_.next();
        std::memcpy(&state.data[i], &value, 8);
    }
    random_vectors(state);
}

bool Generator::acceptable(const ZydisDecodedInstruction& instruction, const ZydisDecodedOperand* operands,
                           const MachineState& state, u64 rip, bool exact) {
    if (excluded(instruction)) return false;
    const bool repeats = instruction.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE);
    if (repeats && exact && state.gpr[x86::kRcx] > 20000 && !random_.chance(2)) return false;
    for (unsigned i = 0; i < instruction.operand_count; ++i) {
        const ZydisDecodedOperand& op = operands[i];
        // Segment registers and x87/MXCSR masks aside, everything is fair.
        if (op.type == ZYDIS_OPERAND_TYPE_REGISTER && op.reg.value >= ZYDIS_REGISTER_ES && op.reg.value <= ZYDIS_REGISTER_GS)
            return false;
        if (op.type != ZYDIS_OPERAND_TYPE_MEMORY) continue;
        if (op.mem.segment == ZYDIS_REGISTER_FS || op.mem.segment == ZYDIS_REGISTER_GS) return false;
        if (op.mem.type == ZYDIS_MEMOP_TYPE_VSIB) continue;
        if (op.mem.type != ZYDIS_MEMOP_TYPE_MEM) continue;
        if (op.mem.base == ZYDIS_REGISTER_RIP || op.mem.base == ZYDIS_REGISTER_EIP) return false;
        if (!exact) continue;
        u64 address = op.mem.disp.has_displacement ? static_cast<u64>(op.mem.disp.value) : 0;
        if (int b = gpr_index(op.mem.base); b >= 0) address += state.gpr[static_cast<unsigned>(b)];
        if (int x = gpr_index(op.mem.index); x >= 0) address += state.gpr[static_cast<unsigned>(x)] * op.mem.scale;
        if (instruction.address_width == 32) address = static_cast<u32>(address);
        const bool near = address >= kData - 64 && address < kReadOnly + kPageSize + 64;
        // Wild addresses in this process could hit something real.
        // The first page and non-canonical addresses fault in both worlds; the upper half belongs to the host's kernel.
        const bool faults = address < 0x1000 || (address >= u64{1} << 47 && address < ~u64{0} << 47);
        if (!near && (!faults || !random_.chance(3))) return false;
    }
    (void)rip;
    return true;
}

unsigned Generator::random_instruction(u8* bytes, const MachineState& state, u64 rip, bool exact) {
    for (unsigned i = 0; i < 15; ++i) bytes[i] = static_cast<u8>(random_.next());
    unsigned at = 0;
    const bool avx = xcr0_ & 4, avx512 = (xcr0_ & 0xe0) == 0xe0;
    const u64 space = random_.below(avx512 ? 10 : avx ? 7 : 5);
    if (space < 5) {
        if (random_.chance(20)) bytes[at++] = 0x66;
        if (random_.chance(8)) bytes[at++] = random_.chance(50) ? 0xf2 : 0xf3;
        if (random_.chance(4)) bytes[at++] = 0xf0;
        if (random_.chance(3)) bytes[at++] = 0x67;
        if (random_.chance(50)) bytes[at++] = static_cast<u8>(0x40 | random_.below(16));
        if (space >= 2) bytes[at++] = 0x0f;
        if (space == 4) bytes[at++] = random_.chance(50) ? 0x38 : 0x3a;
    } else if (space < 7) {
        if (random_.chance(50)) {
            bytes[at++] = 0xc5;
        } else {
            bytes[at++] = 0xc4;
            bytes[at] = static_cast<u8>((bytes[at] & 0xe0) | (1 + random_.below(3)));
        }
    } else {
        bytes[at++] = 0x62;
        bytes[at] = static_cast<u8>((bytes[at] & 0xf0) | (1 + random_.below(3)));
        bytes[at + 1] |= 4;
        if (random_.chance(50)) bytes[at + 2] &= 0x1f;  // no broadcast, short vector
    }
    ZydisDecodedInstruction instruction;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder_, bytes, 15, &instruction, operands))) return 0;
    // Addresses relative to registers that a sequence may have changed are wild: sequences use checked bases only.
    if (!exact)
        for (unsigned i = 0; i < instruction.operand_count; ++i)
            if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY) return 0;
    return acceptable(instruction, operands, state, rip, exact) ? instruction.length : 0;
}

namespace {
void jump_to_exit(std::vector<u8>& code, u64 start) {
    const i32 distance = static_cast<i32>(kExit - (start + code.size() + 5));
    code.push_back(0xe9);
    for (unsigned i = 0; i < 4; ++i) code.push_back(static_cast<u8>(distance >> (8 * i)));
}
}  // namespace

Case Generator::single() {
    Case out;
    random_state(out.start);
    out.start.rip = random_.chance(10) ? kCode + kPageSize - 1 - random_.below(14) : kCode + random_.below(kPageSize - 64);
    u8 bytes[16];
    unsigned length = 0;
    while (length == 0) length = random_instruction(bytes, out.start, out.start.rip, true);
    out.code.assign(bytes, bytes + length);
    ZydisDecodedInstruction instruction;
    if (ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder_, nullptr, bytes, length, &instruction)) && instruction.cpu_flags)
        out.undefined_flags = instruction.cpu_flags->undefined;
    jump_to_exit(out.code, out.start.rip);
    return out;
}

Case Generator::sequence(unsigned length) {
    Case out;
    random_state(out.start);
    // RBX and RSI always point into the data; nothing else is dereferenced but the stack.
    out.start.gpr[x86::kRbx] = kData + kDataSize / 2;
    out.start.gpr[x86::kRsp] = kData + kDataSize / 2;
    out.start.rip = kCode + random_.below(kPageSize * 2 - 15 * length - 64);
    struct Jump {
        usize at;
        unsigned skip;
    };
    std::vector<Jump> pending;
    auto emit = [&](std::initializer_list<unsigned> bytes) {
        for (unsigned b : bytes) out.code.push_back(static_cast<u8>(b));
    };
    for (unsigned i = 0; i < length; ++i) {
        for (auto& jump : pending)
            if (jump.skip-- == 0) out.code[jump.at] = static_cast<u8>(out.code.size() - jump.at - 1);
        std::erase_if(pending, [&](const Jump& j) { return j.skip == ~0u; });
        const u64 kind = random_.below(20);
        const unsigned reg = static_cast<unsigned>(random_.below(8));
        const bool spare = reg == x86::kRbx || reg == x86::kRsp;  // never overwritten
        if (kind < 4) {  // jcc over the next few
            emit({0x70 | static_cast<unsigned>(random_.below(16)), 0});
            pending.push_back({out.code.size() - 1, static_cast<unsigned>(random_.below(3))});
        } else if (kind < 8) {  // arithmetic between a register and [rbx + disp8], both ways
            const unsigned op = static_cast<unsigned>(random_.below(8)) << 3 | 1 | (spare ? 0 : static_cast<unsigned>(random_.below(2)) << 1);
            emit({0x48, op, 0x43u | reg << 3, static_cast<unsigned>(random_.below(128))});
        } else if (kind < 9) {
            emit({0x50 | reg});  // push
        } else if (kind < 10 && !spare) {
            emit({0x58 | reg});  // pop
        } else if (kind < 11) {
            emit({0x9c, 0x48, 0x8f, 0x43, static_cast<unsigned>(random_.below(120))});  // pushfq; pop [rbx+d]
        } else {
            u8 bytes[16];
            unsigned size = 0;
            for (unsigned tries = 0; tries < 500 && size == 0; ++tries) {
                size = random_instruction(bytes, out.start, 0, false);
                if (size == 0) continue;
                ZydisDecodedInstruction instruction;
                ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
                if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder_, bytes, size, &instruction, operands))) continue;
                for (unsigned o = 0; o < instruction.operand_count; ++o) {
                    const auto& op = operands[o];
                    if (op.type != ZYDIS_OPERAND_TYPE_REGISTER || !(op.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)) continue;
                    const auto whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, op.reg.value);
                    if (whole == ZYDIS_REGISTER_RSP || whole == ZYDIS_REGISTER_RBX) size = 0;
                }
                if (has_undefined_flags(instruction.mnemonic)) size = 0;
            }
            out.code.insert(out.code.end(), bytes, bytes + size);
        }
    }
    for (auto& jump : pending) out.code[jump.at] = static_cast<u8>(out.code.size() - jump.at - 1);
    jump_to_exit(out.code, out.start.rip);
    return out;
}

std::string Generator::disassemble(const Case& test) {
    ZydisDecoder decoder;
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisFormatter formatter;
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    std::string out;
    for (usize at = 0; at < test.code.size();) {
        ZydisDecodedInstruction instruction;
        ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, test.code.data() + at, test.code.size() - at, &instruction, operands)))
            break;
        char text[128];
        ZydisFormatterFormatInstruction(&formatter, &instruction, operands, instruction.operand_count_visible, text,
                                        sizeof text, test.start.rip + at, nullptr);
        out += fmt::format("  {:#x}:", test.start.rip + at);
        for (unsigned i = 0; i < instruction.length; ++i) out += fmt::format(" {:02x}", test.code[at + i]);
        out += fmt::format("  {}\n", text);
        at += instruction.length;
    }
    return out;
}

}  // namespace vezha::differential
