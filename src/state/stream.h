// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/result.h"

namespace vezha::state {

/// The saved fields of one object, by name: what devices write and read. Encoded little-endian as
/// { u16 name length, name, u32 size, bytes }*, so a dump needs no schema.
class Section {
  public:
    void put(std::string_view name, std::span<const u8> bytes);
    /// nullptr if absent.
    const std::vector<u8>* get(std::string_view name) const;
    const std::map<std::string, std::vector<u8>, std::less<>>& fields() const { return fields_; }

    std::vector<u8> encode() const;
    /// Treats `bytes` as hostile. @return InvalidFormat, OutOfRange.
    static Result<Section> decode(std::span<const u8> bytes);

    template <class T>
    void put_value(std::string_view name, const T& value) {
        static_assert(std::is_trivially_copyable_v<T>);
        put(name, {reinterpret_cast<const u8*>(&value), sizeof value});
    }
    /// @return NotFound, or InvalidFormat if the stored size differs.
    template <class T>
    Result<T> get_value(std::string_view name) const {
        static_assert(std::is_trivially_copyable_v<T>);
        const std::vector<u8>* bytes = get(name);
        if (!bytes) return fail(ErrorCode::NotFound, "field '{}' is missing", name);
        if (bytes->size() != sizeof(T))
            return fail(ErrorCode::InvalidFormat, "field '{}' has {} bytes, expected {}", name, bytes->size(), sizeof(T));
        T value;
        std::memcpy(&value, bytes->data(), sizeof value);
        return value;
    }

  private:
    std::map<std::string, std::vector<u8>, std::less<>> fields_;
};

/// Version of the state format of this build; fields say since which version they exist.
inline constexpr u32 kStateVersion = 1;

}  // namespace vezha::state
