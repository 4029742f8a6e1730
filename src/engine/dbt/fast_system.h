// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine/dbt/guest_run.h"

namespace vezha::engine::dbt {

enum class Fast : u8 {
    No,       ///< not a case for here: nothing was changed
    Done,     ///< rip is behind the instruction, or wherever it led
    Shadow,   ///< Done, and one more instruction must run before an interrupt may come (STI)
};

/// The system instructions that kernels execute most, in their usual form: 64-bit code, no trap flag, nothing to fault. Whatever is
/// unusual is left to execute_system(). General registers only.
Fast fast_system(GuestRun& run, const Instruction& instruction);

}  // namespace vezha::engine::dbt
