// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>

#include "base/fd.h"
#include "chardev/chardev.h"
#include "chardev/output_queue.h"

namespace vezha::chardev {

/// What every descriptor-based device shares: input with back-pressure, a bounded output queue that the loop drains, and
/// descriptors that epoll refuses (regular files, /dev/null). Created, attached and destroyed on the loop's thread or
/// while the loop does not run.
class StreamChardev : public Chardev {
  public:
    ~StreamChardev() override;
    void attach(Events events) override;
    void write(std::span<const u8> bytes) override;
    void resume_input() override;

  protected:
    static constexpr usize kOutputLimit = 1 * kMiB;

    /// `keep_latest`: with nobody connected, the newest output is kept for whom comes (sockets, pseudo-terminals).
    explicit StreamChardev(EventLoop& loop, bool keep_latest = false);

    /// Starts with descriptors that do not block (O_NONBLOCK); -1: no such direction. Tells on_connection(true).
    /// `input` and `output` may be one descriptor. Not owned.
    void start(int input, int output);
    /// Forgets the descriptors. Tells on_connection(false) if started.
    void stop();
    bool started() const { return connected_.load(std::memory_order_relaxed); }
    EventLoop& loop() { return loop_; }
    /// Writes what is queued, waiting for at most `timeout_ms`: for the end of the process.
    void drain(int timeout_ms);

    /// Bytes from outside before the device sees them; may remove, add and act.
    virtual void filter_input(std::string& bytes) { (void)bytes; }
    /// End of input, or an error on either direction. The base goes on with the other direction.
    virtual void on_input_ended() {}
    virtual void on_output_failed(int error_number) { (void)error_number; }
    /// Lets posted tasks ask whether the object is still there.
    std::weak_ptr<void> alive() const { return alive_; }

  private:
    void post(void (StreamChardev::*step)());
    void watch_input();
    void read_input();
    void deliver_input();
    void flush();
    /// One write of queued bytes. @return false: nothing more can be done now.
    bool flush_some();

    EventLoop& loop_;
    const bool keep_latest_;
    std::shared_ptr<char> alive_ = std::make_shared<char>();
    Events events_;
    int input_ = -1, output_ = -1;
    std::atomic<bool> connected_{false};
    bool input_needs_no_wait_ = false;  // epoll refuses the descriptor: it is always ready
    std::unique_ptr<EventLoop::Watch> input_watch_;
    std::unique_ptr<EventLoop::Watch> output_watch_;
    UniqueFd output_watch_fd_;  // a duplicate: epoll takes each descriptor once
    std::string pending_input_;
    OutputQueue queue_{kOutputLimit};
    bool warned_of_loss_ = false;
};

}  // namespace vezha::chardev
