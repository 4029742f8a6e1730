// SPDX-License-Identifier: Apache-2.0
#include "machine/boot/boot.h"

#include <algorithm>

#include "arch/x86/registers.h"
#include "base/bytes.h"
#include "machine/boot/elf.h"

namespace vezha::machine::boot {

Result<Format> detect(std::span<const u8> kernel) {
    const ByteReader in{std::as_bytes(kernel)};
    if (const auto magic = in.le<u32>(0x202); magic && *magic == 0x53726448 /* "HdrS" */) {
        if (const auto flag = in.le<u16>(0x1fe); flag && *flag == 0xaa55) return Format::Linux;
    }
    if (const auto magic = in.be<u32>(0); magic && *magic == 0x7f454c46) {
        const ElfImage elf = TRY(parse_elf(kernel));
        if (elf.pvh_entry) return Format::Pvh;
        if (find_multiboot_header(kernel)) return Format::Multiboot;
        return Failure(Error(ErrorCode::Unsupported, "an ELF file without a PVH note or a Multiboot header")
                           .with_hint("build Linux with CONFIG_PVH, or use the bzImage"));
    }
    if (find_multiboot_header(kernel)) return Format::Multiboot;
    return Failure(Error(ErrorCode::InvalidFormat, kernel.size() < 1024 ? fmt::format("too short ({} bytes) for a kernel", kernel.size())
                                                                        : std::string("not a kernel that can be started here"))
                       .with_hint("expected a Linux bzImage (vmlinuz), or an ELF file with a PVH or Multiboot entry"));
}

Result<x86::CpuState> load(memory::GuestMemory& memory, const Payload& payload) {
    switch (TRY(detect(payload.kernel))) {
        case Format::Linux: return load_linux(memory, payload);
        case Format::Pvh: return load_pvh(memory, payload);
        case Format::Multiboot: break;
    }
    return load_multiboot(memory, payload);
}

u64 low_ram_end(const std::vector<MapEntry>& map) {
    for (const MapEntry& entry : map)
        if (entry.type == MapEntry::kRam && entry.base <= kMiB && entry.base + entry.size > kMiB) return entry.base + entry.size;
    return 0;
}

u64 place_high(const std::vector<MapEntry>& map, u64 size, u64 floor, u64 limit) {
    u64 best = 0;
    for (const MapEntry& entry : map) {
        if (entry.type != MapEntry::kRam) continue;
        const u64 end = align_down(std::min(entry.base + entry.size, limit), kPageSize);
        const u64 start = std::max(entry.base, floor);
        if (end > start && end - start >= size) best = std::max(best, align_down(end - size, kPageSize));
    }
    return best >= floor ? best : 0;
}

void set_memory_types(x86::CpuState& state) { state.set_msr(x86::msr::kMtrrDefType, 0x806); }

void set_firmware_state(x86::CpuState& state) {
    const auto put = [&state](usize offset, u32 value) { std::memcpy(state.lapic.registers.data() + offset, &value, sizeof value); };
    put(x86::lapic::kSpurious, 0x1ff);
    put(x86::lapic::kLvtLint0, 0x8700);  // ExtINT
    put(x86::lapic::kLvtLint1, 0x8400);  // NMI
    set_memory_types(state);
    state.cr0 &= ~(x86::cr0::kCd | x86::cr0::kNw);
}

x86::CpuState protected_mode_state(u64 entry) {
    x86::CpuState state = x86::reset_state(true, 0);
    set_firmware_state(state);
    for (auto& segment : state.segment) segment = x86::flat_data();
    state.segment[x86::kCs] = x86::flat_code32();
    state.tr = {0, 0x8b, 0x67, 0};
    state.cr0 = x86::cr0::kPe | x86::cr0::kEt;
    state.rip = entry;
    state.rflags = 2;
    return state;
}

Failure initrd_too_large(u64 size, u64 room) {
    return Failure(Error(ErrorCode::OutOfMemory, fmt::format("the initrd ({} MiB) does not fit into the {} MiB that are free beside the kernel",
                                                             (size + kMiB - 1) / kMiB, room / kMiB))
                       .with_hint("give the machine more memory: --memory"));
}

}  // namespace vezha::machine::boot
