// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <string>
#include <vector>

#include "arch/x86/cpu_state.h"
#include "tests/differential/layout.h"

namespace vezha::differential {

/// What a case starts from and, after it, what is compared.
struct MachineState {
    std::array<u64, 16> gpr{};
    u64 rip = 0;
    u64 flags = 2;  ///< arithmetic flags and DF
    x86::XsaveArea xsave{};
    std::array<u8, kDataSize> data{};
};

/// How a case ended: at its end, or by an exception.
struct Outcome {
    MachineState state;
    int vector = -1;  ///< -1: reached the end
    u32 error_code = 0;
    u64 fault_address = 0;  ///< for page faults
};

/// A piece of user-mode code at `state.rip`, ending with a jump to kExit.
struct Case {
    MachineState start;
    std::vector<u8> code;
    u64 undefined_flags = 0;  ///< what the code leaves undefined; not compared
};

inline constexpr u64 kComparedFlags = 0xcd5;  // CF PF AF ZF SF DF OF

/// Differences as lines for people; empty if the outcomes agree.
std::string compare(const Case& test, const Outcome& native, const Outcome& engine, u64 xcr0);

}  // namespace vezha::differential
