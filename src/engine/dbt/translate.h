// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "engine/dbt/code_cache.h"
#include "engine/dbt/decode.h"
#include "engine/dbt/thunks.h"

namespace vezha::engine::dbt {

/// What to translate: the guest bytes at `rip`, as far as they lie in the same page, and how they go on.
struct BlockSource {
    u64 gpa = 0, rip = 0, mode = 0;
    std::span<const u8> bytes;  ///< to the end of the page
    u64 second_gpa = 0;         ///< page that follows, if the caller fetched it: for an instruction that crosses
    std::span<const u8> crossing;  ///< 15 bytes over both pages, if so
};

enum class TranslateStatus : u8 {
    Done,
    NeedsNextPage,  ///< the first instruction goes on in the next page: give `crossing`
};

/// Translates one block into the cache (its mutex held, room checked) without publishing it. Undecodable bytes become a
/// block that raises #UD or #GP.
TranslateStatus translate(CodeCache& cache, const Thunks& thunks, const BlockSource& source, Block*& out);

}  // namespace vezha::engine::dbt
