// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/types.h"

/// What besides its address and bytes decides how a block is translated. Computed by update_mode(), kept in
/// Context::mode_key.
namespace vezha::engine::dbt::key {

inline constexpr u64 kCodeMask = 3, kCode16 = 0, kCode32 = 1, kCode64 = 2;
inline constexpr u64 kStack32 = 1 << 2;      ///< SS.B outside 64-bit code
inline constexpr unsigned kSlotShift = 3;    ///< which software TLB: two bits
inline constexpr u64 kSlotMask = 3 << kSlotShift;
inline constexpr u64 kFlatData = 1 << 5;     ///< ES, SS, DS: base 0, no limit
inline constexpr u64 kFlatCode = 1 << 6;     ///< CS: base 0
inline constexpr u64 kEm = 1 << 7, kTs = 1 << 8, kMp = 1 << 9, kOsfxsr = 1 << 10, kOsxsave = 1 << 11;
inline constexpr u64 kAvx = 1 << 12, kAvx512 = 1 << 13;  ///< enabled in XCR0
inline constexpr u64 kLong = 1 << 14;        ///< EFER.LMA
inline constexpr u64 kSingle = 1 << 16;      ///< only one instruction (shadows, TF)
inline constexpr u64 kBounce = 1 << 17;      ///< one instruction whose memory accesses go through C++ and a bounce buffer

/// Software TLBs: what an access may do is resolved when an entry is filled, so each privilege has its own.
enum Slot : unsigned { kUser = 0, kSupervisor = 1, kSupervisorAc = 2, kSlots = 3 };
constexpr unsigned slot(u64 mode) { return static_cast<unsigned>((mode & kSlotMask) >> kSlotShift); }

}  // namespace vezha::engine::dbt::key
