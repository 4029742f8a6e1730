// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <mutex>

#include "engine/dbt/block_key.h"
#include "engine/dbt/context.h"
#include "engine/dbt/system_interface.h"

namespace vezha::engine::dbt {

class CodeCache;
struct Block;

/// Why generated code came back to the dispatcher.
enum class ExitReason : u32 {
    Lookup,     ///< rip is new; `exit_link` may name a jump to patch
    Attention,  ///< the poll saw Context::attention
    System,     ///< exit_site says which instruction needs C++
    Fault,      ///< ctx.fault is set
    Bounce,     ///< the instruction at rip needs a bounce block
};

/// What C++ does for a block's last instruction.
enum class SiteKind : u8 { System, String, Gather, Pause, Raise, Odd };
struct SystemSite {
    SiteKind kind = SiteKind::System;
    Fault fault{};  ///< for Raise
    Instruction instruction{};
};

/// One memory access of a translated instruction, as its out-of-line part describes it to the helpers. Lies in the code
/// cache beside the code.
struct MemorySite {
    u64 rip;
    u32 resume;  ///< offset in the code cache
    u16 size;
    u8 slot;
    bool read, write, locked, masked, xsave;
    u8 mask_register = 0, element = 0;  ///< of an AVX-512 masked access
    u8 lanes = 0;                       ///< how many mask bits count
    bool broadcast = false;             ///< one element for all lanes
    bool stack = false;                 ///< through SS: a non-canonical address is #SS
    bool packed = false;                ///< compress and expand: as many elements as the mask has bits
};

/// Everything generated code touches, GS base while the vCPU's thread runs. One per vCPU.
struct GuestRun {
    static constexpr unsigned kTlbBits = 12, kTlbEntries = 1 << kTlbBits;
    static constexpr unsigned kJumpBits = 12, kJumpEntries = 1 << kJumpBits;
    static constexpr unsigned kExecEntries = 512;
    static constexpr unsigned kFilled = 4096;

    Context ctx;

    u64 host_rsp = 0, host_target = 0, host_flags = 0x202;
    u64 arg_linear = 0, arg_offset = 0, arg_host = 0;
    u64 temporary[4]{};
    u64 masked_eax = 0, masked_edx = 0;
    u32 memory_site = 0;  ///< offset of a MemorySite in the code cache
    ExitReason exit_reason = ExitReason::Lookup;
    SystemSite* exit_site = nullptr;
    u32 exit_link = 0;  ///< offset in the code cache of a rel32 to patch, or 0
    /// Outside 64-bit mode: the last offset that may be read and written, or -1: no access at all.
    std::array<i64, x86::kSegments> read_limit{}, write_limit{};
    u64 sign_mask = u64{1} << 63;
    // The indirect jump that missed: a target that is no canonical address faults at the jump.
    u64 source_rip = 0;
    i32 source_undo = 0;  ///< what the jump did to RSP, negated
    u32 source_valid = 0;
    u64 tlb_index_mask = u64{kTlbEntries - 1} << 12;
    u64 page_mask = ~u64{0xfff};
    std::atomic<u64> jump_index_mask{kJumpEntries - 1};  ///< 0 makes every lookup miss: attention
    u8* code_base = nullptr;
    CodeCache* cache = nullptr;

    /// Negated page addresses (low 12 bits zero); entries of one index share `host`, the page's host address.
    struct Tlb {
        u64 read[kTlbEntries], write[kTlbEntries], host[kTlbEntries];
    };
    /// Negated RIPs and where their translation starts. Entry 0 stays empty.
    struct Jumps {
        u64 tag[kJumpEntries], target[kJumpEntries];
    };
    struct Exec {
        u64 page, gpa;
        u8* host;
        bool global;
    };
    alignas(64) Tlb tlb[key::kSlots];
    alignas(64) Jumps jumps[key::kSlots];
    Exec exec[2][kExecEntries];  ///< user, supervisor

    /// Which entries are not empty, so that a flush costs what was used: (kind << 12 | index).
    struct Filled {
        u16 entry[kFilled];
        u32 count = 0;
        bool overflow = false;
    };
    Filled filled_global, filled_local;
    u64 jump_mode[key::kSlots]{};  ///< mode keys that the jump entries were made for

    /// Bounce buffer of the access in progress: &bounce[64 + linear % 64] stands for the guest's bytes.
    alignas(64) u8 bounce[64 + 8192];
    struct {
        bool active = false;
        u64 linear = 0, gpa[2]{};
        u32 size = 0, first = 0;  ///< bytes in the first page
    } bouncing;
    bool exit_locked = false;    ///< the instruction of a Bounce exit is a locked one
    u64 large_low[2]{~u64{0}, ~u64{0}}, large_high[2]{};  ///< linear ranges mapped by large pages, per half of the space
    u64 code_seen[64]{};         ///< hashed pages that jump entries point into
    std::mutex sleep_mutex;      ///< for the sleep of HLT; attention bits wake
    std::condition_variable wake;
    void* thunks = nullptr;      ///< struct Thunks
    u32 pauses = 0;
    /// An interrupt may wait for IF. Set by whoever may have caused that, cleared when service_events() found nothing.
    std::atomic<bool> maybe_pending{true};

    // Statistics, this thread's.
    u64 count_entries = 0, count_lookups = 0, count_tlb_fills = 0, count_bounces = 0, count_system = 0, count_flushes = 0,
        count_string = 0, count_parks = 0;
};

inline GuestRun& run_of(Context& ctx) { return *static_cast<GuestRun*>(ctx.translator); }

// Called from generated code, general registers only (softmmu.cpp).
/// Fills the software TLB for the access described by run.memory_site. @return where to go on, or 0: leave, exit_reason is set
u64 tlb_miss(GuestRun* run);
/// The same for bounce blocks: makes arg_offset and arg_host point to RAM or to the bounce buffer (bounce.cpp).
u64 bounce_prepare(GuestRun* run);
u64 bounce_commit(GuestRun* run);

/// Restores the vector state parked in ctx.xsave.
void unpark_vector_state(Context& ctx);
/// Translates for an instruction fetch at ctx.rip. @return the entry, or nullptr with ctx.fault set
GuestRun::Exec* exec_page(GuestRun& run, u64 linear);
/// Host pointer to [linear, +size) within one page for the current privilege; nullptr with ctx.fault set, or, if
/// `special`, for memory that needs the slow path (MMIO; code pages on writes).
u8* data_pointer(GuestRun& run, u64 linear, bool write, bool& special);
void reset_tlb(GuestRun& run);
/// Drops every entry that allows writing to the page whose host address is given (or all, if null). The vCPU is stopped or ours.
void drop_write_entries(GuestRun& run, const u8* host_page);
void add_jump(GuestRun& run, u64 rip, const u8* target, bool global);
/// The entry that add_jump() noted for `rip` in the present mode, or nullptr.
const u8* find_jump(const GuestRun& run, u64 rip);
void clear_jumps(GuestRun& run, unsigned slot);
/// Drops all jump entries, for a flush of the code cache.
void clear_all_jumps(GuestRun& run);
/// Executes one string instruction or a page's worth of a repeated one (string_instructions.cpp).
enum class StringResult : u8 { Done, Again, Fault, Slow };
StringResult run_string(GuestRun& run, const Instruction& instruction);

}  // namespace vezha::engine::dbt
