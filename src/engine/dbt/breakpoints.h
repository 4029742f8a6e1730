// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine/dbt/context.h"

/// The guest's own breakpoint registers (SDM vol. 3B, 18.2). While DR7 enables one, code runs one instruction at a time:
/// slow, and as exact as a debugger in the guest needs.
namespace vezha::engine::dbt {

inline bool breakpoints_enabled(const Context& ctx) { return ctx.dr7 & 0xff; }

/// What the instruction at rip will hit.
struct BreakpointHits {
    u64 before = 0;  ///< DR6 bits of instruction breakpoints: a fault, unless RF
    u64 after = 0;   ///< DR6 bits of data breakpoints: a trap
};
/// Vector state parked.
BreakpointHits breakpoint_hits(Context& ctx);

}  // namespace vezha::engine::dbt
