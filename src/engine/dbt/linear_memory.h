// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine/dbt/context.h"
#include "engine/dbt/guest_fault.h"

/// How the system half reads and writes guest memory by linear address. Every function throws GuestFault (#PF, or #GP
/// for a non-canonical address). An access may cross a page; both pages are checked before a byte is stored.
namespace vezha::engine::dbt {

/// Whose rights an access has. Descriptor tables and TSS are accessed as ImplicitSupervisor: supervisor whatever the
/// CPL is, and EFLAGS.AC does not lift SMAP (SDM vol. 3A, 4.6).
enum class Privilege : u8 { User, Supervisor, ImplicitSupervisor };

inline Privilege current_privilege(const Context& ctx) { return ctx.cpl == 3 ? Privilege::User : Privilege::Supervisor; }

/// 1 to 8 bytes.
u64 read_linear(Context& ctx, u64 linear, unsigned size, Privilege privilege);
void write_linear(Context& ctx, u64 linear, unsigned size, u64 value, Privilege privilege);
/// Raises what a store to [linear, linear + size) would raise; size up to a page.
void check_writable(Context& ctx, u64 linear, u64 size, Privilege privilege);

/// Sets bits in the byte at `linear` atomically: a descriptor's accessed or busy bit.
void set_bits_linear(Context& ctx, u64 linear, u8 bits);

}  // namespace vezha::engine::dbt
