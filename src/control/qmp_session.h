// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "control/json_stream.h"
#include "machine/vm_control.h"

namespace vezha::control {

/// The QMP conversation with one client, apart from its socket. Source: QEMU Machine Protocol Specification (greeting,
/// capabilities negotiation, commands with `id`, errors with `class` and `desc`). Main loop.
class QmpSession {
  public:
    /// @param send writes one line to the client
    QmpSession(machine::VmControl& vm, std::function<void(std::string)> send);
    void greet();
    /// Bytes from the client, in any portions.
    void receive(std::string_view bytes);
    /// Sends an event, if the client has finished its negotiation.
    void event(const std::string& line);

  private:
    void handle(const std::string& text);
    machine::VmControl& vm_;
    std::function<void(std::string)> send_;
    JsonStream stream_;
    bool negotiated_ = false;
};

/// The line that tells of `event` now, without its end.
std::string event_line(const machine::VmEvent& event);

}  // namespace vezha::control
