// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstring>
#include <span>

#include "base/result.h"

namespace vezha {

/// Bounds-checked reads of integers from untrusted bytes.
class ByteReader {
  public:
    explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

    template <class T>
    Result<T> le(usize offset) const {
        T value{};
        if (offset > bytes_.size() || bytes_.size() - offset < sizeof value)
            return fail(ErrorCode::OutOfRange, "read of {} bytes at {} past the end ({} bytes)", sizeof value, offset,
                        bytes_.size());
        std::memcpy(&value, bytes_.data() + offset, sizeof value);
        return value;
    }
    template <class T>
    Result<T> be(usize offset) const {
        T value = TRY(le<T>(offset));
        if constexpr (sizeof(T) == 2) return static_cast<T>(__builtin_bswap16(value));
        if constexpr (sizeof(T) == 4) return static_cast<T>(__builtin_bswap32(value));
        if constexpr (sizeof(T) == 8) return static_cast<T>(__builtin_bswap64(value));
        return value;
    }
    Result<std::span<const std::byte>> slice(usize offset, usize size) const {
        if (offset > bytes_.size() || bytes_.size() - offset < size)
            return fail(ErrorCode::OutOfRange, "{} bytes at {} past the end ({} bytes)", size, offset, bytes_.size());
        return bytes_.subspan(offset, size);
    }
    usize size() const { return bytes_.size(); }

  private:
    std::span<const std::byte> bytes_;
};

}  // namespace vezha
