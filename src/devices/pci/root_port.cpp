// SPDX-License-Identifier: Apache-2.0
#include "devices/pci/root_port.h"

namespace vezha::devices::pci {

RootPort::RootPort(bus::Bus& bus, bus::MsiSink& msi, u8 number)
    : Bridge(bus, msi, fmt::format("root-port-{}", number), {0x8086, 0x3420, 0x060400, 2}) {
    set_interrupt_pin(1);
    const u8 at = add_express_capability(PortType::RootPort, /*slot_implemented=*/true);
    // Link: the port's number, link-active reporting; active while something is behind.
    set_config<u32>(at + 12, 0x0000'0011u | 1u << 20 | u32{number} << 24);
    set_config<u16>(at + 18, 0x2011);
    set_config<u32>(at + 20, u32{number} << 19);  // physical slot number; no hot-plug
    set_config<u16>(at + 26, 1 << 6);             // presence detected
    set_writable<u16>(at + 24, 0x1fff);
    set_writable<u16>(at + 28, 0x001f);           // Root Control
    add_msi(1);
    const std::array<u8, 6> subsystem{0, 0, 0x86, 0x80, 0x00, 0x00};
    add_capability(kCapSubsystem, subsystem);
}

}  // namespace vezha::devices::pci
