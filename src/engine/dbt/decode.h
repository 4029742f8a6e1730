// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Zydis/Status.h>

#include <span>
#include <vector>

#include "engine/dbt/guest_run.h"

namespace vezha::engine::dbt {

/// How the translator treats an instruction.
enum class Kind : u8 {
    Plain,     ///< re-encoded, with its memory operand (if any) on a host address
    Push, Pop, Leave,
    Jump, JumpIf, Call, Return, Loop,  ///< near control flow
    String,    ///< C++, general registers only
    System,    ///< execute_system()
    Gather,    ///< VSIB accesses, C++
    Odd,       ///< rare user instructions in C++ (odd_instructions.cpp)
    Pause,
    Lea,
    Nothing,   ///< hint without effect: prefetch, multi-byte NOP
    Raise,     ///< always faults in this mode: `vector`
};

struct Decoded {
    Instruction insn;
    Kind kind = Kind::Plain;
    u8 vector = 0;
    int memory = -1;         ///< index of the explicit (or XLAT's, MASKMOV's) memory operand
    bool high8 = false;      ///< names AH, CH, DH or BH
    bool vector_like = false;  ///< its 66/F2/F3 prefixes are part of the opcode
    bool locked = false;     ///< LOCK or XCHG with memory
    bool masked = false;     ///< AVX-512 or AVX masked memory access: masked-off elements do not fault
    bool xsave = false;      ///< XSAVE family: size depends on XCR0
    u16 registers = 0;       ///< general registers that it names, explicitly or not
    u8 flags_read = 0, flags_written = 0;  ///< of kFlag...
    u8 flags_live = 0x3f;    ///< flags that matter before it (filled by the block's backward pass)
};

inline constexpr u8 kAllFlags = 0x3f;  ///< CF PF AF ZF SF OF, in this order

/// Index of the general register that `r` is a part of, or -1.
int gpr_index(ZydisRegister r);

/// Decodes one instruction. @param bytes what is readable at it (up to 15 are used) @return a Zydis status
ZyanStatus decode_one(std::span<const u8> bytes, u64 rip, u64 mode, Decoded& out);

}  // namespace vezha::engine::dbt
