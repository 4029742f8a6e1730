// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "base/event_loop.h"
#include "machine/vm_control.h"

namespace vezha::vmm {

/// SIGTERM and SIGINT press the machine's power button; a second one, or a minute without an answer, ends it. SIGHUP (the
/// terminal is gone) ends it at once.
/// They are blocked in every thread and read on the main loop.
class Signals {
  public:
    /// Blocks the signals. Before any thread starts.
    static Result<std::unique_ptr<Signals>> create(EventLoop& loop);
    void control(machine::VmControl& vm) { vm_ = &vm; }
    ~Signals();

  private:
    static constexpr u64 kPatienceNs = 60 * kNsPerSec;
    Signals(EventLoop& loop, UniqueFd fd) : loop_(loop), fd_(std::move(fd)) {}
    void arrived();

    EventLoop& loop_;
    UniqueFd fd_;
    std::unique_ptr<EventLoop::Watch> watch_;
    std::unique_ptr<EventLoop::Timer> patience_;
    machine::VmControl* vm_ = nullptr;
    bool asked_ = false;
};

}  // namespace vezha::vmm
