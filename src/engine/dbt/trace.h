// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "engine/dbt/code_cache.h"

namespace vezha::engine::dbt {

/// Whether VEZHA_DBT_TRACE is set: 1 prints each block's guest code as it is translated, 2 its host code too.
int trace_enabled();
void trace_block(const Block& block, std::span<const u8> guest);
/// Host disassembly of [from, to), a line per instruction.
std::string disassemble(const u8* from, const u8* to, u64 rip, unsigned bits);

}  // namespace vezha::engine::dbt
