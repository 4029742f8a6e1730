// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>

#include "base/check.h"
#include "base/types.h"

namespace vezha::engine::dbt {

/// Writes x86-64 machine code. Only what the translator needs; the caller guarantees room.
class Assembler {
  public:
    explicit Assembler(u8* at) : at_(at) {}
    u8* at() const { return at_; }
    void set(u8* at) { at_ = at; }

    void byte(unsigned value) { *at_++ = static_cast<u8>(value); }
    void bytes(const u8* from, usize count) {
        std::memcpy(at_, from, count);
        at_ += count;
    }
    void u32le(u32 value) {
        std::memcpy(at_, &value, 4);
        at_ += 4;
    }
    void u64le(u64 value) {
        std::memcpy(at_, &value, 8);
        at_ += 8;
    }

    /// Operand-size choice of the plain forms below.
    enum Width : u8 { k16, k32, k64 };

    /// ModRM [+ SIB + disp] for [base + index * scale + disp]; -1 for none. No RIP-relative forms.
    void memory(int reg, int base, int index, unsigned scale, i32 disp) {
        const unsigned r = (static_cast<unsigned>(reg) & 7) << 3;
        const unsigned ss = scale == 8 ? 3 : scale == 4 ? 2 : scale == 2 ? 1 : 0;
        if (base < 0) {  // mod 00, SIB without base: disp32
            byte(r | 4);
            byte(ss << 6 | (index < 0 ? 4u : static_cast<unsigned>(index) & 7) << 3 | 5);
            u32le(static_cast<u32>(disp));
            return;
        }
        const unsigned b = static_cast<unsigned>(base) & 7;
        const bool sib = index >= 0 || b == 4;
        const unsigned mod = disp == 0 && b != 5 ? 0 : disp >= -128 && disp < 128 ? 1 : 2;
        byte(mod << 6 | r | (sib ? 4 : b));
        if (sib) byte(ss << 6 | (index < 0 ? 4u : static_cast<unsigned>(index) & 7) << 3 | b);
        if (mod == 1) byte(static_cast<u8>(disp));
        if (mod == 2) u32le(static_cast<u32>(disp));
    }
    void rex(bool w, int reg, int base, int index, bool force = false) {
        const unsigned value = 0x40 | (w ? 8u : 0u) | (reg >= 8 ? 4u : 0u) | (index >= 8 ? 2u : 0u) | (base >= 8 ? 1u : 0u);
        if (value != 0x40 || force) byte(value);
    }
    /// One-byte opcode with a memory operand.
    void op_memory(Width width, unsigned opcode, int reg, int base, int index = -1, unsigned scale = 1, i32 disp = 0) {
        if (width == k16) byte(0x66);
        rex(width == k64, reg, base, index);
        byte(opcode);
        memory(reg, base, index, scale, disp);
    }
    void op_registers(Width width, unsigned opcode, int reg, int rm) {
        if (width == k16) byte(0x66);
        rex(width == k64, reg, rm, -1);
        byte(opcode);
        byte(0xc0 | (static_cast<unsigned>(reg) & 7) << 3 | (static_cast<unsigned>(rm) & 7));
    }
    void lea(Width width, int to, int base, int index = -1, unsigned scale = 1, i32 disp = 0) {
        op_memory(width, 0x8d, to, base, index, scale, disp);
    }
    void move(Width width, int to, int from) { op_registers(width, 0x8b, to, from); }
    void load(Width width, int to, int base, int index = -1) { op_memory(width, 0x8b, to, base, index); }
    void store(Width width, int from, int base, int index = -1) { op_memory(width, 0x89, from, base, index); }
    /// Shortest of mov r32, imm32; mov r64, simm32; mov r64, imm64.
    void move_immediate(int to, u64 value) {
        if (value <= 0xffff'ffff) {
            rex(false, 0, to, -1);
            byte(0xb8 | (static_cast<unsigned>(to) & 7));
            u32le(static_cast<u32>(value));
        } else if (fits32(value)) {
            rex(true, 0, to, -1);
            byte(0xc7);
            byte(0xc0 | (static_cast<unsigned>(to) & 7));
            u32le(static_cast<u32>(value));
        } else {
            rex(true, 0, to, -1);
            byte(0xb8 | (static_cast<unsigned>(to) & 7));
            u64le(value);
        }
    }
    void zero_extend16(int to, int from) {  // movzx r32, r16
        rex(false, to, from, -1);
        byte(0x0f);
        byte(0xb7);
        byte(0xc0 | (static_cast<unsigned>(to) & 7) << 3 | (static_cast<unsigned>(from) & 7));
    }
    static bool fits32(u64 value) { return static_cast<i64>(value) == static_cast<i32>(value); }

    // ---- GS-relative: gs:[disp] and gs:[index * 8 + disp]
    void gs_op(Width width, unsigned opcode, int reg, u32 disp) {
        byte(0x65);
        op_memory(width, opcode, reg, -1, -1, 1, static_cast<i32>(disp));
    }
    void gs_load(int to, u32 disp, Width width = k64) { gs_op(width, 0x8b, to, disp); }
    void gs_store(int from, u32 disp, Width width = k64) { gs_op(width, 0x89, from, disp); }
    void gs_store_immediate32(u32 disp, u32 value) {
        gs_op(k32, 0xc7, 0, disp);
        u32le(value);
    }
    void gs_store_immediate64(u32 disp, u64 value) {
        if (fits32(value)) {
            gs_op(k64, 0xc7, 0, disp);
            u32le(static_cast<u32>(value));
        } else {
            gs_store_immediate32(disp, static_cast<u32>(value));
            gs_store_immediate32(disp + 4, static_cast<u32>(value >> 32));
        }
    }
    void gs_op_indexed(unsigned opcode, int reg, int index, u32 disp) {
        byte(0x65);
        op_memory(k64, opcode, reg, -1, index, 8, static_cast<i32>(disp));
    }
    void gs_jump(u32 disp) { gs_op(k32, 0xff, 4, disp); }

    /// pext to, from, qword gs:[disp] (BMI2; leaves flags alone).
    void pext_gs(int to, int from, u32 disp) {
        byte(0x65);
        vex_0f38(to, from, 4, 0xf5, 2);
        byte((static_cast<unsigned>(to) & 7) << 3 | 4);
        byte(0x25);
        u32le(disp);
    }
    /// sarx to, from, count (64-bit; leaves flags alone).
    void sarx(int to, int from, int count) {
        vex_0f38(to, count, from, 0xf7, 2);
        byte(0xc0 | (static_cast<unsigned>(to) & 7) << 3 | (static_cast<unsigned>(from) & 7));
    }
    /// rorx to, from, count (64-bit; leaves flags alone).
    void rorx(int to, int from, unsigned count) {
        byte(0xc4);
        byte((to >= 8 ? 0u : 0x80u) | 0x40 | (from >= 8 ? 0u : 0x20u) | 3);
        byte(0x80 | 0x78 | 3);
        byte(0xf0);
        byte(0xc0 | (static_cast<unsigned>(to) & 7) << 3 | (static_cast<unsigned>(from) & 7));
        byte(count);
    }

    // ---- Jumps. Forward ones return the place to be given to bind().
    u8* jump_forward() {
        byte(0xe9);
        u32le(0);
        return at_ - 4;
    }
    u8* jcc_forward(unsigned condition) {
        byte(0x0f);
        byte(0x80 | condition);
        u32le(0);
        return at_ - 4;
    }
    u8* short_forward(unsigned opcode) {  // jrcxz, jcc rel8, jmp rel8
        byte(opcode);
        byte(0);
        return at_ - 1;
    }
    void bind(u8* rel32) const { link(rel32, at_); }
    void bind_short(u8* rel8) const {
        CHECK(at_ - (rel8 + 1) < 128);
        *rel8 = static_cast<u8>(at_ - (rel8 + 1));
    }
    void jump(const u8* target) {
        byte(0xe9);
        u32le(0);
        link(at_ - 4, target);
    }
    void jcc(unsigned condition, const u8* target) { link(jcc_forward(condition), target); }
    static void link(u8* rel32, const u8* target) {
        const i32 distance = static_cast<i32>(target - (rel32 + 4));
        std::memcpy(rel32, &distance, 4);
    }
    /// Multi-byte NOPs so that at() + `ahead` is a multiple of `alignment`.
    void align(unsigned alignment, unsigned ahead = 0) {
        unsigned count = static_cast<unsigned>(-(reinterpret_cast<u64>(at_) + ahead)) & (alignment - 1);
        static constexpr u8 kNops[8][8] = {{}, {0x90}, {0x66, 0x90}, {0x0f, 0x1f, 0x00}, {0x0f, 0x1f, 0x40, 0},
                                           {0x0f, 0x1f, 0x44, 0, 0}, {0x66, 0x0f, 0x1f, 0x44, 0, 0},
                                           {0x0f, 0x1f, 0x80, 0, 0, 0, 0}};
        while (count > 0) {
            const unsigned part = count > 7 ? 7 : count;
            bytes(kNops[part], part);
            count -= part;
        }
    }

  private:
    /// VEX.LZ.<pp>.0F38.W1; base: 4 for absolute memory.
    void vex_0f38(int reg, int vvvv, int base, unsigned opcode, unsigned pp) {
        byte(0xc4);
        byte((reg >= 8 ? 0u : 0x80u) | 0x40 | (base >= 8 ? 0u : 0x20u) | 2);
        byte(0x80 | (~static_cast<unsigned>(vvvv) & 15) << 3 | pp);
        byte(opcode);
    }
    u8* at_;
};

}  // namespace vezha::engine::dbt
