// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <functional>

#include "bus/clock.h"
#include "bus/irq.h"
#include "devices/stateful_device.h"

namespace vezha::devices::platform {

/// MC146818 real-time clock with 128 bytes of CMOS memory, ports 0x70 and 0x71. Source: Motorola MC146818A data sheet.
/// The time is the wall clock plus an offset that the guest sets; it goes on while the VM is paused.
class Rtc final : public StatefulDevice<Rtc> {
  public:
    /// @param wall_clock_ns nanoseconds since the epoch; realtime_ns but for tests
    Rtc(bus::Bus& bus, bus::Clock& clock, bus::IrqLine& irq8, std::function<u64()> wall_clock_ns);

    /// The sizes that firmware reads from CMOS memory. @param low bytes of RAM below 4 GiB, from 0 on
    /// @param high bytes of RAM above 4 GiB
    void set_memory_sizes(u64 low, u64 high);
    /// One byte of CMOS memory (0x0e to 0x7f but the century), kept over reset.
    void set_cmos(u8 index, u8 value) { cmos_[index & 0x7f] = value; }
    u8 cmos(u8 index) const { return cmos_[index & 0x7f]; }
    /// Seconds that the guest's clock is ahead of the host's (rtc-change event, query).
    i64 offset_seconds() const { return offset_ns_ / static_cast<i64>(kNsPerSec); }

    u64 read(u32 range, u64 offset, unsigned size) override;
    void write(u32 range, u64 offset, unsigned size, u64 value) override;
    std::string state_name() const override { return "rtc"; }
    void reset() override;
    Result<> loaded();

  private:
    static constexpr u8 kSeconds = 0, kMinutes = 2, kHours = 4, kWeekday = 6, kDay = 7, kMonth = 8, kYear = 9, kA = 10,
                        kB = 11, kC = 12, kD = 13, kCentury = 0x32;
    u64 now_ns() const;  // the guest's wall clock
    bool stopped() const;
    void show_time();    // now -> registers
    void take_time();    // registers -> offset
    u8 encode(unsigned value) const;
    unsigned decode(u8 value) const;
    u8 encode_hours(unsigned hours) const;
    unsigned decode_hours(u8 value) const;
    bool alarm_matches(u64 second) const;
    u8 read_register(u8 index);
    void write_register(u8 index, u8 value);
    void raise(u8 flag);
    void schedule_update();
    void schedule_periodic();

    bus::Clock& clock_;
    bus::IrqLine& irq_;
    std::function<u64()> wall_clock_ns_;
    u8 index_ = 0;
    i64 offset_ns_ = 0;
    u64 seen_second_ = 0;         // the last second whose update and alarm were considered
    u64 periodic_at_ = 0, update_at_ = 0;  // in clock_ time; 0: not armed
    std::array<u8, 128> cmos_{};
    std::unique_ptr<bus::Timer> update_timer_, periodic_timer_;

  public:
    static constexpr auto kState = std::to_array<state::StateField<Rtc>>(
        {state::field<Rtc, &Rtc::index_>("index"), state::field<Rtc, &Rtc::offset_ns_>("offset_ns"),
         state::field<Rtc, &Rtc::cmos_>("cmos")});
};

}  // namespace vezha::devices::platform
