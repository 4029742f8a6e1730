// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/breakpoints.h"

#include "engine/dbt/decode.h"
#include "engine/dbt/operands.h"
#include "engine/dbt/paging.h"

namespace vezha::engine::dbt {

using namespace x86;

namespace {

enum Condition : unsigned { kExecute, kWrite, kIo, kAccess };

struct Breakpoint {
    bool enabled;
    Condition condition;
    u64 first, last;  // linear
};

Breakpoint breakpoint(const Context& ctx, unsigned i) {
    static constexpr u8 kLength[] = {1, 2, 8, 4};
    const u64 length = kLength[ctx.dr7 >> (18 + 4 * i) & 3];
    const u64 first = ctx.dr[i] & ~(length - 1);
    return {(ctx.dr7 >> (2 * i) & 3) != 0, static_cast<Condition>(ctx.dr7 >> (16 + 4 * i) & 3), first, first + length - 1};
}

/// The instruction's bytes as far as they can be read without a fault.
usize fetch(Context& ctx, u64 linear, u8 (&bytes)[15]) {
    usize count = 0;
    for (; count < sizeof bytes; ++count) {
        u64 gpa = 0;
        if (!walk_quietly(ctx, linear + count, gpa)) break;
        const u8* host = ram_pointer(ctx, gpa, false);
        if (!host) break;
        bytes[count] = *host;
    }
    return count;
}

u64 data_hits(Context& ctx, u64 linear_rip) {
    u8 bytes[15]{};
    const usize count = fetch(ctx, linear_rip, bytes);
    Decoded d;
    if (count == 0 || !ZYAN_SUCCESS(decode_one({bytes, count}, ctx.rip, ctx.mode_key, d))) return 0;
    u64 hits = 0;
    for (unsigned o = 0; o < d.insn.info.operand_count; ++o) {
        const auto& operand = d.insn.operands[o];
        if (operand.type != ZYDIS_OPERAND_TYPE_MEMORY || operand.mem.type == ZYDIS_MEMOP_TYPE_AGEN || operand.size == 0) continue;
        const bool write = operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
        u64 offset = effective_offset(ctx, d.insn, operand);
        const u64 size = operand.size / 8;
        // A push names the stack pointer before it moves.
        if (write && (operand.mem.base == ZYDIS_REGISTER_RSP || operand.mem.base == ZYDIS_REGISTER_ESP) &&
            operand.visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
            offset -= size;
        const SegmentIndex segment = operand_segment(operand);
        u64 first = offset + (!in_code64(ctx) || segment >= kFs ? ctx.segment[segment].base : 0);
        if (!in_code64(ctx)) first &= 0xffff'ffff;
        for (unsigned i = 0; i < 4; ++i) {
            const Breakpoint b = breakpoint(ctx, i);
            if (b.enabled && (b.condition == kAccess || (b.condition == kWrite && write)) && first <= b.last &&
                first + size - 1 >= b.first)
                hits |= u64{1} << i;
        }
    }
    return hits;
}

}  // namespace

BreakpointHits breakpoint_hits(Context& ctx) {
    BreakpointHits hits;
    const u64 rip = in_code64(ctx) ? ctx.rip : (ctx.rip + ctx.segment[kCs].base) & 0xffff'ffff;
    bool data = false;
    for (unsigned i = 0; i < 4; ++i) {
        const Breakpoint b = breakpoint(ctx, i);
        if (!b.enabled) continue;
        if (b.condition == kExecute) {
            if (b.first == rip && !(ctx.flags & rflags::kRf)) hits.before |= u64{1} << i;
        } else {
            data = data || b.condition != kIo;
        }
    }
    if (data && !hits.before) hits.after = data_hits(ctx, rip);
    return hits;
}

}  // namespace vezha::engine::dbt
