// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine/dbt/thunks.h"

namespace vezha::engine::dbt {

/// What the fast loop cannot do itself. rip is exact.
enum class Next : u8 {
    Attention,   ///< look at Context::attention
    Translate,   ///< no block for rip in the present mode
    System,      ///< run.exit_site, parked C++
    Fault,       ///< ctx.fault
    Bounce,      ///< run a bounce block at rip
    Stepped,     ///< a single-instruction block is done: shadows end, TF traps
    Yield,       ///< the guest spins
};

/// Runs guest code until something needs C++ with parked vector state. General registers only; the vCPU counts as running.
Next dispatch(GuestRun& run, const Thunks& thunks);
/// Runs the code at a block's entry and leaves the reason in run.
void execute(GuestRun& run, const Thunks& thunks, const u8* entry);
/// The mode that the next block needs.
u64 block_mode(const Context& ctx);

}  // namespace vezha::engine::dbt
