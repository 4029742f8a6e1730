// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/types.h"

/// Who lives where in guest-physical memory and on which interrupt lines. Firmware, ACPI tables and devices agree here.
namespace vezha::machine {

inline constexpr u64 kLowRamEnd = 0x8000'0000;  ///< RAM is below it, and from 4 GiB on
inline constexpr u64 kEcamBase = 0xb000'0000, kEcamSize = 256 * kMiB;
inline constexpr u64 kPciWindow32Base = 0xc000'0000, kPciWindow32End = 0xfec0'0000;
inline constexpr u64 kIoApicBase = 0xfec0'0000;
inline constexpr u64 kHpetBase = 0xfed0'0000;
inline constexpr u64 kTpmBase = 0xfed4'0000;
inline constexpr u64 kRcbaBase = 0xfed1'c000;
inline constexpr u64 kLapicBase = 0xfee0'0000;
inline constexpr u64 kHighRamBase = 0x1'0000'0000;

/// The 64-bit PCI window follows RAM, aligned to its own size.
inline constexpr u64 kPciWindow64Size = 32 * kGiB;
/// @param high_ram_end end of the RAM above 4 GiB (kHighRamBase if there is none)
constexpr u64 pci_window64_base(u64 high_ram_end) { return align_up(high_ram_end, kPciWindow64Size); }

// I/O ports.
inline constexpr u16 kPmBase = 0x600;      ///< ACPI PM block, 128 ports
inline constexpr u16 kSmbusBase = 0x700;   ///< 64 ports
inline constexpr u16 kFwCfgBase = 0x510;
inline constexpr u16 kPvpanicBase = 0x505;

// Global system interrupts.
inline constexpr u32 kGsiSci = 9;
inline constexpr u32 kGsiPirqFirst = 16;  ///< PIRQA; 16 to 23

/// ACPI PM registers, offsets from kPmBase (ICH9, 13.8.3).
inline constexpr u16 kPm1Event = 0x00, kPm1Control = 0x04, kPmTimer = 0x08, kGpe0 = 0x20, kGpe0Size = 16;
inline constexpr u8 kAcpiEnable = 0x02, kAcpiDisable = 0x03;  ///< values for port 0xb2

}  // namespace vezha::machine
