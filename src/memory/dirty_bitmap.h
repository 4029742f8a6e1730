// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "base/types.h"

namespace vezha::memory {

/// One bit per 4 KiB page of a region. Marks come from any thread; the storage is allocated at the first start().
class DirtyBitmap {
  public:
    explicit DirtyBitmap(u64 region_size) : pages_((region_size + kPageSize - 1) / kPageSize) {}

    void start();
    void stop() { active_.store(false, std::memory_order_release); }
    bool active() const { return active_.load(std::memory_order_acquire); }

    /// Marks the pages touched by [offset, offset+size); nothing happens while inactive.
    void mark(u64 offset, u64 size);
    /// Merges a bitmap in KVM's layout (bit n of word n/64 is page n).
    void merge(const u64* words, usize count);
    /// Returns the pages marked since the last call and clears them, atomically per word.
    std::vector<u64> take();
    u64 pages() const { return pages_; }

  private:
    usize words() const { return static_cast<usize>((pages_ + 63) / 64); }
    u64 pages_;
    std::atomic<bool> active_{false};
    std::unique_ptr<std::atomic<u64>[]> bits_;
};

}  // namespace vezha::memory
