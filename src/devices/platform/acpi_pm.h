// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "bus/clock.h"
#include "bus/irq.h"
#include "devices/platform/platform_events.h"
#include "devices/stateful_device.h"

namespace vezha::devices::platform {

/// ACPI power management of ICH9: PM1 event and control blocks, PM timer, general-purpose events, and the APM ports that
/// switch ACPI on. Sources: ACPI 6.4, chapter 4.8; ICH9, 13.8.3.
class AcpiPm final : public StatefulDevice<AcpiPm> {
  public:
    static constexpr u64 kTimerHz = 3'579'545;
    static constexpr u8 kAcpiEnable = 2, kAcpiDisable = 3;  ///< written to port 0xb2
    static constexpr u8 kSleepSoftOff = 7, kSleepToRam = 5; ///< SLP_TYP values (ICH9); 0 is taken as soft-off too

    /// @param acpi_on SCI_EN is set from the start: for guests booted without firmware
    AcpiPm(bus::Bus& bus, bus::Clock& clock, bus::IrqLine& sci, PlatformEvents& events, std::optional<u16> base,
           bool acpi_on);

    /// Follows PMBASE of the LPC bridge; nullopt hides the block. Any thread.
    void move(std::optional<u16> base) { block_->move(base ? std::optional<u64>(*base) : std::nullopt); }
    /// The power button, pressed and released. Any thread.
    void press_power_button();
    void press_sleep_button();
    /// Raises general-purpose event `bit` (0 to 63): hot-plug, ... Any thread.
    void raise_gpe(unsigned bit);

    u64 read(u32 range, u64 offset, unsigned size) override;
    void write(u32 range, u64 offset, unsigned size, u64 value) override;
    std::string state_name() const override { return "acpi-pm"; }
    void reset() override;
    Result<> loaded();

  private:
    u8 read_byte(unsigned offset);
    void write_byte(unsigned offset, u8 value);
    u32 timer() const { return static_cast<u32>(bus::ns_to_ticks(clock_.now_ns(), kTimerHz)); }
    void note_timer_carry();
    void update_sci();
    void control_written();

    bus::Clock& clock_;
    bus::IrqLine& sci_;
    PlatformEvents& events_;
    const bool acpi_on_;
    bus::Bus::Mapping* block_;
    std::unique_ptr<bus::Timer> carry_timer_;
    u64 carries_seen_ = 0;  // times that bit 31 of the timer had changed
    u16 status_ = 0, enable_ = 0, control_ = 0;
    u64 gpe_status_ = 0, gpe_enable_ = 0;
    u32 smi_enable_ = 0;
    u8 apm_control_ = 0, apm_status_ = 0;

  public:
    static constexpr auto kState = std::to_array<state::StateField<AcpiPm>>(
        {state::field<AcpiPm, &AcpiPm::status_>("pm1_status"), state::field<AcpiPm, &AcpiPm::enable_>("pm1_enable"),
         state::field<AcpiPm, &AcpiPm::control_>("pm1_control"), state::field<AcpiPm, &AcpiPm::gpe_status_>("gpe0_status"),
         state::field<AcpiPm, &AcpiPm::gpe_enable_>("gpe0_enable"), state::field<AcpiPm, &AcpiPm::smi_enable_>("smi_enable"),
         state::field<AcpiPm, &AcpiPm::apm_control_>("apm_control"), state::field<AcpiPm, &AcpiPm::apm_status_>("apm_status"),
         state::field<AcpiPm, &AcpiPm::carries_seen_>("carries_seen")});
};

}  // namespace vezha::devices::platform
