// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <string>
#include <vector>

#include "base/types.h"

/// SMBIOS structures (types 0, 1, 3, 4, 16, 17, 19, 32, 127) with both entry points. Source: DMTF DSP0134 3.4.
namespace vezha::machine::smbios {

struct System {
    std::string manufacturer = "Vezha", product = "Q35", version = "1.0", serial, family = "Virtual Machine";
    std::array<u8, 16> uuid{};  ///< as text shows it; all zeroes: not given
    std::string cpu_name = "Virtual CPU";
    u32 sockets = 1, cores_per_socket = 1, threads_per_core = 1;
    u32 cpu_signature = 0;      ///< CPUID leaf 1 EAX
    u32 cpu_features = 0;       ///< CPUID leaf 1 EDX
    u32 cpu_mhz = 2000;
    u64 low_ram = 0;            ///< bytes from address 0 on
    u64 high_ram = 0;           ///< bytes from 4 GiB on
};

struct Tables {
    u64 address = 0;          ///< of `image`
    std::vector<u8> image;    ///< both entry points, then the structures
};

/// @param address 16-byte aligned, within 0xf0000-0xfffff where guests search
Tables build(const System& system, u64 address = 0xf'0000);

/// For firmware: contents of the fw_cfg files etc/smbios/smbios-anchor and etc/smbios/smbios-tables.
struct FirmwareFiles {
    std::vector<u8> anchor, tables;
};
FirmwareFiles build_for_firmware(const System& system);

}  // namespace vezha::machine::smbios
