// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <initializer_list>
#include <span>
#include <string_view>
#include <vector>

#include "base/types.h"

/// Writes ACPI Machine Language: each function returns the bytes of one term. Source: ACPI 6.4, chapter 20.
namespace vezha::machine::aml {

using Bytes = std::vector<u8>;
using Terms = std::initializer_list<Bytes>;

Bytes join(Terms terms);
Bytes join(std::span<const Bytes> terms);

/// "\\_SB.PCI0", "^FOO", "_HID": segments of up to four characters, padded with '_'.
Bytes path(std::string_view name);
Bytes integer(u64 value);
Bytes string(std::string_view text);
/// "PNP0A08" as the integer that _HID takes.
Bytes eisa_id(std::string_view id);
Bytes buffer(std::span<const u8> bytes);
Bytes package(Terms elements);
Bytes package(std::span<const Bytes> elements);
/// The 16 bytes of a UUID as ToUUID makes them.
Bytes uuid(std::string_view text);

Bytes name(std::string_view where, Bytes value);
Bytes scope(std::string_view where, std::span<const Bytes> content);
Bytes device(std::string_view where, std::span<const Bytes> content);
inline Bytes scope(std::string_view where, Terms content) { return scope(where, std::span(content.begin(), content.size())); }
inline Bytes device(std::string_view where, Terms content) { return device(where, std::span(content.begin(), content.size())); }
Bytes method(std::string_view where, unsigned arguments, Terms body, bool serialized = false);

Bytes arg(unsigned number);    ///< Arg0 to Arg6
Bytes local(unsigned number);  ///< Local0 to Local7
Bytes ret(Bytes value);
Bytes store(Bytes value, Bytes target);
Bytes bit_and(Bytes a, Bytes b, Bytes target);
Bytes bit_or(Bytes a, Bytes b, Bytes target);
Bytes equal(Bytes a, Bytes b);
Bytes logical_not(Bytes a);
Bytes if_then(Bytes condition, Terms body);
Bytes otherwise(Terms body);
Bytes create_dword_field(Bytes buffer, u64 offset, std::string_view name);

/// A resource template of the descriptors below, with its end tag.
Bytes resources(std::span<const Bytes> descriptors);
inline Bytes resources(Terms descriptors) { return resources(std::span(descriptors.begin(), descriptors.size())); }
Bytes io(u16 base, u8 length, u8 alignment = 1);
Bytes irq(unsigned number);  ///< edge, active high, exclusive
Bytes memory32(u32 base, u32 length, bool writable = true);
Bytes bus_numbers(u16 first, u16 last);
Bytes io_window(u16 first, u16 last);
Bytes memory_window32(u32 first, u32 last);
Bytes memory_window64(u64 first, u64 last, bool prefetchable);

}  // namespace vezha::machine::aml
