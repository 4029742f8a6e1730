// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <functional>
#include <initializer_list>
#include <mutex>
#include <vector>

#include "bus/irq.h"

namespace vezha::devices::platform {

/// One output wired to several inputs: an ISA interrupt goes to the PIC and to the IOAPIC.
class FanOut final : public bus::IrqLine {
  public:
    FanOut(std::initializer_list<bus::IrqLine*> to) : to_(to) {}
    void set(bool asserted) override {
        for (bus::IrqLine* line : to_) line->set(asserted);
    }

  private:
    std::vector<bus::IrqLine*> to_;
};

/// Several outputs on one input, which is asserted while any of them is.
class WiredOr {
  public:
    explicit WiredOr(bus::IrqLine& to) : to_(to) {}
    class Input final : public bus::IrqLine {
      public:
        explicit Input(WiredOr& owner) : owner_(owner) {}
        void set(bool asserted) override { owner_.change(level_, asserted); }

      private:
        WiredOr& owner_;
        bool level_ = false;  // guarded by owner_.mutex_
    };
    Input input() { return Input(*this); }

  private:
    void change(bool& level, bool asserted) {
        std::lock_guard lock(mutex_);
        if (level == asserted) return;
        level = asserted;
        count_ += asserted ? 1 : -1;
        to_.set(count_ > 0);
    }
    bus::IrqLine& to_;
    std::mutex mutex_;
    int count_ = 0;
};

/// A line that a switch can cut: the PIT's and the RTC's while the HPET has taken over their interrupts.
class SwitchedLine final : public bus::IrqLine {
  public:
    explicit SwitchedLine(bus::IrqLine& to) : to_(to) {}
    void set(bool asserted) override {
        std::lock_guard lock(mutex_);
        level_ = asserted;
        if (connected_) to_.set(asserted);
    }
    void connect(bool connected) {
        std::lock_guard lock(mutex_);
        if (connected_ == connected) return;
        connected_ = connected;
        to_.set(connected && level_);
    }

  private:
    bus::IrqLine& to_;
    std::mutex mutex_;
    bool connected_ = true, level_ = false;
};

}  // namespace vezha::devices::platform
