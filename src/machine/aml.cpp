// SPDX-License-Identifier: Apache-2.0
#include "machine/aml.h"

#include <algorithm>
#include <array>
#include <string>

#include "base/check.h"

namespace vezha::machine::aml {

namespace {
void append(Bytes& out, const Bytes& more) {
    for (u8 byte : more) out.push_back(byte);
}

void put(Bytes& out, u64 value, unsigned size) {
    for (unsigned i = 0; i < size; ++i) out.push_back(static_cast<u8>(value >> (8 * i)));
}

/// PkgLength (20.2.4) counts itself: 1 to 4 bytes.
Bytes with_length(Bytes prefix, const Bytes& content) {
    for (unsigned extra = 0; extra < 4; ++extra) {
        const u64 length = content.size() + 1 + extra;
        if (extra == 0 ? length >= 0x40 : length >= u64{1} << (4 + 8 * extra)) continue;
        if (extra == 0) {
            prefix.push_back(static_cast<u8>(length));
        } else {
            prefix.push_back(static_cast<u8>(extra << 6 | (length & 0xf)));
            put(prefix, length >> 4, extra);
        }
        append(prefix, content);
        return prefix;
    }
    CHECK(!"AML package too long");
}

Bytes binary(u8 op, const Bytes& a, const Bytes& b) {
    Bytes out{op};
    append(out, a);
    append(out, b);
    return out;
}

unsigned hex(char c) {
    CHECK((c >= '0' && c <= '9') || (c >= 'A' && c <= 'F') || (c >= 'a' && c <= 'f'));
    return c <= '9' ? static_cast<unsigned>(c - '0') : static_cast<unsigned>((c | 0x20) - 'a' + 10);
}

/// Address space descriptors, 6.4.3.5.
Bytes address_space(u8 tag, u8 type, u8 flags, u64 first, u64 last, unsigned width, u8 general = 0x0c) {
    Bytes out{tag};
    put(out, 3 + 5 * width, 2);
    out.push_back(type);
    out.push_back(general);  // minimum and maximum are fixed
    out.push_back(flags);
    put(out, 0, width);  // granularity
    put(out, first, width);
    put(out, last, width);
    put(out, 0, width);  // translation
    put(out, last - first + 1, width);
    return out;
}
}  // namespace

Bytes join(std::span<const Bytes> terms) {
    Bytes out;
    for (const Bytes& term : terms) append(out, term);
    return out;
}
Bytes join(Terms terms) { return join(std::span(terms.begin(), terms.size())); }

Bytes path(std::string_view name) {
    Bytes out;
    while (!name.empty() && (name[0] == '\\' || name[0] == '^')) {
        out.push_back(static_cast<u8>(name[0]));
        name.remove_prefix(1);
    }
    std::vector<std::string> segments;
    while (!name.empty()) {
        const usize dot = std::min(name.find('.'), name.size());
        std::string segment(name.substr(0, dot));
        CHECK(!segment.empty() && segment.size() <= 4);
        segment.resize(4, '_');
        segments.push_back(segment);
        name.remove_prefix(std::min(dot + 1, name.size()));
    }
    if (segments.empty()) out.push_back(0x00);
    if (segments.size() == 2) out.push_back(0x2e);
    if (segments.size() > 2) {
        out.push_back(0x2f);
        out.push_back(static_cast<u8>(segments.size()));
    }
    for (const std::string& segment : segments)
        for (char c : segment) out.push_back(static_cast<u8>(c));
    return out;
}

Bytes integer(u64 value) {
    if (value <= 1) return {static_cast<u8>(value)};
    const unsigned size = value < 0x100 ? 1 : value < 0x1'0000 ? 2 : value < 0x1'0000'0000 ? 4 : 8;
    Bytes out{static_cast<u8>(size == 1 ? 0x0a : size == 2 ? 0x0b : size == 4 ? 0x0c : 0x0e)};
    put(out, value, size);
    return out;
}

Bytes string(std::string_view text) {
    Bytes out{0x0d};
    for (char c : text) out.push_back(static_cast<u8>(c));
    out.push_back(0);
    return out;
}

Bytes eisa_id(std::string_view id) {
    CHECK(id.size() == 7);
    const u32 letters = static_cast<u32>((id[0] - 0x40) << 10 | (id[1] - 0x40) << 5 | (id[2] - 0x40));
    const u32 number = hex(id[3]) << 12 | hex(id[4]) << 8 | hex(id[5]) << 4 | hex(id[6]);
    Bytes out{0x0c};
    put(out, __builtin_bswap32(letters << 16 | number), 4);
    return out;
}

Bytes buffer(std::span<const u8> bytes) {
    Bytes content = integer(bytes.size());
    content.insert(content.end(), bytes.begin(), bytes.end());
    return with_length({0x11}, content);
}

Bytes package(std::span<const Bytes> elements) {
    CHECK(elements.size() < 256);
    Bytes content{static_cast<u8>(elements.size())};
    append(content, join(elements));
    return with_length({0x12}, content);
}
Bytes package(Terms elements) { return package(std::span(elements.begin(), elements.size())); }

Bytes uuid(std::string_view text) {
    CHECK(text.size() == 36);
    // The first three groups are little-endian (19.6.142).
    static constexpr std::array<u8, 16> kOrder{6, 4, 2, 0, 11, 9, 16, 14, 19, 21, 24, 26, 28, 30, 32, 34};
    std::array<u8, 16> bytes{};
    for (usize i = 0; i < 16; ++i) bytes[i] = static_cast<u8>(hex(text[kOrder[i]]) << 4 | hex(text[kOrder[i] + 1u]));
    return buffer(bytes);
}

Bytes name(std::string_view where, Bytes value) { return join({{0x08}, path(where), std::move(value)}); }
Bytes scope(std::string_view where, std::span<const Bytes> content) {
    return with_length({0x10}, join({path(where), join(content)}));
}
Bytes device(std::string_view where, std::span<const Bytes> content) {
    return with_length({0x5b, 0x82}, join({path(where), join(content)}));
}
Bytes method(std::string_view where, unsigned arguments, Terms body, bool serialized) {
    return with_length({0x14}, join({path(where), {static_cast<u8>(arguments | (serialized ? 8u : 0u))}, join(body)}));
}

Bytes arg(unsigned number) { return {static_cast<u8>(0x68 + number)}; }
Bytes local(unsigned number) { return {static_cast<u8>(0x60 + number)}; }
Bytes ret(Bytes value) { return join({{0xa4}, std::move(value)}); }
Bytes store(Bytes value, Bytes target) { return binary(0x70, value, target); }
Bytes bit_and(Bytes a, Bytes b, Bytes target) { return join({binary(0x7b, a, b), target}); }
Bytes bit_or(Bytes a, Bytes b, Bytes target) { return join({binary(0x7d, a, b), target}); }
Bytes equal(Bytes a, Bytes b) { return binary(0x93, a, b); }
Bytes logical_not(Bytes a) { return join({{0x92}, std::move(a)}); }
Bytes if_then(Bytes condition, Terms body) { return with_length({0xa0}, join({std::move(condition), join(body)})); }
Bytes otherwise(Terms body) { return with_length({0xa1}, join(body)); }
Bytes create_dword_field(Bytes from, u64 offset, std::string_view field) {
    return join({{0x8a}, std::move(from), integer(offset), path(field)});
}

Bytes resources(std::span<const Bytes> descriptors) {
    Bytes content = join(descriptors);
    content.push_back(0x79);
    content.push_back(0x00);  // no checksum
    return buffer(content);
}

Bytes io(u16 base, u8 length, u8 alignment) {
    Bytes out{0x47, 0x01};
    put(out, base, 2);
    put(out, base, 2);
    out.push_back(alignment);
    out.push_back(length);
    return out;
}

Bytes irq(unsigned number) {
    Bytes out{0x22};
    put(out, u64{1} << number, 2);
    return out;
}

Bytes memory32(u32 base, u32 length, bool writable) {
    Bytes out{0x86, 0x09, 0x00, static_cast<u8>(writable)};
    put(out, base, 4);
    put(out, length, 4);
    return out;
}

Bytes bus_numbers(u16 first, u16 last) { return address_space(0x88, 2, 0, first, last, 2); }
Bytes io_window(u16 first, u16 last) { return address_space(0x88, 1, 3, first, last, 2); }
Bytes memory_window32(u32 first, u32 last) { return address_space(0x87, 0, 1, first, last, 4); }
Bytes memory_window64(u64 first, u64 last, bool prefetchable) {
    return address_space(0x8a, 0, prefetchable ? 7 : 1, first, last, 8);
}

}  // namespace vezha::machine::aml
