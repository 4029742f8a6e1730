// SPDX-License-Identifier: Apache-2.0
#include "bus/bus.h"

#include <gtest/gtest.h>

#include "bus/clock.h"

#include <atomic>
#include <thread>

namespace vezha::bus {
namespace {

class Recorder : public Device {
  public:
    explicit Recorder(u8 id) : id_(id) {}
    u64 read(u32 range, u64 offset, unsigned) override { return (u64{id_} << 16) | (u64{range} << 8) | offset; }
    void write(u32, u64 offset, unsigned size, u64 value) override {
        last = {offset, size, value};
        if (on_write) on_write();
    }
    std::tuple<u64, unsigned, u64> last{};
    std::function<void()> on_write;

  private:
    u8 id_;
};

TEST(Bus, HigherPriorityAnswersWhereRangesOverlap) {
    Bus bus;
    Recorder low(1), high(2);
    auto a = bus.map(Space::Mmio, 0x1000, 0x1000, low, 0, "low").value();
    auto b = bus.map(Space::Mmio, 0x1800, 0x10, high, 3, "high", 1).value();
    EXPECT_EQ(bus.read(Space::Mmio, 0x17f0, 4), 0x1'07f0u);
    EXPECT_EQ(bus.read(Space::Mmio, 0x1804, 4), 0x2'0304u);
    EXPECT_EQ(bus.read(Space::Mmio, 0x1810, 4), 0x1'0810u);
    EXPECT_EQ(bus.read(Space::Mmio, 0x2000, 4), 0xffff'ffffu);
    EXPECT_EQ(bus.read(Space::Pio, 0x1000, 1), 0xffu);
    b.reset();
    EXPECT_EQ(bus.read(Space::Mmio, 0x1804, 4), 0x1'0804u);
}

TEST(Bus, AMappingMovedDuringItsOwnAccessMovesAfterwards) {
    Bus bus;
    Recorder device(1);
    auto mapping = bus.map(Space::Pio, 0x10, 4, device, 0, "device").value();
    device.on_write = [&] {
        mapping->move(0x20);
        EXPECT_EQ(bus.mappings()[0].base, 0x10u);
    };
    bus.write(Space::Pio, 0x12, 2, 0xabcd);
    EXPECT_EQ(device.last, std::make_tuple(2ul, 2u, 0xabcdul));
    EXPECT_EQ(bus.mappings()[0].base, 0x20u);
    mapping->move(std::nullopt);
    EXPECT_TRUE(bus.mappings().empty());
}

TEST(Bus, DoorbellsSwallowMatchingWrites) {
    Bus bus;
    Recorder device(1);
    auto mapping = bus.map(Space::Mmio, 0x1000, 0x1000, device, 0, "device").value();
    auto event = EventFd::create().value();
    auto bell = bus.add_doorbell({Space::Mmio, 0x1004, 2, 7, event.fd()});
    bus.write(Space::Mmio, 0x1004, 2, 8);
    EXPECT_FALSE(event.drain());
    bus.write(Space::Mmio, 0x1004, 4, 7);
    EXPECT_FALSE(event.drain());
    device.last = {};
    bus.write(Space::Mmio, 0x1004, 2, 7);
    EXPECT_TRUE(event.drain());
    EXPECT_EQ(std::get<1>(device.last), 0u);
    bell.reset();
    bus.write(Space::Mmio, 0x1004, 2, 7);
    EXPECT_EQ(std::get<2>(device.last), 7u);
}

TEST(Bus, RefusesRangesThatWrap) {
    Bus bus;
    Recorder device(1);
    EXPECT_FALSE(bus.map(Space::Mmio, ~u64{0} - 10, 100, device, 0, "wraps"));
    EXPECT_FALSE(bus.map(Space::Pio, 0xffff, 2, device, 0, "wraps"));
    EXPECT_FALSE(bus.map(Space::Pio, 0, 0, device, 0, "empty"));
}

TEST(ManualClock, RunsAlarmsAtTheirDeadlines) {
    ManualClock clock;
    std::vector<u64> seen;
    std::unique_ptr<Timer> periodic;
    periodic = clock.new_timer([&] {
        seen.push_back(clock.now_ns());
        periodic->arm(clock.now_ns() + 10);
    });
    periodic->arm(5);
    clock.advance(26);
    EXPECT_EQ(seen, (std::vector<u64>{5, 15, 25}));
    EXPECT_EQ(clock.now_ns(), 26u);
}

TEST(GuestClock, AnAlarmArmedWhileTheLastOneFiresIsNotLost) {
    auto loop = LoopThread::start("clock").value();
    GuestClock clock(loop->loop());
    std::atomic<u64> wanted{0};  // 0: fired
    auto timer = clock.new_timer([&] {
        const u64 deadline = wanted.load();
        if (deadline && clock.now_ns() >= deadline) wanted.store(0);
    });
    const u64 end = clock.now_ns() + kNsPerSec / 2;
    while (clock.now_ns() < end) {
        // As a one-shot timer does: a short deadline, replaced by a later one at about the time it fires.
        timer->arm(clock.now_ns() + 20'000);
        const u64 soon = clock.now_ns() + 15'000;
        while (clock.now_ns() < soon) {
        }
        const u64 deadline = clock.now_ns() + 60'000;
        wanted.store(deadline);
        timer->arm(deadline);
        while (wanted.load()) {
            if (clock.now_ns() > deadline + 10 * kNsPerSec) FAIL() << "lost";
            std::this_thread::yield();
        }
    }
}

}  // namespace
}  // namespace vezha::bus
