// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstring>
#include <string_view>

#include "state/stream.h"

namespace vezha::state {

/// How a member is stored: trivially copyable members as their bytes, vectors of such as their elements. Specialise
/// for other types.
template <class M>
struct Codec {
    static_assert(std::is_trivially_copyable_v<M> && !std::is_pointer_v<M>, "this member needs a Codec of its own");
    static std::vector<u8> encode(const M& member) {
        std::vector<u8> bytes(sizeof member);
        std::memcpy(bytes.data(), &member, sizeof member);
        return bytes;
    }
    static Result<> decode(std::span<const u8> bytes, M& member) {
        if (bytes.size() != sizeof member)
            return fail(ErrorCode::InvalidFormat, "{} bytes, expected {}", bytes.size(), sizeof member);
        if constexpr (std::is_same_v<M, bool>) {
            if (bytes[0] > 1) return fail(ErrorCode::InvalidFormat, "truth value {}", bytes[0]);
        }
        std::memcpy(&member, bytes.data(), sizeof member);
        return {};
    }
};

template <class E>
struct Codec<std::vector<E>> {
    static constexpr usize kMaxBytes = 64 * kMiB;
    static std::vector<u8> encode(const std::vector<E>& member) {
        static_assert(std::is_trivially_copyable_v<E>);
        std::vector<u8> bytes(member.size() * sizeof(E));
        if (!bytes.empty()) std::memcpy(bytes.data(), member.data(), bytes.size());
        return bytes;
    }
    static Result<> decode(std::span<const u8> bytes, std::vector<E>& member) {
        if (bytes.size() % sizeof(E) || bytes.size() > kMaxBytes)
            return fail(ErrorCode::InvalidFormat, "{} bytes for elements of {}", bytes.size(), sizeof(E));
        member.resize(bytes.size() / sizeof(E));
        if (!bytes.empty()) std::memcpy(member.data(), bytes.data(), bytes.size());
        return {};
    }
};

/// One row of a class's table of saved state. Made by field<&Class::member_>("name", since).
template <class T>
struct StateField {
    std::string_view name;
    u32 since = 1;  ///< the state version that introduced it
    std::vector<u8> (*encode)(const T&) = nullptr;
    Result<> (*decode)(std::span<const u8>, T&) = nullptr;
};

template <class T, auto Member>
constexpr StateField<T> field(std::string_view name, u32 since = 1) {
    using M = std::remove_reference_t<decltype(std::declval<T&>().*Member)>;
    return {name, since, [](const T& object) { return Codec<M>::encode(object.*Member); },
            [](std::span<const u8> bytes, T& object) { return Codec<M>::decode(bytes, object.*Member); }};
}

template <class T>
void save_fields(std::span<const StateField<T>> table, const T& object, Section& out) {
    for (const auto& row : table) out.put(row.name, row.encode(object));
}

/// A missing field is an error unless it was introduced after `saved_version`; the member then keeps its value.
template <class T>
Result<> load_fields(std::span<const StateField<T>> table, const Section& in, T& object, u32 saved_version) {
    for (const auto& row : table) {
        const std::vector<u8>* bytes = in.get(row.name);
        if (!bytes) {
            if (row.since > saved_version) continue;
            return fail(ErrorCode::InvalidFormat, "field '{}' is missing", row.name);
        }
        TRY(row.decode(*bytes, object).context(row.name));
    }
    return {};
}

}  // namespace vezha::state
