// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/operands.h"

#include <Zydis/Register.h>

#include "engine/dbt/linear_memory.h"

namespace vezha::engine::dbt {

using namespace x86;

u64 read_register(const Context& ctx, ZydisRegister reg) {
    if (reg >= ZYDIS_REGISTER_RAX && reg <= ZYDIS_REGISTER_R15) return ctx.gpr[reg - ZYDIS_REGISTER_RAX];
    if (reg >= ZYDIS_REGISTER_EAX && reg <= ZYDIS_REGISTER_R15D)
        return ctx.gpr[reg - ZYDIS_REGISTER_EAX] & 0xffff'ffff;
    if (reg >= ZYDIS_REGISTER_AX && reg <= ZYDIS_REGISTER_R15W) return ctx.gpr[reg - ZYDIS_REGISTER_AX] & 0xffff;
    switch (reg) {
        case ZYDIS_REGISTER_AH:
        case ZYDIS_REGISTER_CH:
        case ZYDIS_REGISTER_DH:
        case ZYDIS_REGISTER_BH: return ctx.gpr[reg - ZYDIS_REGISTER_AH] >> 8 & 0xff;
        case ZYDIS_REGISTER_NONE: return 0;
        default: break;
    }
    if (reg >= ZYDIS_REGISTER_AL && reg <= ZYDIS_REGISTER_BL) return ctx.gpr[reg - ZYDIS_REGISTER_AL] & 0xff;
    if (reg >= ZYDIS_REGISTER_SPL && reg <= ZYDIS_REGISTER_R15B) return ctx.gpr[reg - ZYDIS_REGISTER_SPL + 4] & 0xff;
    return 0;
}

void write_register(Context& ctx, ZydisRegister reg, u64 value) {
    auto merge = [&ctx](unsigned index, u64 mask, u64 bits) { ctx.gpr[index] = (ctx.gpr[index] & ~mask) | (bits & mask); };
    if (reg >= ZYDIS_REGISTER_RAX && reg <= ZYDIS_REGISTER_R15) ctx.gpr[reg - ZYDIS_REGISTER_RAX] = value;
    else if (reg >= ZYDIS_REGISTER_EAX && reg <= ZYDIS_REGISTER_R15D)
        ctx.gpr[reg - ZYDIS_REGISTER_EAX] = value & 0xffff'ffff;
    else if (reg >= ZYDIS_REGISTER_AX && reg <= ZYDIS_REGISTER_R15W)
        merge(static_cast<unsigned>(reg - ZYDIS_REGISTER_AX), 0xffff, value);
    else if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH)
        merge(static_cast<unsigned>(reg - ZYDIS_REGISTER_AH), 0xff00, value << 8);
    else if (reg >= ZYDIS_REGISTER_AL && reg <= ZYDIS_REGISTER_BL)
        merge(static_cast<unsigned>(reg - ZYDIS_REGISTER_AL), 0xff, value);
    else if (reg >= ZYDIS_REGISTER_SPL && reg <= ZYDIS_REGISTER_R15B)
        merge(static_cast<unsigned>(reg - ZYDIS_REGISTER_SPL + 4), 0xff, value);
}

u64 effective_offset(const Context& ctx, const Instruction& in, const ZydisDecodedOperand& operand) {
    const auto& mem = operand.mem;
    u64 offset = mem.disp.has_displacement ? static_cast<u64>(mem.disp.value) : 0;
    if (mem.base == ZYDIS_REGISTER_RIP || mem.base == ZYDIS_REGISTER_EIP) offset += in.rip + in.info.length;
    else offset += read_register(ctx, mem.base);
    offset += read_register(ctx, mem.index) * mem.scale;
    return offset & mask_bytes(in.info.address_width / 8);
}

SegmentIndex operand_segment(const ZydisDecodedOperand& operand) {
    switch (operand.mem.segment) {
        case ZYDIS_REGISTER_ES: return kEs;
        case ZYDIS_REGISTER_CS: return kCs;
        case ZYDIS_REGISTER_SS: return kSs;
        case ZYDIS_REGISTER_FS: return kFs;
        case ZYDIS_REGISTER_GS: return kGs;
        default: return kDs;
    }
}

u64 operand_linear(const Context& ctx, const Instruction& in, const ZydisDecodedOperand& operand, u64 size, bool write) {
    return segment_linear(ctx, operand_segment(operand), effective_offset(ctx, in, operand), size, write);
}

u64 read_operand(Context& ctx, const Instruction& in, const ZydisDecodedOperand& operand, unsigned size) {
    if (operand.type == ZYDIS_OPERAND_TYPE_REGISTER) return read_register(ctx, operand.reg.value) & mask_bytes(size);
    if (operand.type == ZYDIS_OPERAND_TYPE_IMMEDIATE) return operand.imm.value.u & mask_bytes(size);
    return read_linear(ctx, operand_linear(ctx, in, operand, size, false), size, current_privilege(ctx));
}

void write_operand(Context& ctx, const Instruction& in, const ZydisDecodedOperand& operand, unsigned size, u64 value) {
    if (operand.type == ZYDIS_OPERAND_TYPE_REGISTER) return write_register(ctx, operand.reg.value, value);
    write_linear(ctx, operand_linear(ctx, in, operand, size, true), size, value, current_privilege(ctx));
}

}  // namespace vezha::engine::dbt
