// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <charconv>
#include <concepts>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "machine/config/node.h"

/// The machinery of configuration tables: a struct's members are listed once, as rows of Field<T>, and reading TOML,
/// flags and JSON, writing JSON and printing help all walk those rows.
namespace vezha::machine {

/// A number of bytes, written "512M", "2G" or "4096".
struct ByteSize {
    u64 bytes = 0;
    bool operator==(const ByteSize&) const = default;
};
Result<ByteSize> parse_size(std::string_view text);
std::string to_string(ByteSize size);

/// One row: a member of T.
template <class T>
struct Field {
    std::string_view name;      ///< as in TOML and JSON; the flag has '-' for '_'
    std::string_view argument;  ///< for help: "SIZE", "on|off"
    std::string_view help;
    std::string_view group;     ///< heading in help; rows of one group stand together
    bool repeatable = false;
    Result<> (*read)(const Node&, T&) = nullptr;
    Node (*write)(const T&) = nullptr;
};

/// A configuration struct names its rows and, for the short form "value,key=value", which key the bare value has.
template <class T>
concept Configurable = requires {
    { T::fields() } -> std::same_as<std::span<const Field<T>>>;
    { T::kBareKey } -> std::convertible_to<std::string_view>;
};

template <class E>
struct EnumName {
    E value;
    std::string_view name;
};

Failure wrong_value(const Node& node, std::string_view expected);
Result<std::string_view> scalar_text(const Node& node);

template <class M>
Result<> read_member(const Node& node, M& out);
template <class M>
Node write_member(const M& value);

template <class M>
inline constexpr bool kIsVector = false;
template <class E>
inline constexpr bool kIsVector<std::vector<E>> = true;
template <class M>
inline constexpr bool kIsOptional = false;
template <class E>
inline constexpr bool kIsOptional<std::optional<E>> = true;

/// Fills `out` from a table; a key that no row has is an error naming the nearest.
template <Configurable T>
Result<> read_fields(const Node& table, T& out) {
    if (table.kind != Node::Kind::Table) return wrong_value(table, "a table of keys");
    for (const auto& [key, value] : table.members) {
        const Field<T>* found = nullptr;
        for (const Field<T>& row : T::fields())
            if (row.name == key) found = &row;
        if (!found) {
            std::vector<std::string_view> known;
            std::string all;
            for (const Field<T>& row : T::fields()) {
                known.push_back(row.name);
                all += (all.empty() ? "" : ", ") + std::string(row.name);
            }
            const std::string guess = nearest(key, known);
            return Failure(Error(ErrorCode::InvalidArgument, fmt::format("{}: unknown key '{}'", value.where, key))
                               .with_hint(guess.empty() ? "known keys: " + all : fmt::format("did you mean '{}'?", guess)));
        }
        if (auto done = found->read(value, out); !done) {
            return Failure(std::move(done.error()));
        }
    }
    return {};
}

template <Configurable T>
Node write_fields(const T& value) {
    Node table{.kind = Node::Kind::Table};
    const T defaults{};
    for (const Field<T>& row : T::fields()) {
        Node member = row.write(value);
        const Node standard = row.write(defaults);
        if (to_json(member) != to_json(standard)) table.members.emplace_back(std::string(row.name), std::move(member));
    }
    return table;
}

template <class M>
Result<> read_member(const Node& node, M& out) {
    if constexpr (kIsVector<M>) {
        out.clear();
        if (node.kind != Node::Kind::List) {
            TRY(read_member(node, out.emplace_back()));
            return {};
        }
        for (const Node& item : node.items) TRY(read_member(item, out.emplace_back()));
        return {};
    } else if constexpr (kIsOptional<M>) {
        return read_member(node, out.emplace());
    } else if constexpr (Configurable<M>) {
        if (node.kind == Node::Kind::Text) {
            const Node table = TRY(split_properties(node, M::kBareKey));
            return read_fields(table, out);
        }
        return read_fields(node, out);
    } else {
        const std::string_view text = TRY(scalar_text(node));
        if constexpr (std::is_same_v<M, std::string>) {
            out = text;
        } else if constexpr (std::is_same_v<M, bool>) {
            if (text == "on" || text == "true" || text == "yes") out = true;
            else if (text == "off" || text == "false" || text == "no") out = false;
            else return wrong_value(node, "on or off");
        } else if constexpr (std::is_same_v<M, ByteSize>) {
            auto size = parse_size(text);
            if (!size) return wrong_value(node, "a size such as 512M or 2G");
            out = *size;
        } else if constexpr (std::is_enum_v<M>) {
            std::string all;
            for (const auto& row : enum_names(M{})) {
                if (row.name == text) {
                    out = row.value;
                    return {};
                }
                all += (all.empty() ? "" : ", ") + std::string(row.name);
            }
            return wrong_value(node, "one of " + all);
        } else if constexpr (std::is_integral_v<M>) {
            const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
            if (error != std::errc{} || end != text.data() + text.size()) return wrong_value(node, "a whole number");
        } else {
            return out.parse(node);  // a type with a notation of its own
        }
        return {};
    }
}

template <class M>
Node write_member(const M& value) {
    if constexpr (kIsVector<M>) {
        Node list{.kind = Node::Kind::List};
        for (const auto& item : value) list.items.push_back(write_member(item));
        return list;
    } else if constexpr (kIsOptional<M>) {
        return value ? write_member(*value) : Node{.kind = Node::Kind::List};
    } else if constexpr (Configurable<M>) {
        return write_fields(value);
    } else if constexpr (std::is_same_v<M, std::string>) {
        return Node::of_text(value);
    } else if constexpr (std::is_same_v<M, bool>) {
        return Node::of_text(value ? "on" : "off");
    } else if constexpr (std::is_same_v<M, ByteSize>) {
        return Node::of_text(to_string(value));
    } else if constexpr (std::is_enum_v<M>) {
        for (const auto& row : enum_names(value))
            if (row.value == value) return Node::of_text(std::string(row.name));
        return Node::of_text("");
    } else if constexpr (std::is_integral_v<M>) {
        return Node::of_text(std::to_string(value));
    } else {
        return Node::of_text(value.to_string());
    }
}

template <class T, auto Member>
constexpr Field<T> config_field(std::string_view name, std::string_view argument, std::string_view help,
                                std::string_view group = {}) {
    using M = std::remove_reference_t<decltype(std::declval<T&>().*Member)>;
    return {name, argument, help, group, kIsVector<M>,
            [](const Node& node, T& object) { return read_member(node, object.*Member); },
            [](const T& object) { return write_member(object.*Member); }};
}

}  // namespace vezha::machine
