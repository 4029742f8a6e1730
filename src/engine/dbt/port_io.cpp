// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/port_io.h"

#include "engine/dbt/linear_memory.h"

namespace vezha::engine::dbt {

using namespace x86;

namespace {

/// Elements of a REP INS/OUTS per visit: bounds the time without looking at interrupts.
constexpr u64 kChunk = 256;

u64 port_read(Context& ctx, u16 port, unsigned size) { return ctx.bus->read(bus::Space::Pio, port, size); }
void port_write(Context& ctx, u16 port, unsigned size, u64 value) { ctx.bus->write(bus::Space::Pio, port, size, value); }

u64 address_mask(const Instruction& in) { return mask_bytes(in.info.address_width / 8); }

void set_masked(u64& reg, u64 mask, u64 value) {
    if (mask == 0xffff'ffff) reg = value & mask;
    else reg = (reg & ~mask) | (value & mask);
}

Outcome execute_string(Context& ctx, const Instruction& in, unsigned size, bool input) {
    const auto port = static_cast<u16>(ctx.gpr[kRdx]);
    check_port(ctx, port, size);
    const bool rep = in.info.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE);
    const u64 mask = address_mask(in);
    u64& index = ctx.gpr[input ? kRdi : kRsi];
    SegmentIndex segment = kEs;
    if (!input)
        for (unsigned i = 0; i < in.info.operand_count; ++i)
            if (in.operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY) segment = operand_segment(in.operands[i]);
    const u64 step = ctx.flags & rflags::kDf ? ~u64{size} + 1 : size;
    for (u64 done = 0; !rep || (ctx.gpr[kRcx] & mask) != 0; ++done) {
        if (done == kChunk) return Outcome::Repeat;
        const u64 linear = segment_linear(ctx, segment, index & mask, size, input);
        if (input) {
            check_writable(ctx, linear, size, current_privilege(ctx));  // before the device loses the datum
            write_linear(ctx, linear, size, port_read(ctx, port, size), current_privilege(ctx));
        } else {
            port_write(ctx, port, size, read_linear(ctx, linear, size, current_privilege(ctx)));
        }
        set_masked(index, mask, (index & mask) + step);
        if (!rep) break;
        set_masked(ctx.gpr[kRcx], mask, (ctx.gpr[kRcx] & mask) - 1);
        if (ctx.attention.load(std::memory_order_relaxed) && (ctx.gpr[kRcx] & mask)) return Outcome::Repeat;
    }
    return Outcome::Next;
}

}  // namespace

void check_port(Context& ctx, u16 port, unsigned size) {
    if (real_mode(ctx) || (!v86_mode(ctx) && ctx.cpl <= iopl(ctx))) return;
    // Only a 32/64-bit TSS has a bitmap; two bytes are read always, and must lie within the limit.
    if (ctx.tr.unusable() || !(ctx.tr.type() & 8) || ctx.tr.limit < 0x67) raise_gp(0);
    const u64 map = read_linear(ctx, ctx.tr.base + 0x66, 2, Privilege::ImplicitSupervisor);
    const u64 at = map + port / 8;
    if (at + 1 > ctx.tr.limit) raise_gp(0);
    const u64 bits = read_linear(ctx, ctx.tr.base + at, 2, Privilege::ImplicitSupervisor);
    if (bits >> (port & 7) & mask_bytes(1) >> (8 - size)) raise_gp(0);
}

Outcome execute_port_io(Context& ctx, const Instruction& in) {
    const auto mnemonic = in.info.mnemonic;
    switch (mnemonic) {
        case ZYDIS_MNEMONIC_INSB: return execute_string(ctx, in, 1, true);
        case ZYDIS_MNEMONIC_INSW: return execute_string(ctx, in, 2, true);
        case ZYDIS_MNEMONIC_INSD: return execute_string(ctx, in, 4, true);
        case ZYDIS_MNEMONIC_OUTSB: return execute_string(ctx, in, 1, false);
        case ZYDIS_MNEMONIC_OUTSW: return execute_string(ctx, in, 2, false);
        case ZYDIS_MNEMONIC_OUTSD: return execute_string(ctx, in, 4, false);
        default: break;
    }
    const bool input = mnemonic == ZYDIS_MNEMONIC_IN;
    const auto& data = in.operands[input ? 0 : 1];
    const auto& address = in.operands[input ? 1 : 0];
    const auto port = static_cast<u16>(address.type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? address.imm.value.u & 0xff
                                                                                    : ctx.gpr[kRdx]);
    const unsigned size = data.size / 8;
    check_port(ctx, port, size);
    if (input) write_register(ctx, data.reg.value, port_read(ctx, port, size));
    else port_write(ctx, port, size, read_register(ctx, data.reg.value));
    return Outcome::Next;
}

}  // namespace vezha::engine::dbt
