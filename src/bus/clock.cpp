// SPDX-License-Identifier: Apache-2.0
#include "bus/clock.h"

#include <optional>

#include "base/time.h"

namespace vezha::bus {

class GuestClock::LoopTimer final : public Timer {
  public:
    LoopTimer(GuestClock& clock, std::function<void()> callback)
        : clock_(clock), timer_(clock.loop_.new_timer([this, callback = std::move(callback)] {
              {
                  std::lock_guard lock(clock_.mutex_);
                  if (!deadline_ || clock_.paused_) return;
                  // Armed anew while this call was on its way: the loop's alarm for that is still to come, and
                  // forgetting the deadline here would lose it.
                  if (monotonic_ns() < host_deadline(*deadline_)) return;
                  deadline_.reset();
              }
              callback();
          })) {
        std::lock_guard lock(clock_.mutex_);
        clock_.timers_.push_back(this);
    }
    ~LoopTimer() override {
        timer_.reset();
        std::lock_guard lock(clock_.mutex_);
        clock_.timers_.remove(this);
    }
    void arm(u64 deadline_ns) override {
        std::lock_guard lock(clock_.mutex_);
        deadline_ = deadline_ns;
        if (!clock_.paused_) timer_->arm(host_deadline(deadline_ns));
    }
    void cancel() override {
        std::lock_guard lock(clock_.mutex_);
        deadline_.reset();
        timer_->cancel();
    }
    void paused_locked() { timer_->cancel(); }
    void resumed_locked() {
        if (deadline_) timer_->arm(host_deadline(*deadline_));
    }

  private:
    u64 host_deadline(u64 guest) const {
        const u64 host = guest + clock_.offset_;
        return host < guest ? ~u64{0} >> 1 : host;
    }
    GuestClock& clock_;
    std::optional<u64> deadline_;  // guarded by clock_.mutex_
    std::unique_ptr<EventLoop::Timer> timer_;
};

GuestClock::GuestClock(EventLoop& loop) : loop_(loop), offset_(monotonic_ns()) {}

u64 GuestClock::now_ns() const {
    std::lock_guard lock(mutex_);
    return paused_ ? paused_at_ : monotonic_ns() - offset_;
}

std::unique_ptr<Timer> GuestClock::new_timer(std::function<void()> callback) {
    return std::make_unique<LoopTimer>(*this, std::move(callback));
}

void GuestClock::pause() {
    std::lock_guard lock(mutex_);
    if (paused_) return;
    paused_at_ = monotonic_ns() - offset_;
    paused_ = true;
    for (LoopTimer* timer : timers_) timer->paused_locked();
}

void GuestClock::resume() {
    std::lock_guard lock(mutex_);
    if (!paused_) return;
    offset_ = monotonic_ns() - paused_at_;
    paused_ = false;
    for (LoopTimer* timer : timers_) timer->resumed_locked();
}

void GuestClock::set_ns(u64 now) {
    std::lock_guard lock(mutex_);
    if (paused_) paused_at_ = now;
    else offset_ = monotonic_ns() - now;
}

class ManualClock::ManualTimer final : public Timer {
  public:
    ManualTimer(ManualClock& clock, std::function<void()> callback) : callback_(std::move(callback)), clock_(clock) {
        clock_.timers_.push_back(this);
    }
    ~ManualTimer() override { clock_.timers_.remove(this); }
    void arm(u64 deadline_ns) override { deadline_ = deadline_ns; }
    void cancel() override { deadline_.reset(); }

    std::optional<u64> deadline_;
    std::function<void()> callback_;

  private:
    ManualClock& clock_;
};

std::unique_ptr<Timer> ManualClock::new_timer(std::function<void()> callback) {
    return std::make_unique<ManualTimer>(*this, std::move(callback));
}

void ManualClock::advance(u64 ns) {
    const u64 end = now_ + ns;
    for (;;) {
        ManualTimer* first = nullptr;
        for (ManualTimer* timer : timers_)
            if (timer->deadline_ && *timer->deadline_ <= end && (!first || *timer->deadline_ < *first->deadline_))
                first = timer;
        if (!first) break;
        now_ = std::max(now_, *first->deadline_);
        first->deadline_.reset();
        first->callback_();
    }
    now_ = end;
}

}  // namespace vezha::bus
