// SPDX-License-Identifier: Apache-2.0
#include "machine/boot/boot.h"
#include "arch/x86/registers.h"
#include "machine/boot/elf.h"

namespace vezha::machine::boot {

namespace {
constexpr u32 kBootMagic = 0x2badb002;
enum InfoFlags : u32 { kMemory = 1 << 0, kCommandLine = 1 << 2, kModules = 1 << 3, kMap = 1 << 6, kLoaderName = 1 << 9 };

struct Info {
    u32 flags = 0, memory_lower = 0, memory_upper = 0, boot_device = 0, command_line = 0, module_count = 0, modules = 0;
    u32 symbols[4] = {};
    u32 map_length = 0, map_address = 0, drives_length = 0, drives_address = 0, config_table = 0, loader_name = 0;
};
static_assert(sizeof(Info) == 68);
struct [[gnu::packed]] MapRow {
    u32 size = 20;
    u64 base = 0, length = 0;
    u32 type = 0;
};
static_assert(sizeof(MapRow) == 24);
struct Module {
    u32 start = 0, end = 0, command_line = 0, reserved = 0;
};

/// Loads by the header's addresses (flag 16). @return end of what is occupied.
Result<u64> load_by_addresses(memory::GuestMemory& memory, const MultibootHeader& header, std::span<const u8> file) {
    const u32 skip = header.header_address - header.load_address;
    if (header.load_address > header.header_address || skip > header.offset) return fail(ErrorCode::InvalidFormat, "Multiboot addresses contradict each other");
    auto bytes = file.subspan(header.offset - skip);
    if (header.load_end) {
        if (header.load_end < header.load_address || header.load_end - header.load_address > bytes.size())
            return fail(ErrorCode::InvalidFormat, "the Multiboot image is truncated");
        bytes = bytes.first(header.load_end - header.load_address);
    }
    const u64 end = std::max<u64>(header.load_address + bytes.size(), header.bss_end);
    u8* host = memory.host_range({header.load_address}, end - header.load_address, true);
    if (!host) return fail(ErrorCode::OutOfRange, "the image does not fit into memory");
    std::memcpy(host, bytes.data(), bytes.size());
    std::memset(host + bytes.size(), 0, end - header.load_address - bytes.size());
    return end;
}

/// Real mode without firmware: all vectors return; the timer's and the PICs' also acknowledge, as a BIOS's handlers do.
Result<> write_interrupt_vectors(memory::GuestMemory& memory) {
    constexpr u16 segment = 0xf000, plain = 0xff00, first = 0xff10, second = 0xff20;
    constexpr u8 iret = 0xcf;
    // push ax; mov al, 0x20; out 0x20, al; pop ax; iret     and with out 0xa0, al before it
    constexpr u8 acknowledge[] = {0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf};
    constexpr u8 acknowledge_both[] = {0x50, 0xb0, 0x20, 0xe6, 0xa0, 0xe6, 0x20, 0x58, 0xcf};
    TRY(memory.load({u64{segment} * 16 + plain}, {&iret, 1}));
    TRY(memory.load({u64{segment} * 16 + first}, acknowledge));
    TRY(memory.load({u64{segment} * 16 + second}, acknowledge_both));
    std::array<u32, 256> vectors;
    for (u32 i = 0; i < 256; ++i) {
        const u16 offset = i >= 8 && i < 16 ? first : i >= 0x70 && i < 0x78 ? second : plain;
        vectors[i] = u32{segment} << 16 | offset;
    }
    return memory.write_object({0}, vectors);
}
}  // namespace

Result<x86::CpuState> load_multiboot(memory::GuestMemory& memory, const Payload& payload) {
    const auto header = find_multiboot_header(payload.kernel);
    if (!header) return fail(ErrorCode::InvalidFormat, "no Multiboot header");
    u64 entry = 0, end = 0;
    if (header->has_addresses()) {
        end = TRY(load_by_addresses(memory, *header, payload.kernel));
        entry = header->entry;
    } else {
        const ElfImage elf = TRY(parse_elf(payload.kernel));
        TRY(load_elf(memory, elf, payload.kernel));
        entry = elf.entry;
        end = elf.end();
    }
    if (entry >= 0x1'0000'0000) return fail(ErrorCode::InvalidFormat, "the entry {:#x} lies above 4 GiB", entry);

    const u64 ram_end = low_ram_end(payload.map);
    Info info;
    info.flags = kMemory | kCommandLine | kMap | kLoaderName;
    info.memory_lower = 639;
    info.memory_upper = ram_end > kMiB ? static_cast<u32>((ram_end - kMiB) / kKiB) : 0;

    std::string text = payload.kernel_name.empty() ? "kernel" : payload.kernel_name;
    if (!payload.command_line.empty()) text += " " + payload.command_line;
    if (text.size() >= layout::kCommandLineEnd - layout::kCommandLine) return fail(ErrorCode::InvalidArgument, "the command line is too long");
    std::vector<u8> bytes(text.begin(), text.end());
    bytes.push_back(0);
    TRY(memory.write({layout::kCommandLine}, bytes));
    info.command_line = static_cast<u32>(layout::kCommandLine);

    constexpr u64 name_at = layout::kMultibootInfo + 0x80, module_at = layout::kMultibootInfo + 0xa0, map_at = layout::kMultibootInfo + 0x100;
    constexpr char loader[] = "Vezha";
    TRY(memory.write({name_at}, {reinterpret_cast<const u8*>(loader), sizeof loader}));
    info.loader_name = static_cast<u32>(name_at);

    std::vector<MapRow> rows;
    for (const MapEntry& entry_row : payload.map)
        if (map_at + (rows.size() + 1) * sizeof(MapRow) <= layout::kMultibootInfo + kPageSize) rows.push_back({20, entry_row.base, entry_row.size, entry_row.type});
    TRY(memory.write({map_at}, {reinterpret_cast<const u8*>(rows.data()), rows.size() * sizeof(MapRow)}));
    info.map_address = static_cast<u32>(map_at);
    info.map_length = static_cast<u32>(rows.size() * sizeof(MapRow));

    if (!payload.initrd.empty()) {
        const u64 floor = align_up(end, kPageSize);
        const u64 module = place_high(payload.map, payload.initrd.size(), floor, ram_end);
        if (!module) return initrd_too_large(payload.initrd.size(), ram_end > floor ? ram_end - floor : 0);
        TRY(memory.load({module}, payload.initrd));
        TRY(memory.write_object({module_at}, Module{.start = static_cast<u32>(module), .end = static_cast<u32>(module + payload.initrd.size()),
                                                    .command_line = static_cast<u32>(layout::kCommandLine)}));
        info.flags |= kModules;
        info.module_count = 1;
        info.modules = static_cast<u32>(module_at);
    }
    TRY(memory.write_object({layout::kMultibootInfo}, info));
    TRY(write_interrupt_vectors(memory));

    x86::CpuState state = protected_mode_state(entry);
    state.gpr[x86::kRax] = kBootMagic;
    state.gpr[x86::kRbx] = layout::kMultibootInfo;
    return state;
}

}  // namespace vezha::machine::boot
