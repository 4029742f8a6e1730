// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "devices/pci/function.h"

namespace vezha::devices::pci {

/// SMBus controller of ICH9 (8086:2930) at 00:1f.3 with an empty bus: every transfer ends with "device error", as when
/// nobody acknowledges. Source: ICH9, chapter 20.
class Smbus final : public Function {
  public:
    /// @param io_base ports of the host controller from the start; 0: firmware places them
    Smbus(bus::Bus& bus, bus::MsiSink& msi, u16 io_base = 0x700);

    void save(state::Section& out) const override;
    Result<> load(const state::Section& in, u32 saved_version) override;

  protected:
    u64 bar_read(unsigned bar, u64 offset, unsigned size) override;
    void bar_write(unsigned bar, u64 offset, unsigned size, u64 value) override;
    void reset_device() override {
        registers_ = {};
        set_intx(false);
    }

  private:
    void write_byte(unsigned offset, u8 value);
    std::array<u8, 32> registers_{};
};

}  // namespace vezha::devices::pci
