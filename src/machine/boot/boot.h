// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <vector>

#include "arch/x86/cpu_state.h"
#include "memory/guest_memory.h"

/// Puts a kernel into guest memory and says how the boot processor starts. Every input is untrusted.
namespace vezha::machine::boot {

/// A range of the memory map that the kernel is told, with E820 types.
struct MapEntry {
    u64 base = 0, size = 0;
    u32 type = kRam;
    static constexpr u32 kRam = 1, kReserved = 2, kAcpi = 3, kNvs = 4;
};

struct Payload {
    std::span<const u8> kernel;
    std::span<const u8> initrd;      ///< may be empty
    std::string command_line;
    std::string kernel_name;         ///< Multiboot: the first word of the command line
    std::vector<MapEntry> map;       ///< sorted
    u64 rsdp = 0;                    ///< guest address of the ACPI root pointer, 0 if there is none
    std::span<const u8> random_seed; ///< for the kernel's random number generator; may be empty
};

enum class Format : u8 { Linux, Pvh, Multiboot };
/// What kind of kernel this is. @return InvalidFormat with what was looked for.
Result<Format> detect(std::span<const u8> kernel);

/// Loads a kernel of any known format. @return the boot processor's state at its entry.
Result<x86::CpuState> load(memory::GuestMemory& memory, const Payload& payload);

/// Linux bzImage at its 64-bit entry. Source: Linux Documentation/arch/x86/boot.rst, protocol 2.12 and later.
Result<x86::CpuState> load_linux(memory::GuestMemory& memory, const Payload& payload);
/// ELF with a Xen PHYS32_ENTRY note. Source: Xen public/arch-x86/hvm/start_info.h.
Result<x86::CpuState> load_pvh(memory::GuestMemory& memory, const Payload& payload);
/// ELF32 with a Multiboot header. Source: Multiboot Specification 0.6.96.
Result<x86::CpuState> load_multiboot(memory::GuestMemory& memory, const Payload& payload);

/// Low memory that the loaders use; free for the kernel once it has read them.
namespace layout {
inline constexpr u64 kGdt = 0x500, kStartInfo = 0x6000, kZeroPage = 0x7000, kStackTop = 0x9000;
inline constexpr u64 kMultibootInfo = 0x31000;  // one page, clear of images that load low
inline constexpr u64 kPml4 = 0xa000, kPdpt = 0xb000, kPageDirectories = 0xc000;  // 4 of them, up to 0x10000
inline constexpr u64 kSetupData = 0x11000, kCommandLine = 0x20000, kCommandLineEnd = 0x30000;
}  // namespace layout

/// The end of RAM that starts at 1 MiB or below and goes on without a hole.
u64 low_ram_end(const std::vector<MapEntry>& map);

/// Finds room for `size` bytes as high as possible below `limit`, in RAM above `floor`. 0: there is none.
u64 place_high(const std::vector<MapEntry>& map, u64 size, u64 floor, u64 limit);

/// What firmware would have left in every processor's MTRRs: enabled, write-back. INIT keeps it.
void set_memory_types(x86::CpuState& state);
/// What firmware would have left in the boot processor: virtual wire mode in the local APIC, write-back memory type.
void set_firmware_state(x86::CpuState& state);
/// 32-bit protected mode without paging, as PVH and Multiboot enter.
x86::CpuState protected_mode_state(u64 entry);

Failure initrd_too_large(u64 size, u64 room);

}  // namespace vezha::machine::boot
