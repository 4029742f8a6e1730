// SPDX-License-Identifier: Apache-2.0
#include "chardev/output_queue.h"

#include <algorithm>

namespace vezha::chardev {

bool OutputQueue::push(std::span<const u8> bytes, WhenFull policy) {
    std::lock_guard lock(mutex_);
    const bool was_empty = bytes_.size() == head_;
    if (head_ > limit_ / 2 || was_empty) {
        bytes_.erase(0, head_);
        head_ = 0;
    }
    const auto* data = reinterpret_cast<const char*>(bytes.data());
    usize size = bytes.size();
    usize room = limit_ - std::min(limit_, bytes_.size() - head_);
    if (size > room) {
        if (policy == WhenFull::DropNewest) {
            dropped_ += size - room;
            size = room;
        } else {
            if (size > limit_) {
                dropped_ += size - limit_;
                data += size - limit_;
                size = limit_;
            }
            const usize old = size - room < bytes_.size() - head_ ? size - std::min(size, room) : bytes_.size() - head_;
            dropped_ += old;
            head_ += old;
        }
    }
    bytes_.append(data, size);
    return was_empty && size != 0;
}

std::string OutputQueue::take(usize max) {
    std::lock_guard lock(mutex_);
    const usize size = std::min(max, bytes_.size() - head_);
    std::string out = bytes_.substr(head_, size);
    head_ += size;
    return out;
}

void OutputQueue::put_back(std::string_view bytes) {
    std::lock_guard lock(mutex_);
    if (bytes.size() <= head_) {
        head_ -= bytes.size();
        bytes_.replace(head_, bytes.size(), bytes);
    } else {
        bytes_.replace(0, head_, bytes);
        head_ = 0;
    }
}

bool OutputQueue::empty() const {
    std::lock_guard lock(mutex_);
    return bytes_.size() == head_;
}

u64 OutputQueue::dropped() const {
    std::lock_guard lock(mutex_);
    return dropped_;
}

}  // namespace vezha::chardev
