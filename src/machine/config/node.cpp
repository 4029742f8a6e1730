// SPDX-License-Identifier: Apache-2.0
#include "machine/config/node.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#define TOML_EXCEPTIONS 0
#define TOML_HEADER_ONLY 1
#include <toml++/toml.h>

namespace vezha::machine {

Result<Node> split_properties(const Node& node, std::string_view first) {
    std::vector<std::string> parts(1);
    for (usize i = 0; i < node.text.size(); ++i) {
        if (node.text[i] != ',') parts.back() += node.text[i];
        else if (i + 1 < node.text.size() && node.text[i + 1] == ',') parts.back() += node.text[++i];
        else parts.emplace_back();
    }
    Node table{.kind = Node::Kind::Table, .where = node.where};
    for (usize i = 0; i < parts.size(); ++i) {
        const auto equals = parts[i].find('=');
        std::string key = equals == std::string::npos ? std::string() : parts[i].substr(0, equals);
        std::string value = equals == std::string::npos ? parts[i] : parts[i].substr(equals + 1);
        if (equals == std::string::npos) {
            if (i != 0)
                return fail(ErrorCode::InvalidArgument, "{}: '{}' in '{}' has no value", node.where, parts[i], node.text)
                    ;
            key = first;
        }
        std::replace(key.begin(), key.end(), '-', '_');
        if (table.find(key)) {
            // A key given twice makes a list: share=2222:22,share=8080:80.
            for (auto& [name, existing] : table.members) {
                if (name != key) continue;
                if (existing.kind == Node::Kind::Text) {
                    Node list{.kind = Node::Kind::List, .where = node.where};
                    list.items.push_back(std::move(existing));
                    existing = std::move(list);
                }
                existing.items.push_back(Node::of_text(value, node.where));
            }
            continue;
        }
        table.members.emplace_back(std::move(key), Node::of_text(std::move(value), node.where));
    }
    return table;
}

namespace {

std::string place(const toml::node& node, const std::string& file) {
    return fmt::format("{}:{}", file, static_cast<unsigned>(node.source().begin.line));
}

Result<Node> from_toml(const toml::node& node, const std::string& file) {
    Node out{.where = place(node, file)};
    if (const auto* table = node.as_table()) {
        out.kind = Node::Kind::Table;
        for (const auto& [key, value] : *table) {
            Node member = TRY(from_toml(value, file));
            member.where = fmt::format("{}:{}", file, static_cast<unsigned>(key.source().begin.line));
            out.members.emplace_back(std::string(key.str()), std::move(member));
        }
    } else if (const auto* array = node.as_array()) {
        out.kind = Node::Kind::List;
        for (const auto& item : *array) out.items.push_back(TRY(from_toml(item, file)));
    } else if (const auto* text = node.as_string()) {
        out.text = text->get();
    } else if (const auto* integer = node.as_integer()) {
        out.text = std::to_string(integer->get());
    } else if (const auto* truth = node.as_boolean()) {
        out.text = truth->get() ? "true" : "false";
    } else {
        return fail(ErrorCode::InvalidFormat, "{}: only strings, whole numbers, true, false, lists and tables are used here",
                    out.where);
    }
    return out;
}

Result<Node> from_json(const nlohmann::json& json, int depth) {
    Node out{.where = "configuration"};
    if (depth > 8) return fail(ErrorCode::InvalidFormat, "configuration: nested too deeply");
    if (json.is_object()) {
        out.kind = Node::Kind::Table;
        for (const auto& [key, value] : json.items()) {
            Node member = TRY(from_json(value, depth + 1));
            member.where = key;
            out.members.emplace_back(key, std::move(member));
        }
    } else if (json.is_array()) {
        out.kind = Node::Kind::List;
        for (const auto& item : json) out.items.push_back(TRY(from_json(item, depth + 1)));
    } else if (json.is_string()) {
        out.text = json.get<std::string>();
    } else {
        out.text = json.dump();
    }
    return out;
}

nlohmann::json json_of(const Node& node) {
    switch (node.kind) {
        case Node::Kind::Text: return node.text;
        case Node::Kind::List: {
            auto list = nlohmann::json::array();
            for (const Node& item : node.items) list.push_back(json_of(item));
            return list;
        }
        case Node::Kind::Table: break;
    }
    auto table = nlohmann::json::object();
    for (const auto& [key, value] : node.members) table[key] = json_of(value);
    return table;
}

usize edit_distance(std::string_view a, std::string_view b) {
    std::vector<usize> row(b.size() + 1);
    for (usize j = 0; j <= b.size(); ++j) row[j] = j;
    for (usize i = 1; i <= a.size(); ++i) {
        usize diagonal = row[0];
        row[0] = i;
        for (usize j = 1; j <= b.size(); ++j) {
            const usize above = row[j];
            row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
            diagonal = above;
        }
    }
    return row[b.size()];
}

/// TOML 1.0 has characters beyond ASCII in strings and comments alone; toml++ 3.3 takes some of them elsewhere into code
/// that it believes unreachable. @return the line of the first such character, or 0
u32 line_of_stray_character(std::string_view text) {
    u32 line = 1;
    std::string_view quote;  // the delimiter of the string we are in: " ' """ '''
    bool comment = false;
    for (usize i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (c == '\n') {
            ++line;
            comment = false;
            if (quote.size() == 1) quote = {};  // an unfinished string: the parser will say so
        } else if (comment) {
            continue;
        } else if (!quote.empty()) {
            if (c == '\\' && quote[0] == '"') {
                ++i;
            } else if (text.substr(i, quote.size()) == quote) {
                i += quote.size() - 1;
                quote = {};
            }
        } else if (c == '#') {
            comment = true;
        } else if (c == '"' || c == '\'') {
            const usize size = text.substr(i, 3) == std::string(3, c) ? 3 : 1;
            quote = text.substr(i, size);
            i += size - 1;
        } else if (static_cast<u8>(c) >= 0x80) {
            // A byte order mark at the very start is no character of the text.
            if (i == 0 && text.starts_with("\xef\xbb\xbf")) i += 2;
            else return line;
        }
    }
    return 0;
}

}  // namespace

Result<Node> parse_toml(std::string_view text, const std::string& file_name) {
    if (const u32 line = line_of_stray_character(text))
        return Failure(Error(ErrorCode::InvalidFormat, fmt::format("{}:{}: a character beyond ASCII outside quotes", file_name, line))
                           .with_hint("put the text in double quotes"));
    const toml::parse_result parsed = toml::parse(text, file_name);
    if (!parsed)
        return Failure(Error(ErrorCode::InvalidFormat,
                             fmt::format("{}:{}: {}", file_name, static_cast<unsigned>(parsed.error().source().begin.line),
                                         parsed.error().description()))
                           .with_hint("the file must be TOML: key = \"value\" lines, [[disk]] sections"));
    return from_toml(parsed.table(), file_name);
}

Result<Node> parse_json(std::string_view text) {
    const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (json.is_discarded()) return fail(ErrorCode::InvalidFormat, "configuration: not valid JSON");
    return from_json(json, 0);
}

std::string to_json(const Node& node) {
    return json_of(node).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string nearest(std::string_view word, const std::vector<std::string_view>& known) {
    std::string_view best;
    usize best_distance = std::max<usize>(2, word.size() / 3) + 1;
    for (std::string_view candidate : known) {
        const usize distance = edit_distance(word, candidate);
        if (distance < best_distance) {
            best = candidate;
            best_distance = distance;
        }
    }
    return std::string(best);
}

}  // namespace vezha::machine
