// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine/dbt/context.h"
#include "engine/dbt/system_interface.h"

/// Page tables (SDM vol. 3A, chapter 4). walk() is declared in system_interface.h.
namespace vezha::engine::dbt {

/// 48-bit linear addresses (LA57 is not shown).
constexpr bool is_canonical(u64 linear) {
    return static_cast<u64>(static_cast<i64>(linear << 16) >> 16) == linear;
}

/// For debuggers and dumps: no rights, no A/D bits. @return false if nothing is mapped
bool walk_quietly(Context& ctx, u64 linear, u64& gpa);

/// Loads the four PDPTEs of PAE paging from `cr3` (SDM vol. 3A, 4.4.1). @return false if a reserved bit is set; nothing
/// is loaded then
bool load_pdptes(Context& ctx, u64 cr3);

/// True if the current CR0, CR4 and EFER mean PAE paging with cached PDPTEs.
inline bool uses_pdptes(const Context& ctx) {
    return (ctx.cr0 & x86::cr0::kPg) && (ctx.cr4 & x86::cr4::kPae) && !(ctx.efer & x86::efer::kLma);
}

}  // namespace vezha::engine::dbt
