// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "engine/dbt/guest_run.h"

namespace vezha::engine::dbt {

/// One translated piece of guest code. Immutable once published, but for `valid` and the patched entry.
struct Block {
    u64 gpa = 0;        ///< of the first byte
    u64 rip = 0;
    u64 mode = 0;       ///< key::...
    u64 second_page = 0;  ///< gpa of the page where the last instruction ends, if it crosses (0: does not)
    u32 guest_size = 0;
    bool global = false;
    u8* entry = nullptr;
    u8* end = nullptr;
    u8* stale = nullptr;  ///< code that leaves with rip = this block's
    std::atomic<Block*> next{nullptr};  ///< in its hash bucket
    Block* next_in_page = nullptr;
    bool valid = true;
    /// (offset from entry, rip), ascending: which instruction a trap at a host address belongs to.
    struct Origin {
        u32 offset;
        u32 rip_delta;
    };
    std::vector<Origin> origins;
    u8 scratch[2]{};      ///< the pair of registers that this block keeps in Context
};

/// All translations of a VM, shared by its vCPUs: one area of host code filled from the bottom, a hash by (gpa, rip, mode), and
/// which guest pages hold translated code. Memory is given back only by a whole flush, with every vCPU stopped.
class CodeCache {
  public:
    static constexpr u64 kSize = 128 * kMiB, kReserve = 256 * kKiB;

    /// @param memory_top one past the highest guest-physical RAM address
    static Result<std::unique_ptr<CodeCache>> create(u64 memory_top);
    ~CodeCache();

    u8* base() const { return base_; }
    /// Lock-free; vCPU threads while they count as running. General registers only.
    Block* find(u64 gpa, u64 rip, u64 mode) const {
        for (Block* b = buckets_[hash(gpa, rip, mode)].load(std::memory_order_acquire); b;
             b = b->next.load(std::memory_order_acquire))
            if (b->gpa == gpa && b->rip == rip && b->mode == mode) return b;
        return nullptr;
    }
    bool page_has_code(u64 gpa) const { return test(code_pages_, gpa); }
    /// Remembers that some vCPU may write to the page without being seen. @return false if it holds code now
    bool note_writable(u64 gpa) {
        set(writable_pages_, gpa);
        return !page_has_code(gpa);
    }

    // Everything below under mutex().
    std::mutex& mutex() { return mutex_; }
    bool nearly_full() const { return base_ + kSize - at_ < static_cast<std::ptrdiff_t>(kReserve); }
    u8* at() const { return at_; }
    void advance(u8* end) { at_ = end; }
    /// @return true if vCPUs may hold entries that write to the page: they must be dropped before its bytes are read
    bool mark_code(u64 gpa) {
        set(code_pages_, gpa);
        return clear(writable_pages_, gpa);
    }
    Block* new_block();
    SystemSite* new_site();
    void publish(Block* block);
    /// Forgets everything; no vCPU may be inside generated code or hold a Block.
    void flush();
    /// The block whose code contains the host address, or nullptr. Also from a signal handler of a vCPU thread (the
    /// list it reads only grows).
    const Block* block_at(const u8* host) const;
    /// Where the area for thunks ends and blocks begin; set once.
    void seal_thunks(u8* end) { at_ = thunks_end_ = end; }

    /// Called on any thread after bytes changed. Cheap where there is no code.
    void invalidate(u64 gpa, u64 size) {
        if (page_has_code(gpa) || (((gpa + size - 1) ^ gpa) >> 12 && size)) invalidate_slow(gpa, size);
    }
    u64 blocks() const { return block_count_.load(std::memory_order_relaxed); }
    u64 bytes() const { return static_cast<u64>(at_ - base_); }
    u64 invalidations() const { return invalidations_; }
    u64 flushes() const { return flushes_; }

  private:
    CodeCache() = default;
    static usize hash(u64 gpa, u64 rip, u64 mode) {
        const u64 x = gpa * 0x9e3779b97f4a7c15 ^ (rip >> 12) * 0xc2b2ae3d27d4eb4f ^ mode * 0x165667b19e3779f9;
        return (x ^ x >> 29) * 0xbf58476d1ce4e5b9 >> (64 - kBucketBits);
    }
    bool test(std::atomic<u64>* bits, u64 gpa) const {
        const u64 page = gpa >> 12;
        return page < pages_ && (bits[page / 64].load(std::memory_order_seq_cst) >> (page % 64) & 1);
    }
    void set(std::atomic<u64>* bits, u64 gpa) {
        const u64 page = gpa >> 12, bit = u64{1} << (page % 64);
        if (page < pages_) bits[page / 64].fetch_or(bit, std::memory_order_seq_cst);
    }
    bool clear(std::atomic<u64>* bits, u64 gpa) {
        const u64 page = gpa >> 12, bit = u64{1} << (page % 64);
        return page < pages_ && (bits[page / 64].fetch_and(~bit, std::memory_order_seq_cst) & bit);
    }
    void invalidate_slow(u64 gpa, u64 size);
    void kill(Block* block);

    static constexpr unsigned kBucketBits = 20;
    u8* base_ = nullptr;
    u8* at_ = nullptr;
    u8* thunks_end_ = nullptr;
    std::atomic<Block*>* buckets_ = nullptr;
    std::atomic<u64>* code_pages_ = nullptr;
    std::atomic<u64>* writable_pages_ = nullptr;
    u64 pages_ = 0;
    std::mutex mutex_;
    std::unordered_map<u64, Block*> by_page_;
    std::deque<Block> storage_;
    std::deque<SystemSite> sites_;
    std::vector<Block*> by_address_;  // ascending; capacity reserved so that a reader never sees it move
    std::atomic<u64> block_count_{0};
    u64 invalidations_ = 0, flushes_ = 0;
};

}  // namespace vezha::engine::dbt
