// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine/dbt/guest_run.h"

/// Guest accesses from C++ with parked vector state: page crossing, devices, pages with code.
namespace vezha::engine::dbt {

/// Checks every page of the access, then copies. @return false with ctx.fault set
bool read_guest(Context& ctx, u64 linear, void* to, u64 size);
bool write_guest(Context& ctx, u64 linear, const void* from, u64 size);

/// The two halves of a bounce block's access (guest_run.h: bounce_prepare, bounce_commit).
u64 prepare_access(GuestRun& run);
void commit_access(GuestRun& run);

/// Any instruction of SiteKind String, Gather or Odd, one element at a time where it repeats.
/// @return false with ctx.fault set; otherwise rip has moved on or stays for the rest
bool execute_slowly(GuestRun& run, const SystemSite& site);

}  // namespace vezha::engine::dbt
