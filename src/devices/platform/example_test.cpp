// SPDX-License-Identifier: Apache-2.0
// The worked example of docs/adding_a_device.md: keep the two alike.
#include <gtest/gtest.h>

#include "base/check.h"
#include "bus/bus.h"
#include "bus/clock.h"
#include "devices/platform/platform_events.h"
#include "devices/register_device.h"

namespace vezha::devices::platform {
namespace {

/// A watchdog: asks for a reset when software has not written KICK for TIMEOUT milliseconds.
class Watchdog final : public RegisterDevice<Watchdog, u32> {
  public:
    Watchdog(bus::Bus& bus, bus::Clock& clock, PlatformEvents& events, u64 base)
        : clock_(clock), events_(events), timer_(clock.new_timer([this] { expired(); })) {
        reset();
        auto mapping = bus.map(bus::Space::Mmio, base, 0x1000, *this, 0, "watchdog");
        CHECK(mapping.has_value());  // a fixed address always fits
        mapping_ = *std::move(mapping);
    }
    std::string state_name() const override { return "watchdog"; }

    // Hooks of RegisterDevice: after a reset and after a load.
    void reset_further() { deadline_ = 0; }
    Result<> loaded() {
        if (deadline_) timer_->arm(deadline_);
        return {};
    }

  private:
    void kicked(u32) {
        deadline_ = timeout_ms_ ? clock_.now_ns() + timeout_ms_ * u64{1'000'000} : 0;
        if (deadline_) timer_->arm(deadline_);
    }
    void expired() {
        std::lock_guard lock(mutex());
        if (!deadline_ || clock_.now_ns() < deadline_) return;  // kicked meanwhile
        deadline_ = 0;
        events_.reset();
    }

    bus::Clock& clock_;
    PlatformEvents& events_;
    std::unique_ptr<bus::Timer> timer_;
    std::unique_ptr<bus::Bus::Mapping> mapping_;
    u32 timeout_ms_ = 0, kick_ = 0;
    u64 deadline_ = 0;  // in the clock's time; 0: not running

  public:
    static constexpr auto kRegisters = std::to_array<Register<Watchdog, u32>>({
        // offset, name,    storage,                reset, writable,    kind,              after a write
        {0x00, "timeout", &Watchdog::timeout_ms_, 0,     0xffff'ffff, Access::ReadWrite},
        {0x04, "kick",    &Watchdog::kick_,       0,     0,           Access::WriteOnly, &Watchdog::kicked},
    });
    static constexpr auto kState = std::to_array<state::StateField<Watchdog>>(
        {state::field<Watchdog, &Watchdog::deadline_>("deadline")});
};

struct CountingEvents final : PlatformEvents {
    void shutdown() override {}
    void reset() override { ++resets; }
    void panicked(bool) override {}
    void debug_exit(u8) override {}
    int resets = 0;
};

TEST(Watchdog, ResetsWhenItIsForgotten) {
    bus::Bus bus;
    bus::ManualClock clock;
    CountingEvents events;
    Watchdog dog(bus, clock, events, 0xfed0'5000);
    bus.write(bus::Space::Mmio, 0xfed0'5000, 4, 100);  // 100 ms
    bus.write(bus::Space::Mmio, 0xfed0'5004, 4, 1);
    clock.advance(99'000'000);
    EXPECT_EQ(events.resets, 0);
    clock.advance(2'000'000);
    EXPECT_EQ(events.resets, 1);
}

TEST(Watchdog, StateSurvives) {
    bus::Bus bus, other;
    bus::ManualClock clock;
    CountingEvents events, later;
    Watchdog dog(bus, clock, events, 0xfed0'5000), twin(other, clock, later, 0xfed0'5000);
    bus.write(bus::Space::Mmio, 0xfed0'5000, 4, 100);
    bus.write(bus::Space::Mmio, 0xfed0'5004, 4, 1);
    state::Section section;
    dog.save(section);
    ASSERT_TRUE(twin.load(section, state::kStateVersion));
    clock.advance(101'000'000);
    EXPECT_EQ(later.resets, 1);
}

}  // namespace
}  // namespace vezha::devices::platform
