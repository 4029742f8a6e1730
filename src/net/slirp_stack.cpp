// SPDX-License-Identifier: Apache-2.0
#include "net/slirp_stack.h"

#include <arpa/inet.h>
#include <slirp/libslirp.h>
#include <sys/epoll.h>

#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "base/time.h"

namespace vezha::net {

namespace {

constexpr u64 kNsPerMs = 1'000'000;

u32 to_epoll(int slirp_events) {
    u32 events = 0;
    if (slirp_events & SLIRP_POLL_IN) events |= EPOLLIN;
    if (slirp_events & SLIRP_POLL_OUT) events |= EPOLLOUT;
    if (slirp_events & SLIRP_POLL_PRI) events |= EPOLLPRI;
    return events;
}

int to_slirp(u32 epoll_events) {
    int events = 0;
    if (epoll_events & EPOLLIN) events |= SLIRP_POLL_IN;
    if (epoll_events & EPOLLOUT) events |= SLIRP_POLL_OUT;
    if (epoll_events & EPOLLPRI) events |= SLIRP_POLL_PRI;
    if (epoll_events & EPOLLERR) events |= SLIRP_POLL_ERR;
    if (epoll_events & EPOLLHUP) events |= SLIRP_POLL_HUP;
    return events;
}

}  // namespace

struct SlirpStack::Callbacks {
    static SlirpStack& self(void* opaque) { return *static_cast<SlirpStack*>(opaque); }

    static ssize_t send_packet(const void* bytes, usize size, void* opaque) {
        SlirpStack& stack = self(opaque);
        if (stack.merge_ && stack.to_guest_.merge({static_cast<const u8*>(bytes), size})) {
            stack.new_packets_ = true;
            return static_cast<ssize_t>(size);
        }
        // libslirp computes and checks all sums itself.
        const VnetHeader header{.flags = stack.data_valid_ ? VnetHeader::kDataValid : u8{0}, .buffer_count = 1};
        if (stack.to_guest_.push(header, {static_cast<const u8*>(bytes), size})) stack.new_packets_ = true;
        return static_cast<ssize_t>(size);
    }
    static void guest_error(const char* message, void*) { LOG_GUEST_ERROR("net", "{}", message); }
    static i64 clock_get_ns(void*) { return static_cast<i64>(monotonic_ns()); }
    static void* timer_new(SlirpTimerId id, void* argument, void* opaque) {
        SlirpStack& stack = self(opaque);
        return &stack.timers_.emplace_back(Timer{&stack, id, argument, 0, nullptr});
    }
    static void timer_free(void* handle, void* opaque) {
        self(opaque).timers_.remove_if([&](const Timer& timer) { return &timer == handle; });
    }
    static void timer_mod(void* handle, i64 expire_ms, void* opaque) {
        auto& timer = *static_cast<Timer*>(handle);
        timer.deadline_ns = static_cast<u64>(std::max<i64>(expire_ms, 1)) * kNsPerMs;
        self(opaque).arm(timer);
    }
    static void descriptor_changed(int fd, void* opaque) { self(opaque).forget(fd); }
    static void notify(void* opaque) { self(opaque).step_later(); }
};

void SlirpStack::arm(Timer& timer) {
    if (!loop_ || timer.deadline_ns == 0) return;
    if (!timer.alarm)
        timer.alarm = loop_->new_timer([this, raw = &timer] {
            raw->deadline_ns = 0;
            ::slirp_handle_timer(slirp_, static_cast<SlirpTimerId>(raw->id), raw->argument);
            step_later();
        });
    timer.alarm->arm(timer.deadline_ns);
}

Result<std::unique_ptr<SlirpStack>> SlirpStack::create(const UserOptions& options) {
    ignore_broken_pipes();  // libslirp sends to sockets whose other end may have gone
    auto stack = std::unique_ptr<SlirpStack>(new SlirpStack());
    stack->epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
    if (!stack->epoll_) return fail_errno(errno, "epoll_create1");

    static constexpr SlirpCb kCallbacks = {
        .send_packet = Callbacks::send_packet,
        .guest_error = Callbacks::guest_error,
        .clock_get_ns = Callbacks::clock_get_ns,
        .timer_new = nullptr,
        .timer_free = Callbacks::timer_free,
        .timer_mod = Callbacks::timer_mod,
        .register_poll_fd = Callbacks::descriptor_changed,
        .unregister_poll_fd = Callbacks::descriptor_changed,
        .notify = Callbacks::notify,
        .init_completed = nullptr,
        .timer_new_opaque = Callbacks::timer_new,
    };
    SlirpConfig config = {};
    config.version = 4;
    config.restricted = options.restrict ? 1 : 0;
    config.in_enabled = true;
    config.vnetwork.s_addr = htonl(0x0a000200);
    config.vnetmask.s_addr = htonl(0xffffff00);
    config.vhost.s_addr = htonl(0x0a000202);
    config.vdhcp_start.s_addr = htonl(0x0a00020f);
    config.vnameserver.s_addr = htonl(0x0a000203);
    config.in6_enabled = options.ipv6;
    ::inet_pton(AF_INET6, "fec0::", &config.vprefix_addr6);
    config.vprefix_len = 64;
    ::inet_pton(AF_INET6, "fec0::2", &config.vhost6);
    ::inet_pton(AF_INET6, "fec0::3", &config.vnameserver6);
    config.vhostname = options.host_name.empty() ? nullptr : options.host_name.c_str();
    stack->slirp_ = ::slirp_new(&config, &kCallbacks, stack.get());
    if (!stack->slirp_) return fail(ErrorCode::Unsupported, "libslirp {} refused its configuration", ::slirp_version_string());
    return stack;
}

SlirpStack::~SlirpStack() {
    detach();
    if (slirp_) ::slirp_cleanup(slirp_);
}

Result<> SlirpStack::forward(const PortForward& forward) {
    sockaddr_storage host = {}, guest = {};
    socklen_t size = sizeof(sockaddr_in);
    auto& host4 = reinterpret_cast<sockaddr_in&>(host);
    auto& host6 = reinterpret_cast<sockaddr_in6&>(host);
    const bool any = forward.host_address.empty() || forward.host_address == "*";
    if (any || ::inet_pton(AF_INET, forward.host_address.c_str(), &host4.sin_addr) == 1) {
        host4.sin_family = AF_INET;
        host4.sin_port = htons(forward.host_port);
        auto& guest4 = reinterpret_cast<sockaddr_in&>(guest);
        guest4.sin_family = AF_INET;
        guest4.sin_port = htons(forward.guest_port);  // the zero address is the first one DHCP gives
    } else if (::inet_pton(AF_INET6, forward.host_address.c_str(), &host6.sin6_addr) == 1) {
        size = sizeof(sockaddr_in6);
        host6.sin6_family = AF_INET6;
        host6.sin6_port = htons(forward.host_port);
        auto& guest6 = reinterpret_cast<sockaddr_in6&>(guest);
        guest6.sin6_family = AF_INET6;
        guest6.sin6_port = htons(forward.guest_port);
    } else {
        return fail(ErrorCode::InvalidArgument, "'{}' is no address", forward.host_address);
    }
    if (::slirp_add_hostxfwd(slirp_, reinterpret_cast<sockaddr*>(&host), size, reinterpret_cast<sockaddr*>(&guest), size,
                             (forward.udp ? SLIRP_HOSTFWD_UDP : 0) | SLIRP_HOSTFWD_V6ONLY) == 0)
        return {};
    const int error_number = errno;
    std::string hint;
    switch (error_number) {
        case EADDRINUSE: hint = "another program (or virtual machine) uses that port: choose another"; break;
        case EACCES: hint = "ports below 1024 need privilege: choose a higher one"; break;
        case EADDRNOTAVAIL: hint = "the host does not have that address"; break;
        default: hint = "see `ip address` and `ss -ltnu` on the host"; break;
    }
    return Failure(errno_error(error_number, fmt::format("cannot share {} port {}:{}", forward.udp ? "UDP" : "TCP",
                                                         any ? "*" : forward.host_address, forward.host_port))
                       .with_hint(std::move(hint)));
}

Result<> SlirpStack::attach(EventLoop& loop, std::function<void()> on_packets) {
    if (loop_) return fail(ErrorCode::Busy, "the user-mode network has one queue, and it is in use");
    watch_ = TRY(loop.watch(epoll_.get(), EPOLLIN, [this](u32) { collect_ready(); }));
    loop_ = &loop;
    on_packets_ = std::move(on_packets);
    timeout_ = loop.new_timer([this] { step_later(); });
    for (Timer& timer : timers_) arm(timer);
    step_later();
    return {};
}

void SlirpStack::detach() {
    for (Timer& timer : timers_) timer.alarm.reset();
    timeout_.reset();
    watch_.reset();
    loop_ = nullptr;
    on_packets_ = nullptr;
    step_pending_ = false;
    alive_ = std::make_shared<char>();  // steps that the loop still holds do nothing
    to_guest_.clear();
}

void SlirpStack::input(std::span<const u8> frame) {
    // libslirp knows the time of its last poll; with an old one, a new UDP socket would expire at once.
    if (monotonic_ns() - last_poll_ns_ > 50 * kNsPerMs) poll();
    ::slirp_input(slirp_, frame.data(), static_cast<int>(frame.size()));
    step_later();
}

void SlirpStack::guest_took() {
    if (waiting_for_guest_ && !to_guest_.crowded()) {
        waiting_for_guest_ = false;
        step_later();
    }
}

void SlirpStack::step_later() {
    if (!loop_ || step_pending_) return;
    step_pending_ = true;
    loop_->before_wait([this, token = std::weak_ptr<void>(alive_)] {
        if (token.expired()) return;
        step_pending_ = false;
        step();
    });
}

void SlirpStack::collect_ready() {
    epoll_event events[128];
    const int count = ::epoll_wait(epoll_.get(), events, 128, 0);
    for (int i = 0; i < count; ++i) {
        auto found = descriptors_.find(events[i].data.fd);
        if (found != descriptors_.end()) found->second.ready |= events[i].events;
    }
    if (count > 0) step_later();
}

void SlirpStack::poll() {
    last_poll_ns_ = monotonic_ns();
    ::slirp_pollfds_poll(
        slirp_, 0,
        [](int index, void* opaque) {
            SlirpStack& stack = Callbacks::self(opaque);
            if (index < 0 || static_cast<usize>(index) >= stack.poll_fds_.size()) return 0;
            auto found = stack.descriptors_.find(stack.poll_fds_[static_cast<usize>(index)]);
            return found == stack.descriptors_.end() ? 0 : to_slirp(std::exchange(found->second.ready, 0));
        },
        this);
}

void SlirpStack::step() {
    // Sockets are left alone while the guest has much to take: the host's TCP then slows the sender down.
    if (to_guest_.crowded())
        waiting_for_guest_ = true;
    else
        poll();
    fill();
    if (std::exchange(new_packets_, false) && on_packets_) on_packets_();  // last: the guest's device may come back to us
}

void SlirpStack::fill() {
    ++generation_;
    poll_fds_.clear();
    u32 timeout_ms = ~u32{0};
    if (!waiting_for_guest_) {
        ::slirp_pollfds_fill(
            slirp_, &timeout_ms,
            [](int fd, int events, void* opaque) { return Callbacks::self(opaque).add_poll(fd, events); }, this);
    } else {
        timeout_ms = 1000;
    }
    update_epoll();
    if (timeout_ms != ~u32{0} && timeout_ms < 3'600'000)
        timeout_->arm(monotonic_ns() + u64{timeout_ms} * kNsPerMs);
    else
        timeout_->cancel();
}

int SlirpStack::add_poll(int fd, int events) {
    Descriptor& descriptor = descriptors_[fd];
    if (descriptor.generation != generation_) {
        descriptor.generation = generation_;
        descriptor.wanted = 0;
        descriptor.ready = 0;
    }
    descriptor.wanted |= to_epoll(events);
    poll_fds_.push_back(fd);
    return static_cast<int>(poll_fds_.size() - 1);
}

void SlirpStack::update_epoll() {
    for (auto it = descriptors_.begin(); it != descriptors_.end();) {
        auto& [fd, descriptor] = *it;
        if (descriptor.generation != generation_) {
            if (descriptor.registered) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
            it = descriptors_.erase(it);
            continue;
        }
        if (descriptor.wanted != descriptor.registered) {
            epoll_event event{.events = descriptor.wanted, .data = {.fd = fd}};
            int result = ::epoll_ctl(epoll_.get(), descriptor.registered ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event);
            // The number may have passed to a new socket, or back, behind our back.
            if (result < 0 && errno == ENOENT) result = ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
            if (result < 0 && errno == EEXIST) result = ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
            descriptor.registered = result == 0 ? descriptor.wanted : 0;
        }
        ++it;
    }
}

void SlirpStack::forget(int fd) {
    if (descriptors_.erase(fd)) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

}  // namespace vezha::net
