// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/code_cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "engine/dbt/assembler.h"

namespace vezha::engine::dbt {

namespace {
constexpr usize kMaxBlocks = 2'000'000;

void* reserve(u64 bytes, int protection) {
    void* at = ::mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? nullptr : at;
}
}  // namespace

Result<std::unique_ptr<CodeCache>> CodeCache::create(u64 memory_top) {
    auto cache = std::unique_ptr<CodeCache>(new CodeCache);
    cache->pages_ = memory_top >> 12;
    const u64 bitmap = (cache->pages_ + 63) / 64 * 8 + 8;
    cache->base_ = static_cast<u8*>(reserve(kSize, PROT_READ | PROT_WRITE | PROT_EXEC));
    if (!cache->base_)
        return Failure(errno_error(errno, "cannot reserve memory for translated code")
                           .with_hint("the software engine needs writable executable memory; a security policy may forbid it"));
    cache->buckets_ = static_cast<std::atomic<Block*>*>(reserve(sizeof(void*) << kBucketBits, PROT_READ | PROT_WRITE));
    cache->code_pages_ = static_cast<std::atomic<u64>*>(reserve(bitmap, PROT_READ | PROT_WRITE));
    cache->writable_pages_ = static_cast<std::atomic<u64>*>(reserve(bitmap, PROT_READ | PROT_WRITE));
    if (!cache->buckets_ || !cache->code_pages_ || !cache->writable_pages_)
        return fail_errno(errno, "cannot reserve memory for the code cache's tables");
    cache->at_ = cache->base_;
    cache->by_address_.reserve(kMaxBlocks);
    return cache;
}

CodeCache::~CodeCache() {
    const u64 bitmap = (pages_ + 63) / 64 * 8 + 8;
    if (base_) ::munmap(base_, kSize);
    if (buckets_) ::munmap(buckets_, sizeof(void*) << kBucketBits);
    if (code_pages_) ::munmap(code_pages_, bitmap);
    if (writable_pages_) ::munmap(writable_pages_, bitmap);
}

Block* CodeCache::new_block() { return &storage_.emplace_back(); }
SystemSite* CodeCache::new_site() { return &sites_.emplace_back(); }

void CodeCache::publish(Block* block) {
    Block*& head = by_page_[block->gpa >> 12];
    block->next_in_page = head;
    head = block;
    // A block that ends on another page is found there by looking at that page's list of foreigners: kept simple by
    // indexing a proxy entry.
    if (block->second_page) {
        Block* proxy = new_block();
        proxy->gpa = block->second_page;
        proxy->guest_size = 15;
        proxy->stale = nullptr;
        proxy->next.store(block, std::memory_order_relaxed);
        Block*& other = by_page_[block->second_page >> 12];
        proxy->next_in_page = other;
        other = proxy;
    }
    by_address_.push_back(block);
    block_count_.store(by_address_.size(), std::memory_order_release);
    auto& bucket = buckets_[hash(block->gpa, block->rip, block->mode)];
    block->next.store(bucket.load(std::memory_order_relaxed), std::memory_order_relaxed);
    bucket.store(block, std::memory_order_release);
}

void CodeCache::kill(Block* block) {
    if (!block->valid) return;
    block->valid = false;
    ++invalidations_;
    // The entry starts with an aligned 8-byte NOP: one store turns it into a jump away, whoever runs there.
    u64 patch = 0;
    u8 bytes[8] = {0xe9};
    const i32 distance = static_cast<i32>(block->stale - (block->entry + 5));
    std::memcpy(bytes + 1, &distance, 4);
    std::memcpy(&patch, bytes, 8);
    __atomic_store_n(reinterpret_cast<u64*>(block->entry), patch, __ATOMIC_SEQ_CST);
    auto* link = &buckets_[hash(block->gpa, block->rip, block->mode)];
    while (Block* at = link->load(std::memory_order_relaxed)) {
        if (at == block) {
            link->store(block->next.load(std::memory_order_relaxed), std::memory_order_release);
            break;
        }
        link = &at->next;
    }
}

void CodeCache::invalidate_slow(u64 gpa, u64 size) {
    const std::lock_guard lock(mutex_);
    const u64 end = gpa + size;
    for (u64 page = gpa >> 12; page <= (end - 1) >> 12; ++page) {
        if (!page_has_code(page << 12)) continue;
        const auto found = by_page_.find(page);
        if (found != by_page_.end()) {
            Block** link = &found->second;
            while (Block* block = *link) {
                if (block->gpa < end && gpa < block->gpa + block->guest_size) {
                    *link = block->next_in_page;
                    kill(block->stale ? block : block->next.load(std::memory_order_relaxed));
                } else {
                    link = &block->next_in_page;
                }
            }
            if (found->second) continue;
            by_page_.erase(found);
        }
        clear(code_pages_, page << 12);
    }
}

void CodeCache::flush() {
    ++flushes_;
    for (usize i = 0; i < usize{1} << kBucketBits; ++i) buckets_[i].store(nullptr, std::memory_order_relaxed);
    for (const auto& [page, block] : by_page_) clear(code_pages_, page << 12);
    by_page_.clear();
    block_count_ = 0;
    by_address_.clear();
    storage_.clear();
    sites_.clear();
    at_ = thunks_end_;
}

const Block* CodeCache::block_at(const u8* host) const {
    const usize count = block_count_.load(std::memory_order_acquire);
    const auto begin = by_address_.data(), end = begin + count;
    auto found = std::upper_bound(begin, end, host, [](const u8* h, const Block* b) { return h < b->entry; });
    if (found == begin) return nullptr;
    const Block* block = *(found - 1);
    return host < block->end ? block : nullptr;
}

}  // namespace vezha::engine::dbt
