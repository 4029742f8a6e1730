// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "base/result.h"

namespace vezha::chardev {

/// Puts a terminal into raw mode and puts it back: on destruction, at exit(), and when a signal ends the process
/// (signals whose disposition is the default at the time; a handler installed later should end in that default).
/// After SIGCONT raw mode is set again. At most one at a time in a process.
class RawTerminal {
  public:
    static Result<std::unique_ptr<RawTerminal>> create(int fd);
    ~RawTerminal();
    RawTerminal(const RawTerminal&) = delete;
    RawTerminal& operator=(const RawTerminal&) = delete;
    /// Async-signal-safe: gives the terminal back now, for handlers of fatal signals. Does nothing if there is none.
    static void restore_now();

  private:
    RawTerminal() = default;
};

}  // namespace vezha::chardev
