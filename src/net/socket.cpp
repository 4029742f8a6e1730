// SPDX-License-Identifier: Apache-2.0
#include "net/socket.h"

#include <netdb.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "base/unix_socket.h"
#include "net/frame_stream.h"
#include "net/packet_queue.h"

namespace vezha::net {

namespace {

bool is_unix(const std::string& address) { return address.find('/') != address.npos; }

struct FreeAddresses {
    void operator()(addrinfo* list) const { ::freeaddrinfo(list); }
};

/// Numeric addresses and "localhost" alone: a name server must not delay a loop.
Result<std::unique_ptr<addrinfo, FreeAddresses>> resolve(const std::string& address, bool passive) {
    const auto colon = address.rfind(':');
    std::string host = colon == address.npos ? "" : address.substr(0, colon);
    if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
    if (host == "localhost" || host.empty()) host = "127.0.0.1";
    addrinfo hints = {};
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | (passive ? AI_PASSIVE : 0);
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* list = nullptr;
    if (colon == address.npos || ::getaddrinfo(host.c_str(), address.c_str() + colon + 1, &hints, &list) != 0)
        return Failure(Error(ErrorCode::InvalidArgument, fmt::format("'{}' is neither a path nor ADDRESS:PORT", address))
                           .with_hint("for example /run/user/1000/cable.sock or 127.0.0.1:5000"));
    return std::unique_ptr<addrinfo, FreeAddresses>(list);
}

Result<UniqueFd> listen_tcp(const std::string& address) {
    auto target = TRY(resolve(address, true));
    UniqueFd fd(::socket(target->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd) return fail_errno(errno, "socket");
    const int on = 1;
    ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (::bind(fd.get(), target->ai_addr, target->ai_addrlen) < 0 || ::listen(fd.get(), 1) < 0)
        return Failure(errno_error(errno, fmt::format("cannot listen on {}", address)).with_hint("choose another port or address"));
    return fd;
}

/// Starts to connect; the socket becomes writable when that is decided.
Result<UniqueFd> start_connect(const std::string& address) {
    if (is_unix(address)) return connect_unix(address);
    auto target = TRY(resolve(address, false));
    UniqueFd fd(::socket(target->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd) return fail_errno(errno, "socket");
    if (::connect(fd.get(), target->ai_addr, target->ai_addrlen) < 0 && errno != EINPROGRESS)
        return fail_errno(errno, "cannot connect to {}", address);
    return fd;
}

class SocketQueue final : public BackendQueue {
  public:
    SocketQueue(EventLoop& loop, QueueEvents events, std::string address, int listener)
        : loop_(loop), events_(std::move(events)), address_(std::move(address)), listener_(listener) {
        if (listener_ < 0) {
            reconnect_ = loop_.new_timer([this] { connect(); });
            connect();
        } else {
            wait_for_peer();
        }
    }

    Result<> send(std::span<const iovec> pieces) override {
        if (!connected_) return fail(ErrorCode::Disconnected, "{}: nobody at the other end", address_);
        if (unsent_at_ < unsent_.size()) return fail(ErrorCode::WouldBlock, "the peer is slow");
        TRY(gather_packet(pieces, packet_));
        VnetHeader header;
        std::memcpy(&header, packet_.data(), sizeof header);
        const std::span<u8> frame = std::span(packet_).subspan(sizeof header);
        if (header.flags & VnetHeader::kNeedsChecksum) TRY(complete_checksum(header, frame));
        const u32 length = __builtin_bswap32(static_cast<u32>(frame.size()));
        // The length takes the place of the header's last four bytes.
        const std::span<u8> message = std::span(packet_).subspan(sizeof header - 4);
        std::memcpy(message.data(), &length, 4);
        const ssize_t n = ::send(peer_.get(), message.data(), message.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            lost();
            return fail(ErrorCode::Disconnected, "{}: the peer has gone", address_);
        }
        const usize sent = n < 0 ? 0 : static_cast<usize>(n);
        if (sent < message.size()) {
            unsent_.assign(message.begin() + static_cast<std::ptrdiff_t>(sent), message.end());
            unsent_at_ = 0;
            watch_->set_events(EPOLLIN | EPOLLOUT);
        }
        return {};
    }

    Result<usize> receive(std::span<const iovec> buffers) override {
        auto size = to_guest_.receive(buffers);
        if (paused_ && !to_guest_.crowded()) {
            paused_ = false;
            loop_.before_wait([this, token = std::weak_ptr<void>(alive_)] {
                if (token.expired()) return;
                take_frames();
                if (connected_ && !watch_ && !paused_) watch_peer();
                notify();
            });
        }
        return size;
    }
    usize next_packet_size() override { return to_guest_.next_size(); }

  private:
    void wait_for_peer() {
        auto watch = loop_.watch(listener_, EPOLLIN, [this](u32) {
            auto client = accept_client(listener_);
            if (!client.has_value()) return;
            listener_watch_.reset();  // the next one waits in the backlog
            start(*std::move(client));
        });
        if (watch.has_value()) listener_watch_ = *std::move(watch);
    }

    void connect() {
        auto fd = start_connect(address_);
        if (!fd.has_value()) return reconnect_->arm(monotonic_ns() + kNsPerSec);
        peer_ = *std::move(fd);
        auto watch = loop_.watch(peer_.get(), EPOLLOUT, [this](u32) {
            int error_number = 0;
            socklen_t size = sizeof error_number;
            ::getsockopt(peer_.get(), SOL_SOCKET, SO_ERROR, &error_number, &size);
            watch_.reset();
            if (error_number == 0) return start(std::move(peer_));
            peer_.reset();
            reconnect_->arm(monotonic_ns() + kNsPerSec);
        });
        if (watch.has_value()) watch_ = *std::move(watch);
    }

    void start(UniqueFd peer) {
        peer_ = std::move(peer);
        const int on = 1;
        if (!is_unix(address_)) ::setsockopt(peer_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        stream_ = {};
        connected_ = true;
        paused_ = false;
        log_info("net", "{}: connected", address_);
        watch_peer();
    }

    void watch_peer() {
        const bool unsent = unsent_at_ < unsent_.size();
        auto watch = loop_.watch(peer_.get(), unsent ? EPOLLIN | EPOLLOUT : EPOLLIN, [this](u32 ready) { on_ready(ready); });
        if (watch.has_value())
            watch_ = *std::move(watch);
        else
            lost();
    }

    void on_ready(u32 ready) {
        if (ready & EPOLLOUT) {
            send_rest();
            if (!connected_) return;
        }
        if (ready & ~u32{EPOLLOUT}) read_peer();
        notify();
    }

    void send_rest() {
        const ssize_t n = ::send(peer_.get(), unsent_.data() + unsent_at_, unsent_.size() - unsent_at_, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (n < 0) return lost();
        unsent_at_ += static_cast<usize>(n);
        if (unsent_at_ < unsent_.size()) return;
        unsent_.clear();
        unsent_at_ = 0;
        watch_->set_events(EPOLLIN);
        if (events_.on_writable) events_.on_writable();
    }

    void read_peer() {
        if (!connected_) return;
        const std::span<u8> room = stream_.room();
        const ssize_t n = ::recv(peer_.get(), room.data(), room.size(), MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (n <= 0) return lost();
        stream_.filled(static_cast<usize>(n));
        take_frames();
    }

    /// Moves whole frames to the guest's queue; with that crowded, stops reading, and the peer has to wait.
    void take_frames() {
        while (connected_) {
            if (to_guest_.crowded()) {
                paused_ = true;
                watch_.reset();
                return;
            }
            auto frame = stream_.next();
            if (!frame.has_value()) {
                log_warning("net", "{}: the peer sent {}; disconnected", address_, frame.error().message());
                return lost();
            }
            if (frame->empty()) return;
            if (frame->size() < 14) continue;  // no Ethernet header
            if (to_guest_.push({.buffer_count = 1}, *frame)) arrived_ = true;
        }
    }

    void notify() {
        if (std::exchange(arrived_, false) && events_.on_readable) events_.on_readable();
    }

    void lost() {
        if (!connected_) return;
        log_info("net", "{}: disconnected", address_);
        connected_ = false;
        const bool was_blocked = unsent_at_ < unsent_.size();
        unsent_.clear();
        unsent_at_ = 0;
        // Later: this may be inside the device's send().
        loop_.before_wait([this, was_blocked, token = std::weak_ptr<void>(alive_)] {
            if (token.expired()) return;
            watch_.reset();
            peer_.reset();
            if (reconnect_)
                reconnect_->arm(monotonic_ns() + kNsPerSec);
            else
                wait_for_peer();
            if (was_blocked && events_.on_writable) events_.on_writable();
        });
    }

    EventLoop& loop_;
    QueueEvents events_;
    const std::string address_;
    const int listener_;
    UniqueFd peer_;
    bool connected_ = false, paused_ = false, arrived_ = false;
    std::vector<u8> packet_, unsent_;
    usize unsent_at_ = 0;
    FrameStream stream_;
    PacketQueue to_guest_{2 * kMiB, 2048};
    std::shared_ptr<char> alive_ = std::make_shared<char>();
    std::unique_ptr<EventLoop::Watch> watch_, listener_watch_;
    std::unique_ptr<EventLoop::Timer> reconnect_;
};

class SocketBackend final : public Backend {
  public:
    SocketBackend(SocketOptions options, UniqueFd listener) : options_(std::move(options)), listener_(std::move(listener)) {}
    ~SocketBackend() override {
        if (listener_ && is_unix(options_.address)) ::unlink(options_.address.c_str());
    }
    Offloads accepts() const override { return {.checksum = true}; }
    Result<std::unique_ptr<BackendQueue>> attach(EventLoop& loop, u32 index, QueueEvents events) override {
        if (index != 0) return fail(ErrorCode::OutOfRange, "a socket network has one queue");
        return std::unique_ptr<BackendQueue>(
            std::make_unique<SocketQueue>(loop, std::move(events), options_.address, listener_ ? listener_.get() : -1));
    }
    std::string describe() const override {
        return fmt::format("socket:{}={}", options_.listen ? "listen" : "connect", options_.address);
    }

  private:
    SocketOptions options_;
    UniqueFd listener_;
};

class NoneBackend final : public Backend {
    class Queue final : public BackendQueue {
        Result<> send(std::span<const iovec>) override { return {}; }
        Result<usize> receive(std::span<const iovec>) override { return fail(ErrorCode::WouldBlock, "no packet"); }
        usize next_packet_size() override { return 0; }
    };

  public:
    Result<std::unique_ptr<BackendQueue>> attach(EventLoop&, u32, QueueEvents) override {
        return std::unique_ptr<BackendQueue>(std::make_unique<Queue>());
    }
    std::string describe() const override { return "none"; }
};

}  // namespace

Result<std::unique_ptr<Backend>> open_socket(const SocketOptions& options) {
    UniqueFd listener;
    if (options.listen)
        listener = TRY(is_unix(options.address) ? listen_unix(options.address) : listen_tcp(options.address));
    else if (!is_unix(options.address))
        TRY(resolve(options.address, false));
    return std::unique_ptr<Backend>(std::make_unique<SocketBackend>(options, std::move(listener)));
}

std::unique_ptr<Backend> open_none() { return std::make_unique<NoneBackend>(); }

}  // namespace vezha::net
