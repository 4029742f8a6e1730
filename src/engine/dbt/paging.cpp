// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/paging.h"

namespace vezha::engine::dbt {

using namespace x86;

namespace {

/// One paging-structure entry as it was read, and where.
struct Entry {
    u64 value = 0;
    u64 gpa = 0;
    u8* host = nullptr;  // nullptr: not writable RAM, A and D cannot be set
};

Entry read_entry(Context& ctx, u64 gpa, unsigned size) {
    Entry e{.gpa = gpa};
    e.host = ram_pointer(ctx, gpa, true);
    const u8* from = e.host ? e.host : ram_pointer(ctx, gpa, false);
    if (!from) {
        e.value = mask_bytes(size);  // page tables in MMIO space: nobody's memory reads as ones
    } else if (size == 8) {
        e.value = __atomic_load_n(reinterpret_cast<const u64*>(from), __ATOMIC_ACQUIRE);
    } else {
        e.value = __atomic_load_n(reinterpret_cast<const u32*>(from), __ATOMIC_ACQUIRE);
    }
    return e;
}

/// Sets bits that are clear. @return false if the entry changed meanwhile: the walk starts over
bool set_bits(Context& ctx, Entry& e, unsigned size, u64 bits) {
    if ((e.value & bits) == bits || !e.host) return true;
    if (size == 8) {
        u64 expected = e.value;
        if (!__atomic_compare_exchange_n(reinterpret_cast<u64*>(e.host), &expected, e.value | bits, false,
                                         __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
            return false;
    } else {
        u32 expected = static_cast<u32>(e.value);
        if (!__atomic_compare_exchange_n(reinterpret_cast<u32*>(e.host), &expected, static_cast<u32>(e.value | bits),
                                         false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
            return false;
    }
    e.value |= bits;
    if (ctx.memory->dirty_logging()) physical_written(ctx, e.gpa, size);
    return true;
}

/// What was found. The rights are the product of all levels, before CR0.WP, SMEP and the like.
struct Translation {
    u64 physical = 0;
    u64 page_size = kPageSize;
    bool user = true, writable = true, executable = true, global = false;
};

struct Walk {
    Context& ctx;
    u64 linear;
    bool quiet;
    Entry leaf{};
    unsigned entry_size = 8;
    Translation out{};

    enum class Outcome { Found, NotPresent, Reserved, Retry };

    void accumulate(u64 entry, bool nx_active) {
        out.user &= (entry & pte::kUser) != 0;
        out.writable &= (entry & pte::kWritable) != 0;
        if (nx_active && (entry & pte::kNx)) out.executable = false;
    }

    /// Long mode (levels 4..1) and, from `level` 2 on, PAE.
    Outcome walk64(u64 table, unsigned level) {
        const bool long_mode = ctx.efer & efer::kLma;
        const bool nx = ctx.efer & efer::kNxe;
        u64 reserved = pte::kAddress & ~((u64{1} << ctx.physical_bits) - 1);
        if (!nx) reserved |= pte::kNx;
        if (!long_mode) reserved |= 0x7ff0'0000'0000'0000;
        for (;; --level) {
            const unsigned shift = 12 + 9 * (level - 1);
            Entry e = read_entry(ctx, table + ((linear >> shift) & 511) * 8, 8);
            if (!(e.value & pte::kPresent)) return Outcome::NotPresent;
            const bool large = level > 1 && (e.value & pte::kLarge);
            u64 bad = reserved;
            if (level == 4) bad |= pte::kLarge;
            if (large) bad |= (mask_bytes(8) >> (64 - shift)) & ~u64{0x1fff};  // bit 12 is PAT
            if (e.value & bad) return Outcome::Reserved;
            accumulate(e.value, nx);
            if (level == 1 || large) {
                leaf = e;
                out.page_size = u64{1} << shift;
                out.physical = (e.value & pte::kAddress & ~(out.page_size - 1)) | (linear & (out.page_size - 1));
                out.global = (e.value & pte::kGlobal) && (ctx.cr4 & cr4::kPge);
                return Outcome::Found;
            }
            if (!quiet && !set_bits(ctx, e, 8, pte::kAccessed)) return Outcome::Retry;
            table = e.value & pte::kAddress;
        }
    }

    Outcome walk_pae() {
        const u64 pdpte = ctx.pdpte[(linear >> 30) & 3];
        if (!(pdpte & pte::kPresent)) return Outcome::NotPresent;
        return walk64(pdpte & pte::kAddress, 2);
    }

    Outcome walk32() {
        entry_size = 4;
        Entry pde = read_entry(ctx, (ctx.cr3 & 0xffff'f000) + ((linear >> 22) & 1023) * 4, 4);
        if (!(pde.value & pte::kPresent)) return Outcome::NotPresent;
        if ((pde.value & pte::kLarge) && (ctx.cr4 & cr4::kPse)) {
            // PSE-36: bits 13 and up of the entry are address bits 32 and up; bit 21 is reserved.
            const u64 high = (pde.value >> 13) & 0xff;
            if ((pde.value & (1 << 21)) || ((high << 32) >> ctx.physical_bits)) return Outcome::Reserved;
            accumulate(pde.value, false);
            leaf = pde;
            out.page_size = 4 * kMiB;
            out.physical = (pde.value & 0xffc0'0000) | (high << 32) | (linear & 0x3f'ffff);
            out.global = (pde.value & pte::kGlobal) && (ctx.cr4 & cr4::kPge);
            return Outcome::Found;
        }
        accumulate(pde.value, false);
        if (!quiet && !set_bits(ctx, pde, 4, pte::kAccessed)) return Outcome::Retry;
        Entry e = read_entry(ctx, (pde.value & 0xffff'f000) + ((linear >> 12) & 1023) * 4, 4);
        if (!(e.value & pte::kPresent)) return Outcome::NotPresent;
        accumulate(e.value, false);
        leaf = e;
        out.physical = (e.value & 0xffff'f000) | (linear & 0xfff);
        out.global = (e.value & pte::kGlobal) && (ctx.cr4 & cr4::kPge);
        return Outcome::Found;
    }

    Outcome run() {
        if (ctx.efer & efer::kLma) return walk64(ctx.cr3 & pte::kAddress, 4);
        linear &= 0xffff'ffff;
        return ctx.cr4 & cr4::kPae ? walk_pae() : walk32();
    }
};

bool permitted(const Context& ctx, const Translation& t, AccessKind kind, bool user, bool implicit_supervisor) {
    if (user) {
        if (!t.user) return false;
        if (kind == AccessKind::Write) return t.writable;
        return kind == AccessKind::Read || t.executable;
    }
    if (kind == AccessKind::Execute) return t.executable && !(t.user && (ctx.cr4 & cr4::kSmep));
    if (t.user && (ctx.cr4 & cr4::kSmap) && (implicit_supervisor || !(ctx.flags & rflags::kAc))) return false;
    return kind == AccessKind::Read || t.writable || !(ctx.cr0 & cr0::kWp);
}

}  // namespace

WalkResult walk(Context& ctx, u64 linear, AccessKind kind, bool user, bool implicit_supervisor) {
    WalkResult result;
    if (!(ctx.cr0 & cr0::kPg)) {
        result.ok = result.dirty = true;
        result.gpa = linear & 0xffff'ffff;
        result.page_size = kPageSize;
        return result;
    }
    Fault& fault = result.fault;
    if ((ctx.efer & efer::kLma) && !is_canonical(linear)) {
        fault.pending = fault.has_error_code = true;
        fault.vector = kGeneralProtection;
        return result;
    }
    u32 error = 0;
    for (;;) {
        Walk walk{.ctx = ctx, .linear = linear, .quiet = false};
        const auto outcome = walk.run();
        if (outcome == Walk::Outcome::Retry) continue;
        if (outcome == Walk::Outcome::NotPresent) break;
        error = page_fault::kPresent;
        if (outcome == Walk::Outcome::Reserved) {
            error |= page_fault::kReserved;
            break;
        }
        if (!permitted(ctx, walk.out, kind, user, implicit_supervisor)) break;
        const u64 bits = pte::kAccessed | (kind == AccessKind::Write ? pte::kDirty : 0);
        if (!set_bits(ctx, walk.leaf, walk.entry_size, bits)) continue;
        result.ok = true;
        result.gpa = walk.out.physical;
        result.page_size = walk.out.page_size;
        result.global = walk.out.global;
        result.dirty = walk.leaf.value & pte::kDirty;
        return result;
    }
    if (kind == AccessKind::Write) error |= page_fault::kWrite;
    if (user) error |= page_fault::kUser;
    const bool nx = (ctx.efer & efer::kNxe) && (ctx.cr4 & cr4::kPae);
    if (kind == AccessKind::Execute && (nx || (ctx.cr4 & cr4::kSmep))) error |= page_fault::kFetch;
    fault.pending = fault.has_error_code = true;
    fault.vector = kPageFault;
    fault.error_code = error;
    fault.address = linear;
    return result;
}

bool walk_quietly(Context& ctx, u64 linear, u64& gpa) {
    if (!(ctx.cr0 & cr0::kPg)) {
        gpa = linear & 0xffff'ffff;
        return true;
    }
    if ((ctx.efer & efer::kLma) && !is_canonical(linear)) return false;
    Walk walk{.ctx = ctx, .linear = linear, .quiet = true};
    if (walk.run() != Walk::Outcome::Found) return false;
    gpa = walk.out.physical;
    return true;
}

bool load_pdptes(Context& ctx, u64 cr3) {
    std::array<u64, 4> loaded;  // all are checked before any is loaded
    const u64 reserved = ~((u64{1} << ctx.physical_bits) - 1) | 0x1e6;
    for (unsigned i = 0; i < 4; ++i) {
        loaded[i] = read_entry(ctx, (cr3 & 0xffff'ffe0) + 8 * i, 8).value;
        if ((loaded[i] & pte::kPresent) && (loaded[i] & reserved)) return false;
    }
    ctx.pdpte = loaded;
    return true;
}

}  // namespace vezha::engine::dbt
