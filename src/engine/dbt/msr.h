// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "engine/dbt/context.h"

namespace vezha::engine::dbt {

/// RDMSR and WRMSR of a guest. @return false for #GP: the register does not exist, is read-only or the value has
/// reserved bits (SDM vol. 4).
bool read_msr(Context& ctx, u32 index, u64& value);
bool write_msr(Context& ctx, u32 index, u64 value);

/// What save() stores in CpuState::msrs, in the order in which load() must set it.
std::span<const u32> saved_msrs();

}  // namespace vezha::engine::dbt
