// SPDX-License-Identifier: Apache-2.0
#include "machine/boot/elf.h"

#include <algorithm>

#include "base/bytes.h"

namespace vezha::machine::boot {

namespace {
constexpr u32 kPtLoad = 1, kPtNote = 4, kNotePhys32Entry = 18;
constexpr u16 kMachine386 = 3, kMachineX86_64 = 62;
constexpr u16 kMaxHeaders = 256;

/// Notes are {u32 name size, u32 value size, u32 type, name, value}, each part padded to 4 bytes.
std::optional<u64> find_pvh_note(std::span<const std::byte> notes) {
    const ByteReader in{notes};
    for (u64 at = 0; at + 12 <= notes.size();) {
        const u64 name_size = *in.le<u32>(at), value_size = *in.le<u32>(at + 4);
        const u32 type = *in.le<u32>(at + 8);
        const u64 name_at = at + 12, value_at = name_at + align_up(name_size, 4);
        const auto name = in.slice(name_at, name_size);
        const auto value = in.slice(value_at, value_size);
        if (!name || !value) return std::nullopt;
        if (type == kNotePhys32Entry && name_size == 4 && std::memcmp(name->data(), "Xen", 4) == 0) {
            if (value_size >= 8) return *in.le<u64>(value_at);
            if (value_size >= 4) return *in.le<u32>(value_at);
        }
        at = value_at + align_up(value_size, 4);
    }
    return std::nullopt;
}
}  // namespace

u64 ElfImage::lowest() const {
    u64 lowest = ~u64{0};
    for (const Segment& segment : segments) lowest = std::min(lowest, segment.address);
    return lowest;
}

u64 ElfImage::end() const {
    u64 end = 0;
    for (const Segment& segment : segments) end = std::max(end, segment.address + segment.memory_size);
    return end;
}

Result<ElfImage> parse_elf(std::span<const u8> file) {
    const ByteReader in{std::as_bytes(file)};
    if (TRY(in.be<u32>(0)) != 0x7f454c46) return fail(ErrorCode::InvalidFormat, "not an ELF file");
    const u8 file_class = TRY(in.le<u8>(4)), data = TRY(in.le<u8>(5));
    const u16 machine = TRY(in.le<u16>(18));
    if ((file_class != 1 && file_class != 2) || data != 1) return fail(ErrorCode::InvalidFormat, "ELF of class {} and byte order {}", file_class, data);
    if (machine != kMachine386 && machine != kMachineX86_64) return fail(ErrorCode::Unsupported, "ELF for another processor (machine {})", machine);

    ElfImage image{.is64 = file_class == 2};
    u64 table = 0;
    u16 entry_size = 0, count = 0;
    if (image.is64) {
        image.entry = TRY(in.le<u64>(24));
        table = TRY(in.le<u64>(32));
        entry_size = TRY(in.le<u16>(54));
        count = TRY(in.le<u16>(56));
    } else {
        image.entry = TRY(in.le<u32>(24));
        table = TRY(in.le<u32>(28));
        entry_size = TRY(in.le<u16>(42));
        count = TRY(in.le<u16>(44));
    }
    if (count > kMaxHeaders || entry_size < (image.is64 ? 56 : 32))
        return fail(ErrorCode::InvalidFormat, "{} ELF program headers of {} bytes", count, entry_size);
    if (table > file.size()) return fail(ErrorCode::OutOfRange, "ELF program headers lie past the end of the file");
    for (u16 i = 0; i < count; ++i) {
        const u64 at = table + u64{i} * entry_size;
        const u32 type = TRY(in.le<u32>(at));
        ElfImage::Segment segment;
        if (image.is64) {
            segment = {TRY(in.le<u64>(at + 8)), TRY(in.le<u64>(at + 32)), TRY(in.le<u64>(at + 24)), TRY(in.le<u64>(at + 40))};
        } else {
            segment = {TRY(in.le<u32>(at + 4)), TRY(in.le<u32>(at + 16)), TRY(in.le<u32>(at + 12)), TRY(in.le<u32>(at + 20))};
        }
        if (type != kPtLoad && type != kPtNote) continue;
        const auto bytes = in.slice(segment.file_offset, segment.file_size);
        if (!bytes)
            return Failure(Error(ErrorCode::OutOfRange, fmt::format("ELF segment {} reaches past the end of the file", i)).with_hint("is the file complete?"));
        if (type == kPtNote) {
            if (auto entry = find_pvh_note(*bytes)) image.pvh_entry = entry;
            continue;
        }
        if (segment.memory_size < segment.file_size || segment.address + segment.memory_size < segment.address)
            return fail(ErrorCode::InvalidFormat, "ELF segment {} has impossible sizes", i);
        if (segment.memory_size) image.segments.push_back(segment);
    }
    return image;
}

Result<> load_elf(memory::GuestMemory& memory, const ElfImage& image, std::span<const u8> file) {
    if (image.segments.empty()) return fail(ErrorCode::InvalidFormat, "an ELF file with nothing to load");
    for (const auto& segment : image.segments) {
        u8* host = memory.host_range({segment.address}, segment.memory_size, true);
        if (!host)
            return Failure(Error(ErrorCode::OutOfRange, fmt::format("the kernel wants {} bytes at {:#x}, where there is no memory",
                                                                    segment.memory_size, segment.address))
                               .with_hint("give the machine more memory: --memory"));
        std::memcpy(host, file.data() + segment.file_offset, segment.file_size);
        std::memset(host + segment.file_size, 0, segment.memory_size - segment.file_size);
    }
    return {};
}

std::optional<MultibootHeader> find_multiboot_header(std::span<const u8> file) {
    const ByteReader in{std::as_bytes(file)};
    for (u32 at = 0; at + 12 <= std::min<usize>(file.size(), 8192); at += 4) {
        if (*in.le<u32>(at) != 0x1badb002) continue;
        MultibootHeader header{.offset = at, .flags = *in.le<u32>(at + 4)};
        if (0x1badb002 + header.flags + *in.le<u32>(at + 8) != 0) continue;
        if (header.has_addresses()) {
            if (at + 32 > file.size()) continue;
            header.header_address = *in.le<u32>(at + 12);
            header.load_address = *in.le<u32>(at + 16);
            header.load_end = *in.le<u32>(at + 20);
            header.bss_end = *in.le<u32>(at + 24);
            header.entry = *in.le<u32>(at + 28);
        }
        return header;
    }
    return std::nullopt;
}

}  // namespace vezha::machine::boot
