// SPDX-License-Identifier: Apache-2.0
#include "memory/guest_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace vezha::memory {

namespace {
constexpr u64 kHugePage = 2 * kMiB;
constexpr u64 kMaxAddress = u64{1} << 52;
}  // namespace

Region::~Region() { ::munmap(host_, size_); }

Result<Region*> GuestMemory::add_region(std::string name, Gpa base, u64 size, bool read_only) {
    if (size == 0 || !is_aligned(base.value, kPageSize) || !is_aligned(size, kPageSize))
        return fail(ErrorCode::InvalidArgument, "memory region '{}' at {:#x} has size {:#x}, not whole 4 KiB pages", name,
                    base.value, size);
    if (base.value >= kMaxAddress || size > kMaxAddress - base.value)
        return fail(ErrorCode::OutOfRange, "memory region '{}' ends beyond 52 address bits", name);
    for (const auto& other : regions_)
        if (base < other->end() && other->base() < base + size)
            return fail(ErrorCode::AlreadyExists, "memory region '{}' at {:#x} overlaps '{}'", name, base.value,
                        other->name());

    UniqueFd fd;
    if (options_.backing == Backing::Memfd) {
        fd.reset(::memfd_create(name.c_str(), MFD_CLOEXEC));
        if (!fd) return fail_errno(errno, "memfd_create for '{}'", name);
        if (::ftruncate(fd.get(), static_cast<off_t>(size)) < 0) return fail_errno(errno, "cannot size memory '{}'", name);
    }
    // Reserve with slack so that large regions start on a huge page in the host too, then trim.
    const u64 slack = size >= kHugePage ? kHugePage : 0;
    void* reserved = ::mmap(nullptr, size + slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED)
        return Failure(errno_error(errno, fmt::format("cannot reserve {} MiB for guest memory", size / kMiB))
                           .with_hint("give the VM less memory, or raise the process's address space limit (ulimit -v)"));
    u8* start = static_cast<u8*>(reserved);
    u8* host = slack ? reinterpret_cast<u8*>(align_up(reinterpret_cast<u64>(start), kHugePage)) : start;
    const int flags = (fd ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS) | MAP_NORESERVE | MAP_FIXED;
    if (::mmap(host, size, PROT_READ | PROT_WRITE, flags, fd.get(), 0) == MAP_FAILED) {
        const int error = errno;
        ::munmap(reserved, size + slack);
        return fail_errno(error, "cannot map {} MiB of guest memory", size / kMiB);
    }
    if (host > start) ::munmap(start, static_cast<usize>(host - start));
    if (u8* tail = host + size; tail < start + size + slack) ::munmap(tail, static_cast<usize>(start + size + slack - tail));
    // Advice: the VM works without.
    if (options_.huge_pages) (void)::madvise(host, size, MADV_HUGEPAGE);
    (void)::madvise(host, size, MADV_DONTDUMP);

    auto region = std::unique_ptr<Region>(new Region(std::move(name), base, size, read_only, host, std::move(fd)));
    Region* out = region.get();
    regions_.insert(std::upper_bound(regions_.begin(), regions_.end(), base,
                                     [](Gpa b, const auto& r) { return b < r->base(); }),
                    std::move(region));
    return out;
}

Result<> GuestMemory::add_pc_ram(u64 bytes, u64 hole_start) {
    TRY(add_region("ram-low", Gpa{0}, std::min(bytes, hole_start)));
    if (bytes > hole_start) TRY(add_region("ram-high", Gpa{4 * kGiB}, bytes - hole_start));
    return {};
}

Region* GuestMemory::find(Gpa address) const {
    for (const auto& region : regions_)
        if (address >= region->base() && address < region->end()) return region.get();
    return nullptr;
}

u64 GuestMemory::ram_size() const {
    u64 total = 0;
    for (const auto& region : regions_)
        if (!region->read_only()) total += region->size();
    return total;
}

u8* GuestMemory::host_range(Gpa address, u64 size, bool for_write) const {
    Region* region = find(address);
    if (!region || (for_write && region->read_only())) return nullptr;
    const u64 offset = address.value - region->base().value;
    return size <= region->size() - offset ? region->host() + offset : nullptr;
}

Result<> GuestMemory::copy(Gpa address, u64 size, bool for_write, bool ignore_read_only, auto&& piece) const {
    while (size > 0) {
        Region* region = find(address);
        if (!region) return fail(ErrorCode::OutOfRange, "guest address {:#x} is not memory", address.value);
        if (for_write && !ignore_read_only && region->read_only())
            return fail(ErrorCode::OutOfRange, "guest address {:#x} is read-only memory", address.value);
        const u64 offset = address.value - region->base().value;
        const u64 length = std::min(size, region->size() - offset);
        piece(*region, offset, length);
        address = address + length;
        size -= length;
    }
    return {};
}

Result<> GuestMemory::host_pieces(Gpa address, u64 size, bool for_write, std::vector<std::span<u8>>& out) const {
    return copy(address, size, for_write, false, [&](Region& region, u64 offset, u64 length) {
        out.emplace_back(region.host() + offset, static_cast<usize>(length));
    });
}

Result<> GuestMemory::read(Gpa address, std::span<u8> out) const {
    u8* to = out.data();
    return copy(address, out.size(), false, false, [&](Region& region, u64 offset, u64 length) {
        std::memcpy(to, region.host() + offset, length);
        to += length;
    });
}

Result<> GuestMemory::write(Gpa address, std::span<const u8> bytes) {
    const u8* from = bytes.data();
    return copy(address, bytes.size(), true, false, [&](Region& region, u64 offset, u64 length) {
        std::memcpy(region.host() + offset, from, length);
        from += length;
        mark_dirty(region.base() + offset, length);
    });
}

Result<> GuestMemory::load(Gpa address, std::span<const u8> bytes) {
    const u8* from = bytes.data();
    return copy(address, bytes.size(), true, true, [&](Region& region, u64 offset, u64 length) {
        std::memcpy(region.host() + offset, from, length);
        from += length;
    });
}

void GuestMemory::mark_dirty(Gpa address, u64 size) {
    if (size == 0) return;
    if (observer_) observer_(observer_context_, address.value, size);
    if (!dirty_logging()) return;
    while (size > 0) {
        Region* region = find(address);
        if (!region) return;
        const u64 offset = address.value - region->base().value;
        const u64 length = std::min(size, region->size() - offset);
        region->dirty().mark(offset, length);
        address = address + length;
        size -= length;
    }
}

void GuestMemory::mark_dirty_host(const void* host, u64 size) {
    const u8* at = static_cast<const u8*>(host);
    for (const auto& region : regions_)
        if (at >= region->host() && at < region->host() + region->size())
            return mark_dirty(region->base() + static_cast<u64>(at - region->host()), size);
}

void GuestMemory::set_dirty_logging(bool on) {
    for (auto& region : regions_) {
        if (region->read_only()) continue;
        if (on) region->dirty().start();
        else region->dirty().stop();
    }
    dirty_logging_ = on;
}

Result<> GuestMemory::discard(Gpa address, u64 size) {
    if (!is_aligned(address.value, kPageSize) || !is_aligned(size, kPageSize))
        return fail(ErrorCode::InvalidArgument, "discard of {:#x} bytes at {:#x} is not whole pages", size, address.value);
    Result<> outcome;
    TRY(copy(address, size, true, false, [&](Region& region, u64 offset, u64 length) {
        // MADV_REMOVE punches the memfd; MADV_DONTNEED drops anonymous pages.
        const int advice = region.fd() >= 0 ? MADV_REMOVE : MADV_DONTNEED;
        if (::madvise(region.host() + offset, length, advice) < 0 && outcome)
            outcome = fail_errno(errno, "cannot discard guest memory at {:#x}", region.base().value + offset);
        mark_dirty(region.base() + offset, length);
    }));
    return outcome;
}

u64 GuestMemory::resident_bytes() const {
    u64 total = 0;
    std::vector<unsigned char> present;
    for (const auto& region : regions_) {
        present.resize(region->size() / kPageSize);
        if (::mincore(region->host(), region->size(), present.data()) < 0) continue;
        total += kPageSize * static_cast<u64>(std::count_if(present.begin(), present.end(), [](auto p) { return p & 1; }));
    }
    return total;
}

}  // namespace vezha::memory
