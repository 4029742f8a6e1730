// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "devices/pci/pci_bus.h"

namespace vezha::devices::pci {

/// A PCI-to-PCI bridge (header type 1) with the bus behind it: bus numbers and the windows. Source: PCI-to-PCI Bridge
/// Architecture 1.2, chapter 3. The windows are registers only: addresses of functions behind a bridge are decoded by
/// the Bus whether or not a window covers them.
class Bridge : public Function {
  public:
    Bridge(bus::Bus& bus, bus::MsiSink& msi, std::string name, const Identity& identity);

    /// The bus behind; valid once the bridge sits in its slot.
    PciBus& secondary() { return *secondary_; }
    u8 secondary_number() const { return config<u8>(kSecondaryBus); }
    /// True if configuration accesses to bus `number` go through this bridge.
    bool forwards(u8 number) const {
        return number >= config<u8>(kSecondaryBus) && number <= config<u8>(kSubordinateBus) && config<u8>(kSecondaryBus) > 0;
    }

  protected:
    void config_written(u16 offset, unsigned size) override;

  private:
    friend class PciBus;
    void make_secondary(PciBus& parent, u8 device);
    std::unique_ptr<PciBus> secondary_;
};

}  // namespace vezha::devices::pci
