// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "engine/dbt/assembler.h"
#include "engine/dbt/code_cache.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Winvalid-offsetof"

namespace vezha::engine::dbt {

/// The pair of registers that is spilled (lives in Context::gpr alone) whenever control is between blocks.
inline constexpr int kScratch1 = 10, kScratch2 = 11;

/// Offsets from GS.
namespace at {
inline constexpr u32 gpr(int index) { return static_cast<u32>(offsetof(GuestRun, ctx.gpr) + 8 * static_cast<usize>(index)); }
inline constexpr u32 kRip = offsetof(GuestRun, ctx.rip), kAttention = offsetof(GuestRun, ctx.attention);
inline constexpr u32 kHostRsp = offsetof(GuestRun, host_rsp), kHostTarget = offsetof(GuestRun, host_target),
                     kHostFlags = offsetof(GuestRun, host_flags), kArgLinear = offsetof(GuestRun, arg_linear),
                     kArgOffset = offsetof(GuestRun, arg_offset), kArgHost = offsetof(GuestRun, arg_host),
                     kTemporary = offsetof(GuestRun, temporary), kMemorySite = offsetof(GuestRun, memory_site),
                     kExitReason = offsetof(GuestRun, exit_reason), kExitSite = offsetof(GuestRun, exit_site),
                     kExitLink = offsetof(GuestRun, exit_link), kTlbIndexMask = offsetof(GuestRun, tlb_index_mask),
                     kPageMask = offsetof(GuestRun, page_mask), kJumpMask = offsetof(GuestRun, jump_index_mask),
                     kMaskedEax = offsetof(GuestRun, masked_eax), kMaskedEdx = offsetof(GuestRun, masked_edx);
inline constexpr u32 kSourceRip = offsetof(GuestRun, source_rip), kSourceUndo = offsetof(GuestRun, source_undo),
                     kSourceValid = offsetof(GuestRun, source_valid);
inline constexpr u32 kSignMask = offsetof(GuestRun, sign_mask);
inline u32 segment_limit(unsigned index, bool write) {
    return static_cast<u32>((write ? offsetof(GuestRun, write_limit) : offsetof(GuestRun, read_limit)) + 8 * index);
}
inline u32 segment_base(unsigned index) {
    return static_cast<u32>(offsetof(GuestRun, ctx.segment) + index * sizeof(x86::Segment) + offsetof(x86::Segment, base));
}
inline u32 tlb_read(unsigned slot) { return static_cast<u32>(offsetof(GuestRun, tlb) + slot * sizeof(GuestRun::Tlb)); }
inline u32 tlb_write(unsigned slot) { return tlb_read(slot) + static_cast<u32>(offsetof(GuestRun::Tlb, write)); }
inline u32 tlb_host(unsigned slot) { return tlb_read(slot) + static_cast<u32>(offsetof(GuestRun::Tlb, host)); }
inline u32 jump_tag(unsigned slot) { return static_cast<u32>(offsetof(GuestRun, jumps) + slot * sizeof(GuestRun::Jumps)); }
inline u32 jump_target(unsigned slot) { return jump_tag(slot) + static_cast<u32>(offsetof(GuestRun::Jumps, target)); }
}  // namespace at

/// Hand-made code at the start of the code cache.
struct Thunks {
    /// Enters generated code with the state of the GuestRun in GS; returns when it leaves.
    void (*enter)(const u8* code) = nullptr;
    const u8* leave = nullptr;        ///< all registers are the guest's; goes back to who called enter()
    const u8* leave_signal = nullptr; ///< the state was stored by a signal handler
    const u8* tlb_miss = nullptr;
    const u8* bounce_prepare = nullptr;
    const u8* bounce_commit = nullptr;
    const u8* jump_miss = nullptr;    ///< r10 = the RIP that no jump entry has

    static Thunks emit(CodeCache& cache);
};

}  // namespace vezha::engine::dbt

#pragma GCC diagnostic pop
