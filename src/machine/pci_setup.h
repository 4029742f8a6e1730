// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "devices/pci/pci_bus.h"

namespace vezha::machine {

/// Where the BARs of functions may go.
struct PciWindows {
    u64 base32 = 0, end32 = 0;
    u64 base64 = 0, end64 = 0;
    u64 io_base = 0xc000, io_end = 0x1'0000;
};

/// Gives the root bus's functions their addresses, as firmware does before an operating system starts: BARs and interrupt
/// lines, decoding left off. After every reset; vCPUs parked. @return NoSpace
Result<> assign_pci_resources(devices::pci::PciBus& root, const PciWindows& windows);

}  // namespace vezha::machine
