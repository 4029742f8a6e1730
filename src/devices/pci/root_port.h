// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "devices/pci/bridge.h"

namespace vezha::devices::pci {

/// PCI Express root port (8086:3420). Its slot is permanently occupied by what secondary() holds at start.
/// Source: PCI Express Base 5.0, 7.5.3.
class RootPort final : public Bridge {
  public:
    /// @param number of the port and its slot, unique
    RootPort(bus::Bus& bus, bus::MsiSink& msi, u8 number);
};

}  // namespace vezha::devices::pci
