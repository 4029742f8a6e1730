// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/event_loop.h"
#include "base/result.h"

namespace vezha::chardev {

/// The host's end of a serial line or console port: terminal, file, UNIX socket, pseudo-terminal. All on one loop, but
/// write() on any thread.
class Chardev {
  public:
    virtual ~Chardev() = default;
    struct Events {
        /// Bytes from outside. @return how many were taken; the rest is offered again after resume_input().
        std::function<usize(std::span<const u8>)> on_input;
        std::function<void(bool connected)> on_connection;
    };
    virtual void attach(Events events) = 0;
    /// Never blocks the caller: what the host does not take at once is queued up to a bound, then the oldest is kept and
    /// the newest dropped (a guest's console must not stop the guest).
    virtual void write(std::span<const u8> bytes) = 0;
    /// The device has room again. Any thread.
    virtual void resume_input() = 0;
    virtual std::string describe() const = 0;  ///< "stdio", "pty:/dev/pts/3", "unix:/path"
};

}  // namespace vezha::chardev
