// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>

#include "bus/clock.h"
#include "bus/irq.h"
#include "devices/platform/irq_lines.h"
#include "devices/stateful_device.h"

namespace vezha::devices::platform {

/// High Precision Event Timers: a 64-bit counter at 100 MHz and three timers, periodic and with message interrupts.
/// Source: IA-PC HPET 1.0a, chapter 2. In legacy mode it replaces the PIT and the RTC on IRQ 0 and 8: wire those through
/// pit_line() and rtc_line().
class Hpet final : public StatefulDevice<Hpet> {
  public:
    static constexpr u64 kHz = 100'000'000;
    static constexpr u32 kPeriodFs = 10'000'000;
    static constexpr unsigned kTimers = 3;

    Hpet(bus::Bus& bus, bus::Clock& clock, bus::MsiSink& msi, bus::IrqLine& irq0, bus::IrqLine& irq8,
         u64 base = 0xfed0'0000);

    bus::IrqLine& pit_line() { return pit_line_; }
    bus::IrqLine& rtc_line() { return rtc_line_; }

    u64 read(u32 range, u64 offset, unsigned size) override;
    void write(u32 range, u64 offset, unsigned size, u64 value) override;
    std::string state_name() const override { return "hpet"; }
    void reset() override;
    Result<> loaded();

  private:
    struct TimerState {
        u64 config = 0, comparator = 0, period = 0, fsb = 0;
        u64 value_set = 0;    // the next comparator write sets the comparator itself (Tn_VAL_SET_CNF)
        u64 next_ns = 0;      // when the alarm applies; 0: not armed
    };
    u64 counter() const;
    bool wide(const TimerState& t) const { return !(t.config & 0x100); }
    u64 read_register(u64 offset) const;
    void write_register(u64 offset, u64 value, u64 touched);
    void write_timer(unsigned n, u64 offset, u64 value, u64 touched);
    void schedule(unsigned n);
    void expired(unsigned n);
    void fire(unsigned n);
    void release(unsigned n);
    bus::IrqLine* line_of(unsigned n);

    bus::Clock& clock_;
    bus::MsiSink& msi_;
    WiredOr irq0_, irq8_;
    WiredOr::Input pit_input_, rtc_input_, timer0_input_, timer1_input_, plain_input_;
    SwitchedLine pit_line_, rtc_line_;
    u64 config_ = 0, status_ = 0;
    u64 counter_at_start_ = 0;  // value when it was last started or written
    u64 start_ns_ = 0;
    std::array<TimerState, kTimers> timers_{};
    std::array<std::unique_ptr<bus::Timer>, kTimers> alarms_;

  public:
    static constexpr auto kState = std::to_array<state::StateField<Hpet>>(
        {state::field<Hpet, &Hpet::config_>("config"), state::field<Hpet, &Hpet::status_>("status"),
         state::field<Hpet, &Hpet::counter_at_start_>("counter"), state::field<Hpet, &Hpet::start_ns_>("start_ns"),
         state::field<Hpet, &Hpet::timers_>("timers")});
};

}  // namespace vezha::devices::platform
