// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "machine/memory_map.h"

/// ACPI tables of our board: RSDP, XSDT and RSDT, FADT, FACS, MADT, HPET, MCFG, WAET, SPCR, DSDT. Source: ACPI 6.4.
namespace vezha::machine::acpi {

struct SerialPort {
    u16 port = 0x3f8;
    u8 irq = 4;
};

/// What the tables describe. The defaults are the whole board of memory_map.h with one processor.
struct Board {
    std::vector<u32> apic_ids{0};  ///< one per vCPU
    u64 pci64_base = 0;            ///< 64-bit PCI window; 0: none. See pci_window64_base()
    u64 pci64_size = kPciWindow64Size;
    std::vector<SerialPort> serial_ports{{}};
    bool hpet = true;
    bool i8042 = true;
    bool pvpanic = true;
    bool fw_cfg = true;
    bool vga = false;
};

/// The tables as they stand in guest memory.
struct Tables {
    u64 rsdp_address = 0;        ///< for boot_params.acpi_rsdp_addr; in the area that guests search, too
    std::vector<u8> rsdp;        ///< to be placed at rsdp_address
    u64 tables_address = 0;
    std::vector<u8> tables;      ///< to be placed at tables_address (RAM: the guest writes to the FACS)
    struct Part {
        std::string signature;
        u32 offset, size;
    };
    std::vector<Part> parts;     ///< what lies where in `tables`, for people and tests
};

/// @param address where the RSDP goes, 16-byte aligned and within 0xe0000-0xfffff unless the boot protocol hands it
/// over; the tables follow it. 255 processors need 24 KiB.
Tables build(const Board& board, u64 address = 0xe'0000);

/// The same for firmware that places tables itself: contents of the fw_cfg files etc/acpi/rsdp, etc/acpi/tables and
/// etc/table-loader.
struct FirmwareFiles {
    std::vector<u8> rsdp, tables, loader;
};
FirmwareFiles build_for_firmware(const Board& board);

}  // namespace vezha::machine::acpi
