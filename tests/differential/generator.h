// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Zydis/Zydis.h>

#include <string>

#include "tests/differential/machine_state.h"

namespace vezha::differential {

/// splitmix64: small, and the same everywhere.
class Random {
  public:
    explicit Random(u64 seed) : state_(seed) {}
    u64 next() {
        u64 z = (state_ += 0x9e37'79b9'7f4a'7c15);
        z = (z ^ (z >> 30)) * 0xbf58'476d'1ce4'e5b9;
        z = (z ^ (z >> 27)) * 0x94d0'49bb'1331'11eb;
        return z ^ (z >> 31);
    }
    u64 below(u64 bound) { return next() % bound; }
    bool chance(unsigned percent) { return below(100) < percent; }

  private:
    u64 state_;
};

/// Makes cases of random user-mode instructions: random bytes in every encoding space (legacy, VEX, EVEX) that decode to
/// something which may run in user mode, on registers and memory that make most accesses hit the data pages.
class Generator {
  public:
    Generator(u64 seed, u64 xcr0);
    /// One instruction at a random place (also across the border of two code pages).
    Case single();
    /// Up to `length` instructions with conditional forward jumps and loops between them.
    Case sequence(unsigned length);

    static std::string disassemble(const Case& test);

  private:
    void random_state(MachineState& state);
    void random_vectors(MachineState& state);
    u64 random_value();
    /// @return its length, 0 if these bytes will not do. `exact`: register values are those at execution
    unsigned random_instruction(u8* bytes, const MachineState& state, u64 rip, bool exact);
    bool acceptable(const ZydisDecodedInstruction& instruction, const ZydisDecodedOperand* operands,
                    const MachineState& state, u64 rip, bool exact);

    Random random_;
    u64 xcr0_;
    ZydisDecoder decoder_;
};

}  // namespace vezha::differential
