// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mutex>

#include "devices/virtio/ring.h"

namespace vezha::devices::virtio {

/// One virtqueue. The transport configures and stops it on any thread; the device pops and pushes on the queue's I/O
/// loop. Chains popped before a stop may be pushed after it: they vanish. Whoever stops waits for in_flight() to become
/// zero before it tells the driver, so no device writes into memory that the driver has taken back.
class Queue {
  public:
    Queue(memory::GuestMemory& memory, u16 max_size) : memory_(memory), max_size_(max_size), layout_{.size = max_size} {}

    // Device, on the queue's loop.
    /// Takes the next chain. False: nothing to do now; a notification will come. An error is reported once, then the
    /// queue stays silent until it is reset.
    Result<bool> pop(Chain& chain);
    /// Puts back the chains popped last, latest first.
    void unpop(Chain& chain);
    /// @param written bytes stored in the writable part, from its start
    void push(Chain& chain, u64 written);
    /// Shows the driver what was pushed. True if it wants an interrupt.
    [[nodiscard]] bool flush();

    /// Chains popped and not pushed. Any thread.
    u32 in_flight() const { return in_flight_.load(std::memory_order_acquire); }

    // Transport, with the device's mutex held.
    RingLayout& layout() { return layout_; }
    const RingLayout& layout() const { return layout_; }
    u16 max_size() const { return max_size_; }
    bool enabled() const { return enabled_; }
    Result<> enable(bool packed, RingPosition start = {});
    /// Forgets the ring and everything that the driver set.
    void reset();
    /// Chains come only while running.
    void set_running(bool running);
    RingPosition position() const;

  private:
    memory::GuestMemory& memory_;
    const u16 max_size_;
    RingLayout layout_;
    bool enabled_ = false;

    mutable std::mutex mutex_;  // guards what follows
    std::unique_ptr<Ring> ring_;
    bool running_ = false;
    u32 generation_ = 0;
    std::atomic<u32> in_flight_{0};
};

}  // namespace vezha::devices::virtio
