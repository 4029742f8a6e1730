// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "memory/guest_memory.h"

namespace vezha::machine::boot {

/// What a loader needs of an ELF file, 32 or 64 bit, little-endian x86.
struct ElfImage {
    struct Segment {
        u64 file_offset = 0, file_size = 0;  ///< lies within the file
        u64 address = 0, memory_size = 0;    ///< physical; memory_size >= file_size, no wrap
    };
    bool is64 = false;
    u64 entry = 0;
    std::vector<Segment> segments;  ///< PT_LOAD with memory_size > 0
    std::optional<u64> pvh_entry;   ///< XEN_ELFNOTE_PHYS32_ENTRY
    u64 lowest() const;
    u64 end() const;
};

/// Parses untrusted bytes. Source: System V ABI, chapters 4 and 5. @return InvalidFormat or OutOfRange.
Result<ElfImage> parse_elf(std::span<const u8> file);

/// Copies the segments and clears the rest of each. @return OutOfRange if one does not fit into memory.
Result<> load_elf(memory::GuestMemory& memory, const ElfImage& image, std::span<const u8> file);

struct MultibootHeader {
    u32 offset = 0, flags = 0;
    bool has_addresses() const { return flags & (1u << 16); }
    u32 header_address = 0, load_address = 0, load_end = 0, bss_end = 0, entry = 0;
};
/// Multiboot 0.6.96, 3.1: within the first 8192 bytes, 4-byte aligned, with a right checksum.
std::optional<MultibootHeader> find_multiboot_header(std::span<const u8> file);

}  // namespace vezha::machine::boot
