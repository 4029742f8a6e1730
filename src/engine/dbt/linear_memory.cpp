// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/linear_memory.h"

#include <bit>
#include <cstring>

#include "engine/dbt/paging.h"
#include "engine/dbt/system_interface.h"

namespace vezha::engine::dbt {

namespace {

u64 physical_of(Context& ctx, u64 linear, AccessKind kind, Privilege privilege) {
    const WalkResult r =
        walk(ctx, linear, kind, privilege == Privilege::User, privilege == Privilege::ImplicitSupervisor);
    if (!r.ok) throw GuestFault{r.fault};
    return r.gpa;
}

u64 read_within_page(Context& ctx, u64 gpa, unsigned size) {
    if (const u8* host = ram_pointer(ctx, gpa, false)) {
        u64 value = 0;
        // One access where the size allows: another vCPU may store at the same time.
        switch (size) {
            case 1: return *host;
            case 2: { u16 v; std::memcpy(&v, host, 2); return v; }
            case 4: { u32 v; std::memcpy(&v, host, 4); return v; }
            case 8: { std::memcpy(&value, host, 8); return value; }
            default: std::memcpy(&value, host, size); return value;
        }
    }
    if (std::has_single_bit(size)) return physical_read(ctx, gpa, size);
    u64 value = 0;
    for (unsigned i = 0; i < size; ++i) value |= physical_read(ctx, gpa + i, 1) << (8 * i);
    return value;
}

void write_within_page(Context& ctx, u64 gpa, unsigned size, u64 value) {
    if (std::has_single_bit(size)) return physical_write(ctx, gpa, size, value);
    for (unsigned i = 0; i < size; ++i) physical_write(ctx, gpa + i, 1, (value >> (8 * i)) & 0xff);
}

u64 next_page(const Context& ctx, u64 linear) {
    const u64 next = align_down(linear, kPageSize) + kPageSize;
    return ctx.efer & x86::efer::kLma ? next : next & 0xffff'ffff;
}

}  // namespace

u64 read_linear(Context& ctx, u64 linear, unsigned size, Privilege privilege) {
    const u64 room = kPageSize - (linear & (kPageSize - 1));
    const u64 first = physical_of(ctx, linear, AccessKind::Read, privilege);
    if (size <= room) return read_within_page(ctx, first, size);
    const u64 second = physical_of(ctx, next_page(ctx, linear), AccessKind::Read, privilege);
    const auto low = static_cast<unsigned>(room);
    return read_within_page(ctx, first, low) | read_within_page(ctx, second, size - low) << (8 * low);
}

void write_linear(Context& ctx, u64 linear, unsigned size, u64 value, Privilege privilege) {
    const u64 room = kPageSize - (linear & (kPageSize - 1));
    const u64 first = physical_of(ctx, linear, AccessKind::Write, privilege);
    if (size <= room) return write_within_page(ctx, first, size, value);
    const u64 second = physical_of(ctx, next_page(ctx, linear), AccessKind::Write, privilege);
    const auto low = static_cast<unsigned>(room);
    write_within_page(ctx, first, low, value & mask_bytes(low));
    write_within_page(ctx, second, size - low, (value >> (8 * low)) & mask_bytes(size - low));
}

void check_writable(Context& ctx, u64 linear, u64 size, Privilege privilege) {
    physical_of(ctx, linear, AccessKind::Write, privilege);
    if (size > kPageSize - (linear & (kPageSize - 1)))
        physical_of(ctx, next_page(ctx, linear), AccessKind::Write, privilege);
}

void set_bits_linear(Context& ctx, u64 linear, u8 bits) {
    const u64 gpa = physical_of(ctx, linear, AccessKind::Write, Privilege::ImplicitSupervisor);
    if (u8* host = ram_pointer(ctx, gpa, true)) {
        __atomic_fetch_or(host, bits, __ATOMIC_ACQ_REL);
        physical_written(ctx, gpa, 1);
    } else {
        physical_write(ctx, gpa, 1, physical_read(ctx, gpa, 1) | bits);
    }
}

}  // namespace vezha::engine::dbt
