// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <mutex>

#include "base/event_loop.h"

namespace vezha::bus {

/// An alarm on a Clock. arm and cancel on any thread. The callback takes its device's mutex itself and must check that
/// the alarm still applies: it may already be on its way when cancel() returns.
class Timer {
  public:
    virtual ~Timer() = default;
    virtual void arm(u64 deadline_ns) = 0;
    virtual void cancel() = 0;
};

/// The guest's time in nanoseconds since the VM was created; stands still while the VM is paused.
class Clock {
  public:
    virtual ~Clock() = default;
    virtual u64 now_ns() const = 0;
    /// Never destroy a timer while holding a mutex that its callback takes.
    virtual std::unique_ptr<Timer> new_timer(std::function<void()> callback) = 0;
};

/// Converts a count of ticks at `hz` to nanoseconds and back without overflow.
constexpr u64 ticks_to_ns(u64 ticks, u64 hz) {
    return static_cast<u64>(static_cast<unsigned __int128>(ticks) * kNsPerSec / hz);
}
constexpr u64 ns_to_ticks(u64 ns, u64 hz) {
    return static_cast<u64>(static_cast<unsigned __int128>(ns) * hz / kNsPerSec);
}

/// CLOCK_MONOTONIC less the time paused; alarms run on an event loop.
class GuestClock final : public Clock {
  public:
    explicit GuestClock(EventLoop& loop);
    u64 now_ns() const override;
    std::unique_ptr<Timer> new_timer(std::function<void()> callback) override;
    void pause();   ///< idempotent
    void resume();  ///< idempotent; alarms keep their distance
    /// Sets the time while paused (restore).
    void set_ns(u64 now);

  private:
    class LoopTimer;
    EventLoop& loop_;
    mutable std::mutex mutex_;
    bool paused_ = false;
    u64 offset_ = 0;     // monotonic - guest, while running
    u64 paused_at_ = 0;  // guest time, while paused
    std::list<LoopTimer*> timers_;
};

/// Time that a test moves by hand.
class ManualClock final : public Clock {
  public:
    u64 now_ns() const override { return now_; }
    std::unique_ptr<Timer> new_timer(std::function<void()> callback) override;
    /// Moves on, running every alarm at its own deadline, in order.
    void advance(u64 ns);

  private:
    class ManualTimer;
    u64 now_ = 0;
    std::list<ManualTimer*> timers_;
};

}  // namespace vezha::bus
