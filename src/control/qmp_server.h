// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <list>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "machine/vm_control.h"

namespace vezha::control {

/// Serves QMP on a UNIX stream socket to any number of clients. Lives on the main loop; the socket file goes with it.
class QmpServer {
  public:
    /// @return Busy if somebody listens there, PermissionDenied, ...
    static Result<std::unique_ptr<QmpServer>> create(EventLoop& loop, machine::VmControl& vm, const std::string& path);
    ~QmpServer();

  private:
    class Client;
    QmpServer(EventLoop& loop, machine::VmControl& vm, std::string path, UniqueFd listener);
    void accept_clients();
    void on_event(const machine::VmEvent& event);
    void broadcast(const machine::VmEvent& event);
    void remove(Client* client);

    EventLoop& loop_;
    machine::VmControl& vm_;
    std::string path_;
    UniqueFd listener_;
    std::unique_ptr<EventLoop::Watch> watch_;
    std::list<std::unique_ptr<Client>> clients_;
    std::shared_ptr<void> subscription_;

    // BALLOON_CHANGE comes for every page run: at most one a second is passed on, the last one always.
    std::unique_ptr<EventLoop::Timer> balloon_timer_;
    u64 balloon_sent_at_ = 0;
    u64 balloon_actual_ = 0;
    bool balloon_waits_ = false;
};

}  // namespace vezha::control
