// SPDX-License-Identifier: Apache-2.0
// Compiled with -mgeneral-regs-only: the guest's vector registers are live here. No library calls.
#include <bit>

#include "engine/dbt/code_cache.h"
#include "engine/dbt/guest_run.h"

namespace vezha::engine::dbt {

namespace {

enum FilledKind : unsigned { kTlbEntry = 0, kJumpEntry = 1, kExecEntry = 2 };

/// Where generated code looks for a RIP (Translator::exit_indirect).
inline u64 jump_index(u64 rip) { return (rip + std::rotr(rip, 12)) & (GuestRun::kJumpEntries - 1); }
/// No address with this index can match: its page differs in the index's top bit, which no crossing reaches.
constexpr u64 empty_tag(u64 index) { return -((index ^ GuestRun::kTlbEntries / 2) << 12); }
constexpr u64 empty_jump(u64 index) { return -(index + 1); }

void remember(GuestRun& run, bool global, unsigned kind, unsigned slot, unsigned index) {
    auto& list = global ? run.filled_global : run.filled_local;
    if (list.count == GuestRun::kFilled) {
        list.overflow = true;
        return;
    }
    list.entry[list.count++] = static_cast<u16>(kind << 14 | slot << 12 | index);
}

void clear_entry(GuestRun& run, unsigned entry) {
    const unsigned index = entry & 0xfff, slot = entry >> 12 & 3;
    switch (entry >> 14) {
    case kTlbEntry:
        run.tlb[slot].read[index] = run.tlb[slot].write[index] = empty_tag(index);
        break;
    case kJumpEntry: run.jumps[slot].tag[index] = empty_jump(index); break;
    default: run.exec[slot & 1][index & (GuestRun::kExecEntries - 1)].page = 1; break;
    }
}

void clear_list(GuestRun& run, GuestRun::Filled& list) {
    for (u32 i = 0; i < list.count; ++i) clear_entry(run, list.entry[i]);
    list.count = 0;
}

unsigned half(u64 linear) { return static_cast<unsigned>(linear >> 63); }

/// What one TLB entry may say about a page.
struct Filling {
    bool ok = false;       ///< the entry was made
    bool fault = false;    ///< ctx.fault is set
    u64 gpa = 0;
    u8* host = nullptr;    ///< of the page
    bool code = false;     ///< a write to a page with code
};

Filling fill(GuestRun& run, u64 linear, bool write, unsigned slot) {
    Context& ctx = run.ctx;
    Filling out;
    const WalkResult w = walk(ctx, linear, write ? AccessKind::Write : AccessKind::Read, slot == key::kUser);
    if (!w.ok) {
        ctx.fault = w.fault;
        ctx.fault.pending = true;
        out.fault = true;
        return out;
    }
    out.gpa = w.gpa & ~u64{0xfff};
    out.host = ram_pointer(ctx, out.gpa, write);
    if (!out.host) return out;
    if (write) {
        if (!run.cache->note_writable(out.gpa)) {
            out.code = true;
            return out;
        }
        if (ctx.memory->dirty_logging()) {
            park_vector_state(ctx);
            ctx.memory->mark_dirty({out.gpa}, 4096);
            unpark_vector_state(ctx);
        }
    }
    ++run.count_tlb_fills;
    const u64 page = linear & ~u64{0xfff};
    const unsigned index = static_cast<unsigned>(linear >> 12) & (GuestRun::kTlbEntries - 1);
    auto& tlb = run.tlb[slot];
    u64& mine = write ? tlb.write[index] : tlb.read[index];
    u64& other = write ? tlb.read[index] : tlb.write[index];
    if (other != -page) other = empty_tag(index);
    mine = -page;
    tlb.host[index] = reinterpret_cast<u64>(out.host);
    // Reading is allowed where writing is; a read entry saves the next miss.
    if (write) other = -page;
    remember(run, w.global, kTlbEntry, slot, index);
    if (w.page_size > 4096) {
        const unsigned h = half(linear);
        const u64 low = linear & ~(w.page_size - 1), high = low + (w.page_size - 1);
        if (low < run.large_low[h]) run.large_low[h] = low;
        if (high > run.large_high[h]) run.large_high[h] = high;
    }
    out.ok = true;
    return out;
}

}  // namespace

void reset_tlb(GuestRun& run) {
    for (auto& tlb : run.tlb)
        for (u64 i = 0; i < GuestRun::kTlbEntries; ++i) tlb.read[i] = tlb.write[i] = empty_tag(i);
    for (auto& table : run.exec)
        for (auto& entry : table) entry.page = 1;
    clear_all_jumps(run);
    run.filled_global.count = run.filled_local.count = 0;
    run.filled_global.overflow = run.filled_local.overflow = false;
    for (unsigned h = 0; h < 2; ++h) run.large_low[h] = ~u64{0}, run.large_high[h] = 0;
}

void clear_jumps(GuestRun& run, unsigned slot) {
    for (u64 i = 0; i < GuestRun::kJumpEntries; ++i) run.jumps[slot].tag[i] = empty_jump(i);
}

void clear_all_jumps(GuestRun& run) {
    for (unsigned slot = 0; slot < key::kSlots; ++slot) clear_jumps(run, slot);
    for (auto& word : run.code_seen) word = 0;
}

void flush_tlb(Context& ctx, FlushScope scope, u64 linear) {
    GuestRun& run = run_of(ctx);
    ++run.count_flushes;
    if (scope == FlushScope::Page) {
        const unsigned h = half(linear);
        if (linear >= run.large_low[h] && linear <= run.large_high[h]) {
            scope = FlushScope::All;
        } else {
            const unsigned index = static_cast<unsigned>(linear >> 12) & (GuestRun::kTlbEntries - 1);
            for (auto& tlb : run.tlb) tlb.read[index] = tlb.write[index] = empty_tag(index);
            for (auto& table : run.exec) table[(linear >> 12) & (GuestRun::kExecEntries - 1)].page = 1;
            const u64 hashed = (linear >> 12) & 4095;
            if (run.code_seen[hashed / 64] >> (hashed % 64) & 1) clear_all_jumps(run);
            return;
        }
    }
    if (run.filled_local.overflow || (scope == FlushScope::All && run.filled_global.overflow)) return reset_tlb(run);
    clear_list(run, run.filled_local);
    if (scope == FlushScope::All) {
        clear_list(run, run.filled_global);
        for (unsigned h = 0; h < 2; ++h) run.large_low[h] = ~u64{0}, run.large_high[h] = 0;
    }
}

void drop_write_entries(GuestRun& run, const u8* host_page) {
    for (auto& tlb : run.tlb)
        for (u64 i = 0; i < GuestRun::kTlbEntries; ++i)
            if (!host_page || tlb.host[i] == reinterpret_cast<u64>(host_page)) tlb.write[i] = empty_tag(i);
}

void add_jump(GuestRun& run, u64 rip, const u8* target, bool global) {
    const unsigned slot = key::slot(run.ctx.mode_key), index = static_cast<unsigned>(jump_index(rip));
    if (index == 0) return;
    run.jumps[slot].tag[index] = -rip;
    run.jumps[slot].target[index] = reinterpret_cast<u64>(target);
    const u64 hashed = (rip >> 12) & 4095;
    run.code_seen[hashed / 64] |= u64{1} << (hashed % 64);
    remember(run, global, kJumpEntry, slot, index);
}

const u8* find_jump(const GuestRun& run, u64 rip) {
    const auto& jumps = run.jumps[key::slot(run.ctx.mode_key)];
    const u64 index = jump_index(rip);
    return jumps.tag[index] == -rip && index ? reinterpret_cast<const u8*>(jumps.target[index]) : nullptr;
}

GuestRun::Exec* exec_page(GuestRun& run, u64 linear) {
    Context& ctx = run.ctx;
    const bool user = ctx.cpl == 3;
    const unsigned table = user ? 0 : 1, index = static_cast<unsigned>(linear >> 12) & (GuestRun::kExecEntries - 1);
    auto& entry = run.exec[table][index];
    const u64 page = linear & ~u64{0xfff};
    if (entry.page == page) return &entry;
    const WalkResult w = walk(ctx, linear, AccessKind::Execute, user);
    if (!w.ok) {
        ctx.fault = w.fault;
        ctx.fault.pending = true;
        return nullptr;
    }
    u8* host = ram_pointer(ctx, w.gpa & ~u64{0xfff}, false);
    if (!host) {  // no instruction can be fetched from a device
        ctx.fault = {.pending = true, .vector = x86::kGeneralProtection, .has_error_code = true};
        return nullptr;
    }
    entry = {.page = page, .gpa = w.gpa & ~u64{0xfff}, .host = host, .global = w.global};
    remember(run, w.global, kExecEntry, table, index);
    if (w.page_size > 4096) {
        const unsigned h = half(linear);
        const u64 low = linear & ~(w.page_size - 1), high = low + (w.page_size - 1);
        if (low < run.large_low[h]) run.large_low[h] = low;
        if (high > run.large_high[h]) run.large_high[h] = high;
    }
    return &entry;
}

u8* data_pointer(GuestRun& run, u64 linear, bool write, bool& special) {
    const unsigned slot = key::slot(run.ctx.mode_key);
    const unsigned index = static_cast<unsigned>(linear >> 12) & (GuestRun::kTlbEntries - 1);
    const auto& tlb = run.tlb[slot];
    special = false;
    if ((write ? tlb.write[index] : tlb.read[index]) == -(linear & ~u64{0xfff}))
        return reinterpret_cast<u8*>(tlb.host[index]) + (linear & 0xfff);
    const Filling f = fill(run, linear, write, slot);
    if (f.ok) return f.host + (linear & 0xfff);
    special = !f.fault;
    return nullptr;
}

u64 tlb_miss(GuestRun* run) {
    const auto* site = reinterpret_cast<const MemorySite*>(run->code_base + run->memory_site);
    const u64 linear = run->arg_linear;
    Context& ctx = run->ctx;
    if ((linear & 0xfff) + site->size > 4096) {
        run->exit_reason = ExitReason::Bounce;
    } else {
        const Filling f = fill(*run, linear, site->write, site->slot);
        if (f.ok) {
            run->arg_offset = linear & 0xfff;
            run->arg_host = reinterpret_cast<u64>(f.host);
            return reinterpret_cast<u64>(run->code_base + site->resume);
        }
        if (f.fault && site->stack && ctx.fault.vector == x86::kGeneralProtection) ctx.fault.vector = x86::kStackFault;
        run->exit_reason = f.fault && !site->masked ? ExitReason::Fault : ExitReason::Bounce;
        if (site->masked) ctx.fault.pending = false;
    }
    ctx.rip = site->rip;
    run->exit_link = 0;
    run->exit_locked = site->locked;
    return 0;
}

void update_mode(Context& ctx) {
    using x86::Segment;
    namespace c0 = x86::cr0;
    namespace c4 = x86::cr4;
    ctx.long_mode = ctx.efer & x86::efer::kLma;
    const Segment& cs = ctx.segment[x86::kCs];
    ctx.code64 = ctx.long_mode && cs.long_mode();
    ctx.code32 = cs.default32();
    u64 mode = ctx.code64 ? key::kCode64 : ctx.code32 ? key::kCode32 : key::kCode16;
    const bool ac = (ctx.flags & x86::rflags::kAc) && (ctx.cr4 & c4::kSmap);
    const unsigned slot = ctx.cpl == 3 ? key::kUser : ac ? key::kSupervisorAc : key::kSupervisor;
    mode |= u64{slot} << key::kSlotShift;
    if (ctx.long_mode) mode |= key::kLong;
    if (ctx.code64) {
        mode |= key::kFlatCode | key::kFlatData;
    } else {
        if (ctx.segment[x86::kSs].default32()) mode |= key::kStack32;
        if (cs.base == 0) mode |= key::kFlatCode;
        bool flat = true;
        const bool real = !(ctx.cr0 & c0::kPe) || (ctx.flags & x86::rflags::kVm);
        auto& r = run_of(ctx);
        for (unsigned index = 0; index < x86::kSegments; ++index) {
            const Segment& s = ctx.segment[index];
            const unsigned type = s.type();
            const bool code = type & 8;
            i64 limit = s.present() ? static_cast<i64>(s.limit) : -1;
            // Expand-down segments (SDM vol. 3A, 5.3) are treated as unlimited: what lies below their limit is not refused.
            if (!code && (type & 4) && s.present() && !real) limit = 0xffff'ffff;
            r.read_limit[index] = !real && code && !(type & 2) ? -1 : limit;
            r.write_limit[index] = !real && (code || !(type & 2)) ? -1 : limit;
            if (index == x86::kEs || index == x86::kSs || index == x86::kDs)
                flat &= s.base == 0 && r.read_limit[index] == 0xffff'ffff && r.write_limit[index] == 0xffff'ffff;
        }
        if (flat) mode |= key::kFlatData;
    }
    if (ctx.cr0 & c0::kEm) mode |= key::kEm;
    if (ctx.cr0 & c0::kTs) mode |= key::kTs;
    if (ctx.cr0 & c0::kMp) mode |= key::kMp;
    if (ctx.cr4 & c4::kOsfxsr) mode |= key::kOsfxsr;
    if (ctx.cr4 & c4::kOsxsave) {
        mode |= key::kOsxsave;
        if ((ctx.xcr0 & 6) == 6) mode |= key::kAvx;
        if ((ctx.xcr0 & 0xe6) == 0xe6) mode |= key::kAvx512;
    }
    if (mode == ctx.mode_key) return;
    ctx.mode_key = mode;
    GuestRun& run = run_of(ctx);
    // Jump entries do not name the mode they were made for, but for the slot.
    if (run.jump_mode[slot] != mode) {
        run.jump_mode[slot] = mode;
        clear_jumps(run, slot);
    }
}

void park_vector_state(Context& ctx) {
    if (ctx.vector_parked) return;
    ctx.vector_parked = true;
    ++run_of(ctx).count_parks;
    u8* area = ctx.xsave.bytes.data();
    asm volatile("xsaveopt64 %0" : "+m"(*reinterpret_cast<u8(*)[x86::XsaveArea::kSize]>(area)) : "a"(~0u), "d"(~0u));
    const bool x87_used = area[512] & 1;
    if (x87_used) asm volatile("fninit");
    static constexpr u32 kHostMxcsr = 0x1f80;
    asm volatile("ldmxcsr %0\n\tvzeroupper" : : "m"(kHostMxcsr));
}

void unpark_vector_state(Context& ctx) {
    if (!ctx.vector_parked) return;
    ctx.vector_parked = false;
    asm volatile("xrstor64 %0" : : "m"(*reinterpret_cast<const u8(*)[x86::XsaveArea::kSize]>(ctx.xsave.bytes.data())), "a"(~0u), "d"(~0u));
}

u8* ram_pointer(Context& ctx, u64 gpa, bool for_write) {
    for (const auto& region : ctx.memory->regions()) {
        const u64 offset = gpa - region->base().value;
        if (offset < region->size()) return for_write && region->read_only() ? nullptr : region->host() + offset;
    }
    return nullptr;
}

}  // namespace vezha::engine::dbt
