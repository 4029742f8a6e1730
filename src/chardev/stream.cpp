// SPDX-License-Identifier: Apache-2.0
#include "chardev/stream.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cerrno>

#include "base/log.h"
#include "base/time.h"

namespace vezha::chardev {

static constexpr usize kChunk = 4096;

StreamChardev::StreamChardev(EventLoop& loop, bool keep_latest) : loop_(loop), keep_latest_(keep_latest) {
    ignore_broken_pipes();
}

StreamChardev::~StreamChardev() = default;

void StreamChardev::post(void (StreamChardev::*step)()) {
    loop_.post([this, token = alive(), step] {
        if (!token.expired()) (this->*step)();
    });
}

void StreamChardev::attach(Events events) {
    events_ = std::move(events);
    if (!started()) return;
    if (events_.on_connection) events_.on_connection(true);
    watch_input();
}

void StreamChardev::start(int input, int output) {
    input_ = input;
    output_ = output;
    pending_input_.clear();
    connected_ = true;
    if (events_.on_connection) events_.on_connection(true);
    if (events_.on_input) watch_input();
    flush();
}

void StreamChardev::stop() {
    input_watch_.reset();
    output_watch_.reset();
    output_watch_fd_.reset();
    input_ = output_ = -1;
    input_needs_no_wait_ = false;
    if (connected_.exchange(false) && events_.on_connection) events_.on_connection(false);
}

void StreamChardev::watch_input() {
    if (input_ < 0 || input_watch_ || input_needs_no_wait_ || !events_.on_input) return;
    auto watch = loop_.watch(input_, EPOLLIN, [this](u32) { read_input(); });
    if (watch.has_value()) {
        input_watch_ = *std::move(watch);
    } else {
        input_needs_no_wait_ = true;
        post(&StreamChardev::read_input);
    }
}

void StreamChardev::read_input() {
    if (input_ < 0 || !pending_input_.empty()) return;
    char buffer[kChunk];
    const ssize_t n = ::read(input_, buffer, sizeof buffer);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        input_watch_.reset();
        input_needs_no_wait_ = false;
        input_ = -1;
        on_input_ended();
        return;
    }
    pending_input_.assign(buffer, static_cast<usize>(n));
    std::weak_ptr<void> token = alive();
    filter_input(pending_input_);
    if (!token.expired()) deliver_input();
}

void StreamChardev::deliver_input() {
    while (!pending_input_.empty()) {
        const usize taken = events_.on_input(
            {reinterpret_cast<const u8*>(pending_input_.data()), pending_input_.size()});
        if (taken == 0) {
            // A silenced watch would still report a hang-up without end; so no watch until the device has room.
            input_watch_.reset();
            return;
        }
        pending_input_.erase(0, taken);
    }
    if (input_needs_no_wait_)
        post(&StreamChardev::read_input);
    else
        watch_input();
}

void StreamChardev::resume_input() {
    post(&StreamChardev::deliver_input);
}

void StreamChardev::write(std::span<const u8> bytes) {
    const bool connected = started();
    if (!connected && !keep_latest_) return;
    const bool wake = queue_.push(
        bytes, keep_latest_ ? OutputQueue::WhenFull::DropOldest : OutputQueue::WhenFull::DropNewest);
    if (wake && connected) post(&StreamChardev::flush);
}

bool StreamChardev::flush_some() {
    if (output_ < 0) {
        while (!queue_.take(kOutputLimit).empty()) {}
        return false;
    }
    const std::string chunk = queue_.take(64 * kKiB);
    if (chunk.empty()) return false;
    const ssize_t n = ::write(output_, chunk.data(), chunk.size());
    if (n >= 0) {
        if (static_cast<usize>(n) < chunk.size()) queue_.put_back(std::string_view(chunk).substr(static_cast<usize>(n)));
        return true;
    }
    const int error_number = errno;
    if (error_number == EINTR || error_number == EAGAIN) {
        queue_.put_back(chunk);
        return error_number == EINTR;
    }
    output_watch_.reset();
    output_ = -1;
    on_output_failed(error_number);
    return false;
}

void StreamChardev::flush() {
    if (!started()) return;
    while (flush_some()) {}
    if (!warned_of_loss_ && queue_.dropped() && !keep_latest_) {
        warned_of_loss_ = true;
        log_warning("chardev", "{}: the reader is slow; output beyond {} KiB is lost", describe(), kOutputLimit / kKiB);
    }
    if (queue_.empty() || output_ < 0) {
        output_watch_.reset();
        return;
    }
    if (output_watch_) return;
    output_watch_fd_.reset(::fcntl(output_, F_DUPFD_CLOEXEC, 0));
    auto watch = loop_.watch(output_watch_fd_.get(), EPOLLOUT, [this](u32) { flush(); });
    if (watch.has_value()) output_watch_ = *std::move(watch);
}

void StreamChardev::drain(int timeout_ms) {
    const u64 deadline = monotonic_ns() + static_cast<u64>(timeout_ms) * 1'000'000;
    while (output_ >= 0) {
        while (flush_some()) {}
        const u64 now = monotonic_ns();
        if (queue_.empty() || now >= deadline || output_ < 0) return;
        pollfd wait{.fd = output_, .events = POLLOUT, .revents = 0};
        ::poll(&wait, 1, static_cast<int>((deadline - now) / 1'000'000) + 1);
    }
}

}  // namespace vezha::chardev
