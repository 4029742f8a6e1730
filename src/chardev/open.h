// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "chardev/chardev.h"

namespace vezha::chardev {

struct OpenOptions {
    /// stdio: the user typed Ctrl-A x. Runs on the loop.
    std::function<void()> on_quit;
    /// stdio: told once to a user at a terminal before the first output, for example how to leave. Empty: nothing.
    std::string greeting;
};

/// Opens a character device on `loop`, on the loop's thread or before it runs:
///   stdio                        this process's terminal, pipes or files; Ctrl-A x quits, Ctrl-A h helps (terminals only)
///   file:PATH[,append=on]        output alone
///   unix:PATH[,server=on|off]    a UNIX stream socket; server (default): listens, one client at a time;
///                                otherwise connects and connects again when the other side goes away
///   pty                          a new pseudo-terminal; describe() names it
///   null                         takes all, gives nothing
/// Errors: InvalidArgument with the list of what there is; what the host says, with a hint.
Result<std::unique_ptr<Chardev>> open(std::string_view spec, EventLoop& loop, OpenOptions options = {});

}  // namespace vezha::chardev
