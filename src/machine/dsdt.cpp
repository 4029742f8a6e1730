// SPDX-License-Identifier: Apache-2.0
#include "machine/dsdt.h"

#include <fmt/core.h>

#include "devices/pci/lpc.h"

namespace vezha::machine::acpi {

namespace {
using namespace aml;

Bytes hid(std::string_view id) { return name("_HID", eisa_id(id)); }
Bytes uid(u64 number) { return name("_UID", integer(number)); }

/// Every processor is a device; the MADT ties its _UID to an APIC ID.
Bytes processors(const Board& board) {
    std::vector<Bytes> all;
    for (usize i = 0; i < board.apic_ids.size(); ++i)
        all.push_back(device(fmt::format("C{:03X}", i), {name("_HID", aml::string("ACPI0007")), uid(i)}));
    return scope("\\_SB", all);
}

/// PCI Firmware 3.2, 4.5.1: grants all native control that the guest asks for but that of SHPC (bit 1).
Bytes osc() {
    return method("_OSC", 4,
                  {create_dword_field(arg(3), 0, "CDW1"),
                   if_then(equal(arg(0), uuid("33DB4D5B-1FF7-401C-9657-7441C03DD766")),
                           {create_dword_field(arg(3), 8, "CDW3"), bit_and(path("CDW3"), integer(0x1d), path("CDW3")),
                            if_then(logical_not(equal(arg(1), integer(1))),
                                    {bit_or(path("CDW1"), integer(0x08), path("CDW1"))}),
                            ret(arg(3))}),
                   bit_or(path("CDW1"), integer(0x04), path("CDW1")), ret(arg(3))},
                  /*serialized=*/true);
}

/// Pins of the root bus to IOAPIC inputs, as PirqRouter wires them.
Bytes routing() {
    std::vector<Bytes> routes;
    for (u8 slot = 0; slot < 32; ++slot)
        for (u8 pin = 0; pin < 4; ++pin)
            routes.push_back(package({integer(u64{slot} << 16 | 0xffff), integer(pin), integer(0),
                                      integer(kGsiPirqFirst + devices::pci::PirqRouter::pirq(slot, pin))}));
    // A Package holds 255 elements at most; 128 are here.
    return name("_PRT", package(routes));
}

Bytes isa_bridge(const Board& board) {
    std::vector<Bytes> all{name("_ADR", integer(0x1f'0000))};
    all.push_back(device("RTC", {hid("PNP0B00"), name("_CRS", resources({io(0x70, 2), irq(8)}))}));
    if (board.i8042) {
        all.push_back(device("KBD", {hid("PNP0303"), name("_CRS", resources({io(0x60, 1), io(0x64, 1), irq(1)}))}));
        all.push_back(device("MOU", {hid("PNP0F13"), name("_CRS", resources({irq(12)}))}));
    }
    for (usize i = 0; i < board.serial_ports.size(); ++i) {
        const SerialPort& serial = board.serial_ports[i];
        all.push_back(device(fmt::format("COM{}", i + 1),
                             {hid("PNP0501"), uid(i + 1), name("_CRS", resources({io(serial.port, 8, 8), irq(serial.irq)}))}));
    }
    if (board.pvpanic)
        all.push_back(device("PEVT", {name("_HID", aml::string("QEMU0001")), name("_STA", integer(0xf)),
                                      name("_CRS", resources({io(kPvpanicBase, 1)}))}));
    if (board.fw_cfg)
        all.push_back(device("FWCF", {name("_HID", aml::string("QEMU0002")), name("_STA", integer(0xb)),
                                      name("_CRS", resources({io(kFwCfgBase, 12)}))}));
    // Ports of the chipset that no driver claims.
    all.push_back(device("SYSR", {hid("PNP0C02"), uid(1),
                                  name("_CRS", resources({io(0x61, 1), io(0x80, 1), io(0x92, 1), io(0xb2, 2), io(0x20, 2),
                                                          io(0xa0, 2), io(0x4d0, 2), io(kPmBase, 128)}))}));
    return device("ISA", all);
}

Bytes pci_root(const Board& board) {
    std::vector<Bytes> windows{bus_numbers(0, 255), io(0xcf8, 8), io_window(0, 0xcf7), io_window(0xd00, 0xffff),
                               memory_window32(0x000a'0000, 0x000b'ffff),
                               memory_window32(static_cast<u32>(kPciWindow32Base), static_cast<u32>(kPciWindow32End - 1))};
    if (board.pci64_base)
        windows.push_back(memory_window64(board.pci64_base, board.pci64_base + board.pci64_size - 1, true));
    return device("PCI0", {hid("PNP0A08"), name("_CID", eisa_id("PNP0A03")), name("_SEG", integer(0)), name("_BBN", integer(0)),
                           uid(0), name("_CRS", resources(windows)), osc(), routing(), isa_bridge(board)});
}
}  // namespace

aml::Bytes dsdt_body(const Board& board) {
    std::vector<Bytes> bus{pci_root(board)};
    // The configuration window must be reserved here, or guests refuse to use it.
    bus.push_back(device("MBRD", {hid("PNP0C02"), uid(0),
                                  name("_CRS", resources({memory32(static_cast<u32>(kEcamBase), static_cast<u32>(kEcamSize)),
                                                          memory32(static_cast<u32>(kRcbaBase), 0x4000)}))}));
    if (board.hpet)
        bus.push_back(device("HPET", {hid("PNP0103"), uid(0),
                                      name("_CRS", resources({memory32(static_cast<u32>(kHpetBase), 0x400, false)}))}));
    // SLP_TYP of soft-off, as the PM block knows it.
    return join({scope("\\_SB", bus), processors(board),
                 name("\\_S5", package({integer(7), integer(7), integer(0), integer(0)}))});
}

}  // namespace vezha::machine::acpi
