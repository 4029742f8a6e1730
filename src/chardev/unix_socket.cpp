// SPDX-License-Identifier: Apache-2.0
#include "chardev/unix_socket.h"

#include <sys/epoll.h>
#include <unistd.h>

#include "base/log.h"
#include "base/time.h"
#include "base/unix_socket.h"

namespace vezha::chardev {

Result<std::unique_ptr<UnixSocketChardev>> UnixSocketChardev::create(EventLoop& loop, std::string path, bool server) {
    auto device = std::unique_ptr<UnixSocketChardev>(new UnixSocketChardev(loop, std::move(path)));
    if (server) {
        TRY(device->listen());
    } else {
        device->reconnect_ = loop.new_timer([raw = device.get()] { raw->connect(); });
        device->connect();
    }
    return device;
}

UnixSocketChardev::~UnixSocketChardev() {
    reconnect_.reset();
    drain(500);
    stop();
    if (listener_) ::unlink(path_.c_str());
}

Result<> UnixSocketChardev::listen() {
    listener_ = TRY(listen_unix(path_));
    listener_watch_ = TRY(loop().watch(listener_.get(), EPOLLIN, [this](u32) { accept_client(); }));
    return {};
}

void UnixSocketChardev::accept_client() {
    auto client = vezha::accept_client(listener_.get());
    if (!client.has_value()) return;
    peer_ = *std::move(client);
    listener_watch_.reset();  // the next client waits in the backlog
    start(peer_.get(), peer_.get());
}

void UnixSocketChardev::connect() {
    auto fd = connect_unix(path_);
    if (!fd.has_value()) {
        log_debug("chardev", "{}; trying again", fd.error().message());
        reconnect_->arm(monotonic_ns() + kReconnectNs);
        return;
    }
    peer_ = *std::move(fd);
    start(peer_.get(), peer_.get());
}

void UnixSocketChardev::lost() {
    stop();
    peer_.reset();
    if (reconnect_) {
        reconnect_->arm(monotonic_ns() + kReconnectNs);
        return;
    }
    if (listener_watch_) return;
    auto watch = loop().watch(listener_.get(), EPOLLIN, [this](u32) { accept_client(); });
    if (watch.has_value()) listener_watch_ = *std::move(watch);
}

}  // namespace vezha::chardev
