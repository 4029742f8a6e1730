// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine/dbt/guest_run.h"

namespace vezha::engine::dbt {

/// A string instruction taken apart (SDM vol. 1, 7.3.9). General registers only.
struct StringForm {
    enum What : u8 { Move, Store, Load, Scan, Compare } what = Move;
    unsigned size = 1;
    bool repeat = false, until_equal = false;
    u64 address_mask = 0, linear_mask = 0, source_base = 0, destination_base = 0;
    bool reads() const { return what == Move || what == Load || what == Compare; }
    bool uses_destination() const { return what != Load; }
    bool writes() const { return what == Move || what == Store; }
};
StringForm string_form(const Context& ctx, const Instruction& instruction);
/// Moves RSI, RDI and RCX on by `count` elements.
void string_advance(Context& ctx, const StringForm& form, u64 count, bool down);
/// Arithmetic flags of `cmp left, right`.
u64 compare_flags(u64 left, u64 right, unsigned size);

}  // namespace vezha::engine::dbt
