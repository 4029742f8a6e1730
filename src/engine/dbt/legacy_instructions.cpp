// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/legacy_instructions.h"

#include <bit>

#include "engine/dbt/linear_memory.h"

namespace vezha::engine::dbt {

using namespace x86;

namespace {

void set_result_flags(Context& ctx, u8 result) {
    ctx.flags &= ~(rflags::kSf | rflags::kZf | rflags::kPf);
    if (result & 0x80) ctx.flags |= rflags::kSf;
    if (result == 0) ctx.flags |= rflags::kZf;
    if (!(std::popcount(result) & 1)) ctx.flags |= rflags::kPf;
}

void set_flag(Context& ctx, u64 bit, bool on) { ctx.flags = on ? ctx.flags | bit : ctx.flags & ~bit; }

u8 al(const Context& ctx) { return static_cast<u8>(ctx.gpr[kRax]); }
void set_ax(Context& ctx, u16 value) { ctx.gpr[kRax] = (ctx.gpr[kRax] & ~u64{0xffff}) | value; }
void set_al(Context& ctx, u8 value) { ctx.gpr[kRax] = (ctx.gpr[kRax] & ~u64{0xff}) | value; }

void decimal_adjust(Context& ctx, bool subtract) {
    const u8 old = al(ctx);
    const bool old_carry = ctx.flags & rflags::kCf;
    u8 value = old;
    bool carry = false;
    if ((value & 15) > 9 || (ctx.flags & rflags::kAf)) {
        carry = old_carry || (subtract ? value < 6 : value > 0xf9);
        value = static_cast<u8>(subtract ? value - 6 : value + 6);
        set_flag(ctx, rflags::kAf, true);
    } else {
        set_flag(ctx, rflags::kAf, false);
    }
    if (old > 0x99 || old_carry) {
        value = static_cast<u8>(subtract ? value - 0x60 : value + 0x60);
        carry = true;
    } else if (!subtract) {
        carry = false;
    }
    set_flag(ctx, rflags::kCf, carry);
    set_al(ctx, value);
    set_result_flags(ctx, value);
}

void ascii_adjust(Context& ctx, bool subtract) {
    const bool adjust = (al(ctx) & 15) > 9 || (ctx.flags & rflags::kAf);
    u16 ax = static_cast<u16>(ctx.gpr[kRax]);
    if (adjust) ax = static_cast<u16>(subtract ? ax - 6 - 0x100 : ax + 0x106);
    set_flag(ctx, rflags::kAf, adjust);
    set_flag(ctx, rflags::kCf, adjust);
    set_ax(ctx, ax & 0xff0f);
}

void bound(Context& ctx, const Instruction& in) {
    const unsigned size = in.operands[0].size / 8;
    const u64 linear = operand_linear(ctx, in, in.operands[1], 2 * size, false);
    auto extend = [size](u64 v) { return size == 2 ? i64{static_cast<i16>(v)} : i64{static_cast<i32>(v)}; };
    const i64 index = extend(read_operand(ctx, in, in.operands[0], size));
    const i64 low = extend(read_linear(ctx, linear, size, current_privilege(ctx)));
    const i64 high = extend(read_linear(ctx, (linear + size) & 0xffff'ffff, size, current_privilege(ctx)));
    if (index < low || index > high) raise(kBound);
}

void arpl(Context& ctx, const Instruction& in) {
    if (real_or_v86(ctx)) raise_ud();
    const u64 to = read_operand(ctx, in, in.operands[0], 2), from = read_operand(ctx, in, in.operands[1], 2);
    const bool lower = (to & 3) < (from & 3);
    if (lower) write_operand(ctx, in, in.operands[0], 2, (to & ~u64{3}) | (from & 3));
    set_flag(ctx, rflags::kZf, lower);
}

}  // namespace

bool execute_legacy(Context& ctx, const Instruction& in, Outcome& outcome) {
    outcome = Outcome::Next;
    switch (in.info.mnemonic) {
        case ZYDIS_MNEMONIC_DAA: decimal_adjust(ctx, false); return true;
        case ZYDIS_MNEMONIC_DAS: decimal_adjust(ctx, true); return true;
        case ZYDIS_MNEMONIC_AAA: ascii_adjust(ctx, false); return true;
        case ZYDIS_MNEMONIC_AAS: ascii_adjust(ctx, true); return true;
        case ZYDIS_MNEMONIC_AAM: {
            const u8 base = static_cast<u8>(in.operands[0].imm.value.u);
            if (base == 0) raise(kDivideError);
            const u8 value = al(ctx);
            set_ax(ctx, static_cast<u16>((value / base) << 8 | value % base));
            set_result_flags(ctx, al(ctx));
            return true;
        }
        case ZYDIS_MNEMONIC_AAD: {
            const u8 base = static_cast<u8>(in.operands[0].imm.value.u);
            set_ax(ctx, static_cast<u8>(al(ctx) + (ctx.gpr[kRax] >> 8 & 0xff) * base));
            set_result_flags(ctx, al(ctx));
            return true;
        }
        case ZYDIS_MNEMONIC_SALC: set_al(ctx, ctx.flags & rflags::kCf ? 0xff : 0); return true;
        case ZYDIS_MNEMONIC_BOUND: bound(ctx, in); return true;
        case ZYDIS_MNEMONIC_ARPL: arpl(ctx, in); return true;
        default: return false;
    }
}

Outcome execute_descriptor_query(Context& ctx, const Instruction& in) {
    if (real_or_v86(ctx)) raise_ud();
    const auto mnemonic = in.info.mnemonic;
    const bool verify = mnemonic == ZYDIS_MNEMONIC_VERR || mnemonic == ZYDIS_MNEMONIC_VERW;
    const auto selector = static_cast<u16>(read_operand(ctx, in, in.operands[verify ? 0 : 1], 2));
    Descriptor d;
    bool ok = try_read_descriptor(ctx, selector, d);
    const unsigned rpl = selector & 3;
    if (ok && !(d.code() && d.conforming())) ok = d.dpl() >= ctx.cpl && d.dpl() >= rpl;
    if (ok && !d.code_or_data()) {
        const u32 both = 1u << kLdt | 1u << kTssAvailable | 1u << kTssBusy;
        const u32 legacy = 1u << kTss16Available | 1u << kTss16Busy;
        u32 types = 0;
        if (mnemonic == ZYDIS_MNEMONIC_LAR)
            types = in_long_mode(ctx) ? both | 1u << kCallGate
                                      : both | legacy | 1u << kCallGate | 1u << kCallGate16 | 1u << kTaskGate;
        if (mnemonic == ZYDIS_MNEMONIC_LSL) types = in_long_mode(ctx) ? both : both | legacy;
        ok = types >> d.type() & 1;
    }
    if (ok && mnemonic == ZYDIS_MNEMONIC_VERR) ok = d.readable();
    if (ok && mnemonic == ZYDIS_MNEMONIC_VERW) ok = d.writable();
    if (ok && mnemonic == ZYDIS_MNEMONIC_LAR)
        write_operand(ctx, in, in.operands[0], in.operands[0].size / 8, d.low >> 32 & 0x00f0'ff00);
    if (ok && mnemonic == ZYDIS_MNEMONIC_LSL)
        write_operand(ctx, in, in.operands[0], in.operands[0].size / 8, d.segment(selector).limit);
    set_flag(ctx, rflags::kZf, ok);
    return Outcome::Next;
}

}  // namespace vezha::engine::dbt
