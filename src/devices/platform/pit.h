// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>

#include "bus/clock.h"
#include "bus/irq.h"
#include "devices/stateful_device.h"

namespace vezha::devices::platform {

/// The 8254 interval timer and port 0x61 (gate and output of counter 2). Source: Intel 8254 data sheet.
/// Counter 0 drives an interrupt line; periods that passed unseen (a stopped host) are not made up for.
class Pit final : public StatefulDevice<Pit> {
  public:
    static constexpr u64 kHz = 1'193'182;

    Pit(bus::Bus& bus, bus::Clock& clock, bus::IrqLine& irq0);

    u64 read(u32 range, u64 offset, unsigned size) override;
    void write(u32 range, u64 offset, unsigned size, u64 value) override;
    std::string state_name() const override { return "pit"; }
    void reset() override;
    Result<> loaded();

  private:
    struct Counter {
        u64 start_ns = 0;      // when the count was loaded or the gate restarted it
        u32 count = 0x1'0000;  // reload value, 1 to 0x10000
        u16 latched = 0;
        u8 latch_bytes = 0;    // bytes of `latched` still to be read
        u8 status = 0, status_latched = 0;
        u8 mode = 3, access = 3, bcd = 0;
        u8 write_low = 0, write_high_next = 0, read_high_next = 0;
        u8 gate = 1, null_count = 1;
        u8 running = 0;        // a count was loaded (and in mode 1 and 5 triggered)
    };
    u64 elapsed(const Counter& counter) const;  // ticks since start
    u16 current(const Counter& counter) const;
    bool output(const Counter& counter) const;
    void load_count(unsigned index, u32 value);
    void set_gate(unsigned index, bool level);
    void start(unsigned index);
    void schedule();
    void expired();
    void write_control(u8 value);
    u8 read_counter(Counter& counter);
    void write_counter(unsigned index, u8 value);

    bus::Clock& clock_;
    bus::IrqLine& irq0_;
    std::array<Counter, 3> counters_{};
    u8 port61_ = 0;
    u64 next_ns_ = 0;  // when counter 0 acts next; 0: never
    std::unique_ptr<bus::Timer> timer_;

  public:
    static constexpr auto kState = std::to_array<state::StateField<Pit>>(
        {state::field<Pit, &Pit::counters_>("counters"), state::field<Pit, &Pit::port61_>("port61")});
};

}  // namespace vezha::devices::platform
