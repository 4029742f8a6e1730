// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>

#include "devices/pci/pci_bus.h"

namespace vezha::devices::pci {

/// Routes INTx of the root bus to PIRQ A to H and on: to the IOAPIC inputs 16 to 23, and to the PIC input that software
/// chose in PIRQx_ROUT. An innermost lock; any thread. Source: ICH9, 5.8.6 and 13.1.
class PirqRouter final : public IntxRouter {
  public:
    using Line = std::function<void(unsigned number, bool asserted)>;
    /// @param gsi drives an IOAPIC input (16 to 23). @param pic drives an ISA interrupt, wired-or with others
    PirqRouter(Line gsi, Line pic) : gsi_(std::move(gsi)), pic_(std::move(pic)) {}

    /// The fixed wiring of the root bus, which the ACPI _PRT describes: PIRQ (0 to 7) of a slot's pin.
    static constexpr unsigned pirq(u8 device, u8 pin) {
        // Devices 0 to 23 rotate over PIRQ E to H; the chipset's own (24 to 31) use A to D without rotation.
        return device < 24 ? 4 + (device + pin) % 4u : pin % 4u;
    }

    void set_intx(u8 device, u8 pin, bool asserted) override;
    /// PIRQx_ROUT was written. @param irq the PIC input, or 0: none
    void set_route(unsigned pirq, u8 irq);

  private:
    void drive_pic_locked();

    Line gsi_, pic_;
    std::mutex mutex_;
    std::array<int, 8> asserted_{};  // functions that assert each PIRQ
    std::array<u8, 8> route_{};
    u16 driven_ = 0;                 // PIC inputs that we assert
};

/// LPC bridge of ICH9 (8086:2918) at 00:1f.0: where the ACPI block lies, PIRQ routing, RCBA. Source: ICH9, 13.1.
class Lpc final : public Function {
  public:
    struct Options {
        std::optional<u16> pm_base = 0x600;  ///< ACPI block on from the start; nullopt: firmware places it
    };
    /// @param move_pm follows PMBASE: nullopt hides the block. May be called within an access
    Lpc(bus::Bus& bus, bus::MsiSink& msi, PirqRouter& router, std::function<void(std::optional<u16>)> move_pm, Options options);

    Result<> load(const state::Section& in, u32 saved_version) override;

  protected:
    void config_written(u16 offset, unsigned size) override;
    void reset_device() override { apply(); }

  private:
    void apply();
    /// The chipset configuration registers: storage without effect.
    class Rcrb final : public bus::Device {
      public:
        u64 read(u32, u64, unsigned) override { return 0; }
        void write(u32, u64, unsigned, u64) override {}
    };
    PirqRouter& router_;
    std::function<void(std::optional<u16>)> move_pm_;
    Rcrb rcrb_;
    std::unique_ptr<bus::Bus::Mapping> rcrb_mapping_;
};

}  // namespace vezha::devices::pci
