// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "chardev/stream.h"

namespace vezha::chardev {

/// A UNIX stream socket: a server for one client at a time (others wait in the backlog), or a client that connects again
/// each second while the other side is away. With nobody connected the newest output is kept.
class UnixSocketChardev final : public StreamChardev {
  public:
    static Result<std::unique_ptr<UnixSocketChardev>> create(EventLoop& loop, std::string path, bool server);
    ~UnixSocketChardev() override;
    std::string describe() const override { return "unix:" + path_; }

  private:
    static constexpr u64 kReconnectNs = kNsPerSec;

    UnixSocketChardev(EventLoop& loop, std::string path) : StreamChardev(loop, /*keep_latest=*/true), path_(std::move(path)) {}
    Result<> listen();
    void accept_client();
    void connect();
    void on_input_ended() override { lost(); }
    void on_output_failed(int) override { lost(); }
    void lost();

    std::string path_;
    UniqueFd listener_;
    std::unique_ptr<EventLoop::Watch> listener_watch_;
    std::unique_ptr<EventLoop::Timer> reconnect_;
    UniqueFd peer_;
};

}  // namespace vezha::chardev
