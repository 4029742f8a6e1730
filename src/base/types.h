// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace vezha {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i8 = std::int8_t;
using i16 = std::int16_t;
using i32 = std::int32_t;
using i64 = std::int64_t;
using usize = std::size_t;

inline constexpr u64 kKiB = 1024;
inline constexpr u64 kMiB = 1024 * kKiB;
inline constexpr u64 kGiB = 1024 * kMiB;
inline constexpr u64 kPageSize = 4096;
inline constexpr u64 kNsPerSec = 1'000'000'000;

/// Rounds up to a multiple of `alignment`, a power of two.
constexpr u64 align_up(u64 value, u64 alignment) { return (value + alignment - 1) & ~(alignment - 1); }
constexpr u64 align_down(u64 value, u64 alignment) { return value & ~(alignment - 1); }
constexpr bool is_aligned(u64 value, u64 alignment) { return (value & (alignment - 1)) == 0; }
/// The low `bytes * 8` bits set; `bytes` is 1 to 8.
constexpr u64 mask_bytes(unsigned bytes) { return bytes >= 8 ? ~u64{0} : (u64{1} << (bytes * 8)) - 1; }

}  // namespace vezha
