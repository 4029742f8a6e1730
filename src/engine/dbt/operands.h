// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Zydis/DecoderTypes.h>

#include "engine/dbt/context.h"
#include "engine/dbt/segments.h"
#include "engine/dbt/system_interface.h"

/// Operands of instructions that the system half executes: registers in Context, memory through the segments.
namespace vezha::engine::dbt {

/// General registers of any width; AH, CH, DH, BH too. 32-bit writes clear the upper half.
u64 read_register(const Context& ctx, ZydisRegister reg);
void write_register(Context& ctx, ZydisRegister reg, u64 value);

/// The offset in its segment of a memory operand.
u64 effective_offset(const Context& ctx, const Instruction& in, const ZydisDecodedOperand& operand);
x86::SegmentIndex operand_segment(const ZydisDecodedOperand& operand);
/// Its linear address, checked for `size` bytes. Raises #GP or #SS.
u64 operand_linear(const Context& ctx, const Instruction& in, const ZydisDecodedOperand& operand, u64 size, bool write);

/// Register or memory of `size` bytes with the rights of the current CPL.
u64 read_operand(Context& ctx, const Instruction& in, const ZydisDecodedOperand& operand, unsigned size);
void write_operand(Context& ctx, const Instruction& in, const ZydisDecodedOperand& operand, unsigned size, u64 value);

inline u64 next_rip(const Context& ctx, const Instruction& in) {
    const u64 next = in.rip + in.info.length;
    return in_code64(ctx) ? next : ctx.segment[x86::kCs].default32() ? next & 0xffff'ffff : next & 0xffff;
}

}  // namespace vezha::engine::dbt
