// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine/dbt/context.h"

/// Writes to control and debug registers with their checks and consequences (SDM vol. 3A, 2.5 and 4.1; vol. 3B, 17.2).
/// They raise #GP (GuestFault) and have changed nothing then.
namespace vezha::engine::dbt {

u64 read_control(const Context& ctx, unsigned index);
void write_cr0(Context& ctx, u64 value);
void write_cr3(Context& ctx, u64 value);
void write_cr4(Context& ctx, u64 value);
void write_control(Context& ctx, unsigned index, u64 value);
void write_xcr0(Context& ctx, u64 value);

u64 read_debug(Context& ctx, unsigned index);
void write_debug(Context& ctx, unsigned index, u64 value);

/// CR4 bits that this guest's CPUID makes writable.
u64 allowed_cr4(const Context& ctx);

}  // namespace vezha::engine::dbt
