// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/types.h"

/// Addresses that a test case sees, the same natively (fixed mappings in this process) and in the guest (page tables).
namespace vezha::differential {

inline constexpr u64 kCode = 0x1000'0000;      ///< two pages, executable; the case starts somewhere in them
inline constexpr u64 kCodeSize = 2 * kPageSize;
inline constexpr u64 kExit = kCode + kCodeSize;  ///< one page; a case ends with a jump here
inline constexpr u64 kData = 0x2000'0000;      ///< two pages, writable; nothing is mapped below
inline constexpr u64 kDataSize = 2 * kPageSize;
inline constexpr u64 kReadOnly = kData + kDataSize;  ///< one page; nothing is mapped above
inline constexpr u64 kSave = 0x3000'0000;      ///< native only: registers in and out

}  // namespace vezha::differential
