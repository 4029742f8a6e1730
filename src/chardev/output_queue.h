// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mutex>
#include <span>
#include <string>

#include "base/types.h"

namespace vezha::chardev {

/// Bytes on their way out, bounded. Any thread pushes, the loop takes.
class OutputQueue {
  public:
    enum class WhenFull : u8 { DropNewest, DropOldest };

    explicit OutputQueue(usize limit) : limit_(limit) {}

    /// Adds what fits. @return true if the queue was empty: the loop has to be woken.
    bool push(std::span<const u8> bytes, WhenFull policy);
    /// Removes and returns at most `max` bytes from the front.
    std::string take(usize max);
    /// Puts back the tail of what take() gave, in front of everything.
    void put_back(std::string_view bytes);
    bool empty() const;
    u64 dropped() const;

  private:
    const usize limit_;
    mutable std::mutex mutex_;
    std::string bytes_;
    usize head_ = 0;  // bytes_[0, head_) are gone already
    u64 dropped_ = 0;
};

}  // namespace vezha::chardev
