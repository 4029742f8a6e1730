// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <x86intrin.h>

#include "engine/dbt/context.h"

namespace vezha::engine::dbt {

/// The guest's time-stamp counter: the host's, shifted (no scaling). tsc_offset = the VM's common offset + TSC_ADJUST.
inline u64 guest_tsc(const Context& ctx) { return __rdtsc() + ctx.tsc_offset; }

/// Makes the guest's TSC read `value` now, as WRMSR to IA32_TIME_STAMP_COUNTER does (TSC_ADJUST moves along).
void set_guest_tsc(Context& ctx, u64 value);
void set_tsc_adjust(Context& ctx, u64 value);

}  // namespace vezha::engine::dbt
