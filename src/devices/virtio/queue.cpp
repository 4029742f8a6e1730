// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/queue.h"

#include <algorithm>

namespace vezha::devices::virtio {

Result<bool> Queue::pop(Chain& chain) {
    std::lock_guard lock(mutex_);
    if (!ring_ || !running_) return false;
    auto popped = ring_->pop(chain);
    if (!popped) {
        running_ = false;
        return popped;
    }
    if (*popped) {
        chain.generation_ = generation_;
        in_flight_.fetch_add(1, std::memory_order_relaxed);
    }
    return popped;
}

void Queue::unpop(Chain& chain) {
    std::lock_guard lock(mutex_);
    if (ring_ && chain.generation_ == generation_) ring_->unpop(chain);
    in_flight_.fetch_sub(1, std::memory_order_release);
}

void Queue::push(Chain& chain, u64 written) {
    std::lock_guard lock(mutex_);
    if (ring_ && chain.generation_ == generation_)
        ring_->push(chain, static_cast<u32>(std::min(written, chain.writable_bytes_)));
    in_flight_.fetch_sub(1, std::memory_order_release);
}

bool Queue::flush() {
    std::lock_guard lock(mutex_);
    return ring_ && ring_->flush();
}

Result<> Queue::enable(bool packed, RingPosition start) {
    auto ring = TRY(packed ? new_packed_ring(memory_, layout_, start) : new_split_ring(memory_, layout_, start));
    std::lock_guard lock(mutex_);
    ring_ = std::move(ring);
    enabled_ = true;
    return {};
}

void Queue::reset() {
    layout_ = {.size = max_size_};
    enabled_ = false;
    std::lock_guard lock(mutex_);
    ring_.reset();
    running_ = false;
    ++generation_;
}

void Queue::set_running(bool running) {
    std::lock_guard lock(mutex_);
    running_ = running;
}

RingPosition Queue::position() const {
    std::lock_guard lock(mutex_);
    return ring_ ? ring_->position() : RingPosition{};
}

}  // namespace vezha::devices::virtio
