// SPDX-License-Identifier: Apache-2.0
#include "memory/dirty_bitmap.h"

#include <algorithm>

namespace vezha::memory {

void DirtyBitmap::start() {
    if (!bits_) bits_ = std::make_unique<std::atomic<u64>[]>(words());
    for (usize i = 0; i < words(); ++i) bits_[i].store(0, std::memory_order_relaxed);
    active_.store(true, std::memory_order_release);
}

void DirtyBitmap::mark(u64 offset, u64 size) {
    if (size == 0 || !active()) return;
    const u64 first = offset / kPageSize;
    const u64 last = std::min((offset + size - 1) / kPageSize, pages_ - 1);
    for (u64 page = first; page <= last; ++page)
        bits_[page / 64].fetch_or(u64{1} << (page % 64), std::memory_order_release);
}

void DirtyBitmap::merge(const u64* source, usize count) {
    if (!active()) return;
    for (usize i = 0; i < std::min(count, words()); ++i)
        if (source[i]) bits_[i].fetch_or(source[i], std::memory_order_release);
}

std::vector<u64> DirtyBitmap::take() {
    std::vector<u64> out(bits_ ? words() : 0);
    for (usize i = 0; i < out.size(); ++i) out[i] = bits_[i].exchange(0, std::memory_order_acquire);
    return out;
}

}  // namespace vezha::memory
