// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <list>
#include <unordered_map>
#include <vector>

#include "base/fd.h"
#include "net/packet_queue.h"
#include "net/user.h"

struct Slirp;

namespace vezha::net {

/// libslirp on an event loop. libslirp wants to be asked before each wait which descriptors it has; we ask once per loop
/// turn in which something happened, keep them in an epoll set of our own, and touch only what changed.
class SlirpStack {
  public:
    static Result<std::unique_ptr<SlirpStack>> create(const UserOptions& options);
    ~SlirpStack();

    Result<> forward(const PortForward& forward);

    /// Starts on `loop`. `on_packets`: the queue has new packets; never called from inside input().
    Result<> attach(EventLoop& loop, std::function<void()> on_packets);
    void detach();
    /// A frame from the guest.
    void input(std::span<const u8> frame);
    PacketQueue& to_guest() { return to_guest_; }
    /// The guest took packets: goes on if the stack waited for that.
    void guest_took();
    /// What the guest takes: sums that need no check, and large segments. Any thread.
    void set_receive_offloads(const Offloads& offloads) {
        data_valid_ = offloads.checksum;
        merge_ = offloads.checksum && offloads.tso4;
    }

  private:
    struct Callbacks;
    struct Timer {
        SlirpStack* stack;
        int id;  // SlirpTimerId
        void* argument;
        u64 deadline_ns = 0;  // 0: not armed
        std::unique_ptr<EventLoop::Timer> alarm;
    };
    struct Descriptor {
        u32 wanted = 0;     // epoll events of the current fill
        u32 registered = 0; // in epoll_; 0: not there
        u32 ready = 0;      // since the last poll
        u64 generation = 0; // of the last fill that named it
    };

    SlirpStack() : to_guest_(4 * kMiB) {}
    void arm(Timer& timer);
    void step_later();
    void step();
    void poll();
    void collect_ready();
    void fill();
    void update_epoll();
    int add_poll(int fd, int events);
    void forget(int fd);

    Slirp* slirp_ = nullptr;
    std::list<Timer> timers_;
    UniqueFd epoll_;
    std::unordered_map<int, Descriptor> descriptors_;
    std::vector<int> poll_fds_;  // by the index that libslirp keeps
    u64 generation_ = 0;
    u64 last_poll_ns_ = 0;
    PacketQueue to_guest_;
    bool new_packets_ = false, waiting_for_guest_ = false, step_pending_ = false;
    std::atomic<bool> data_valid_{false}, merge_{false};

    EventLoop* loop_ = nullptr;
    std::function<void()> on_packets_;
    std::unique_ptr<EventLoop::Watch> watch_;
    std::unique_ptr<EventLoop::Timer> timeout_;
    std::shared_ptr<char> alive_ = std::make_shared<char>();
};

}  // namespace vezha::net
