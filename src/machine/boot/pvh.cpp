// SPDX-License-Identifier: Apache-2.0
#include "machine/boot/boot.h"
#include "arch/x86/registers.h"
#include "machine/boot/elf.h"

namespace vezha::machine::boot {

namespace {
struct StartInfo {
    u32 magic = 0x336ec578, version = 1, flags = 0, module_count = 0;
    u64 modules = 0, command_line = 0, rsdp = 0, map = 0;
    u32 map_entries = 0, reserved = 0;
};
static_assert(sizeof(StartInfo) == 56);
struct Module {
    u64 address = 0, size = 0, command_line = 0, reserved = 0;
};
struct MapRow {
    u64 base = 0, size = 0;
    u32 type = 0, reserved = 0;
};
static_assert(sizeof(MapRow) == 24);
}  // namespace

Result<x86::CpuState> load_pvh(memory::GuestMemory& memory, const Payload& payload) {
    const ElfImage elf = TRY(parse_elf(payload.kernel));
    if (!elf.pvh_entry) return fail(ErrorCode::InvalidFormat, "no PVH entry note");
    if (*elf.pvh_entry >= 0x1'0000'0000) return fail(ErrorCode::InvalidFormat, "the PVH entry {:#x} lies above 4 GiB", *elf.pvh_entry);
    if (elf.lowest() < kMiB) return fail(ErrorCode::Unsupported, "a PVH kernel that loads below 1 MiB ({:#x})", elf.lowest());
    TRY(load_elf(memory, elf, payload.kernel));

    StartInfo info;
    constexpr u64 map_at = layout::kStartInfo + 0x100, module_at = layout::kStartInfo + 0x80;
    std::vector<MapRow> rows;
    for (const MapEntry& entry : payload.map)
        if (map_at + (rows.size() + 1) * sizeof(MapRow) <= layout::kZeroPage) rows.push_back({entry.base, entry.size, entry.type, 0});
    TRY(memory.write({map_at}, {reinterpret_cast<const u8*>(rows.data()), rows.size() * sizeof(MapRow)}));
    info.map = map_at;
    info.map_entries = static_cast<u32>(rows.size());
    info.rsdp = payload.rsdp;
    if (payload.command_line.size() >= layout::kCommandLineEnd - layout::kCommandLine) return fail(ErrorCode::InvalidArgument, "the command line is too long");
    std::vector<u8> text(payload.command_line.begin(), payload.command_line.end());
    text.push_back(0);
    TRY(memory.write({layout::kCommandLine}, text));
    info.command_line = layout::kCommandLine;
    if (!payload.initrd.empty()) {
        const u64 floor = align_up(elf.end(), kPageSize), limit = low_ram_end(payload.map);
        const u64 initrd = place_high(payload.map, payload.initrd.size(), floor, limit);
        if (!initrd) return initrd_too_large(payload.initrd.size(), limit > floor ? limit - floor : 0);
        TRY(memory.load({initrd}, payload.initrd));
        TRY(memory.write_object({module_at}, Module{.address = initrd, .size = payload.initrd.size()}));
        info.modules = module_at;
        info.module_count = 1;
    }
    TRY(memory.write_object({layout::kStartInfo}, info));
    x86::CpuState state = protected_mode_state(*elf.pvh_entry);
    state.gpr[x86::kRbx] = layout::kStartInfo;
    return state;
}

}  // namespace vezha::machine::boot
