// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine/dbt/operands.h"

namespace vezha::engine::dbt {

/// Raises #GP(0) unless IOPL or the TSS's I/O permission bitmap allow the ports (SDM vol. 1, 19.5).
void check_port(Context& ctx, u16 port, unsigned size);
/// IN and OUT, INS and OUTS with or without REP. A REP form does a bounded number of elements and asks to come back.
Outcome execute_port_io(Context& ctx, const Instruction& in);

}  // namespace vezha::engine::dbt
