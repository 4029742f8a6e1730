// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine/dbt/operands.h"

namespace vezha::engine::dbt {

/// SYSCALL, SYSRET, SYSENTER, SYSEXIT (SDM vol. 2; AMD64 APM vol. 2, 6.1). They raise #UD and #GP.
void execute_syscall(Context& ctx, const Instruction& in);
void execute_sysret(Context& ctx, const Instruction& in);
void execute_sysenter(Context& ctx);
void execute_sysexit(Context& ctx, const Instruction& in);

/// The guest sees an AMD processor: a few instructions differ by vendor.
bool shows_amd(const Context& ctx);

}  // namespace vezha::engine::dbt
