// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine/dbt/operands.h"

namespace vezha::engine::dbt {

/// Instructions that 64-bit code does not have and that are not system instructions: decimal arithmetic, BOUND, ARPL,
/// SALC. @return false if `in` is none of them
bool execute_legacy(Context& ctx, const Instruction& in, Outcome& outcome);

/// LAR, LSL, VERR, VERW (SDM vol. 2): questions about descriptors.
Outcome execute_descriptor_query(Context& ctx, const Instruction& in);

}  // namespace vezha::engine::dbt
