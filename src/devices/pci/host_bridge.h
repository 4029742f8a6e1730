// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "devices/pci/pci_bus.h"

namespace vezha::devices::pci {

/// The host bridge of Q35 (8086:29c0) with both ways into configuration space: ports 0xcf8/0xcfc and the memory-mapped
/// window (ECAM) that PCIEXBAR places. Sources: Intel 3 Series Express Chipset (82Q35), chapter 5; PCI Firmware 3.2.
/// Sits at 00:00.0 of the root bus that it is given.
class HostBridge final : public Function {
  public:
    struct Options {
        /// Where ECAM is from the start; nullopt: off until firmware switches it on.
        std::optional<u64> ecam_base = 0xb000'0000;
    };
    HostBridge(bus::Bus& bus, bus::MsiSink& msi, PciBus& root, Options options);

  protected:
    void config_written(u16 offset, unsigned size) override;
    void reset_device() override { place_ecam(); }

  public:
    Result<> load(const state::Section& in, u32 saved_version) override;

  private:
    /// Answers 0xcf8, 0xcfc and ECAM. A device of its own: it is locked while it locks the functions, this one too.
    class ConfigAccess final : public bus::Device {
      public:
        enum Range : u32 { kAddress, kData, kEcam };
        explicit ConfigAccess(PciBus& root) : root_(root) {}
        u64 read(u32 range, u64 offset, unsigned size) override;
        void write(u32 range, u64 offset, unsigned size, u64 value) override;
        u32 address = 0;

      private:
        u64 access(u8 bus, Slot slot, u16 offset, unsigned size, const u64* value);
        PciBus& root_;
    };
    void place_ecam();

    ConfigAccess access_;
    std::unique_ptr<bus::Bus::Mapping> address_ports_, data_ports_, ecam_[3];

  public:
    void save(state::Section& out) const override;
};

}  // namespace vezha::devices::pci
