// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace vezha::machine {

/// A piece of configuration before it has a meaning: what TOML, flags and JSON have in common. Scalars are text.
struct Node {
    enum class Kind : u8 { Text, List, Table };
    Kind kind = Kind::Text;
    std::string text{};
    std::vector<Node> items{};                              ///< of a List
    std::vector<std::pair<std::string, Node>> members{};    ///< of a Table, in the order written
    std::string where{};                                    ///< for people: "vm.toml:7" or "--disk"

    static Node of_text(std::string value, std::string place = {}) {
        return {Kind::Text, std::move(value), {}, {}, std::move(place)};
    }
    const Node* find(std::string_view name) const {
        for (const auto& [key, value] : members)
            if (key == name) return &value;
        return nullptr;
    }
};

/// Splits "path,key=value,..." into a table; a leading item without '=' gets the name `first`. Two commas stand for one
/// in a value.
Result<Node> split_properties(const Node& node, std::string_view first);

/// Reads a TOML file's text. @param file_name for messages. Untrusted input.
Result<Node> parse_toml(std::string_view text, const std::string& file_name);
/// Reads and writes the JSON that is handed from one of our processes to the next.
Result<Node> parse_json(std::string_view text);
std::string to_json(const Node& node);

/// The nearest of `known` to a mistyped word, or empty if none is near.
std::string nearest(std::string_view word, const std::vector<std::string_view>& known);

}  // namespace vezha::machine
