// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <compare>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "memory/dirty_bitmap.h"

namespace vezha::memory {

/// A guest-physical address.
struct Gpa {
    u64 value = 0;
    constexpr auto operator<=>(const Gpa&) const = default;
    constexpr Gpa operator+(u64 bytes) const { return {value + bytes}; }
};

enum class Backing : u8 { Anonymous, Memfd };

/// One contiguous piece of guest RAM or ROM. Its host mapping never moves while it lives.
class Region {
  public:
    ~Region();
    Region(const Region&) = delete;
    Region& operator=(const Region&) = delete;

    const std::string& name() const { return name_; }
    Gpa base() const { return base_; }
    u64 size() const { return size_; }
    Gpa end() const { return base_ + size_; }
    bool read_only() const { return read_only_; }  ///< for the guest
    u8* host() const { return host_; }
    /// The memfd behind it, or -1 for anonymous memory.
    int fd() const { return fd_.get(); }
    DirtyBitmap& dirty() { return dirty_; }

  private:
    friend class GuestMemory;
    Region(std::string name, Gpa base, u64 size, bool read_only, u8* host, UniqueFd fd)
        : name_(std::move(name)), base_(base), size_(size), read_only_(read_only), host_(host), fd_(std::move(fd)),
          dirty_(size) {}
    std::string name_;
    Gpa base_;
    u64 size_;
    bool read_only_;
    u8* host_;
    UniqueFd fd_;
    DirtyBitmap dirty_;
};

/// All memory of one VM: regions with holes between them. The only place that turns a guest address into a host
/// pointer. Regions are added before vCPUs run; afterwards every method is safe on any thread. Memory is lazily
/// populated: only touched pages cost. Host pointers stay valid for the life of the object.
class GuestMemory {
  public:
    struct Options {
        Backing backing = Backing::Anonymous;
        bool huge_pages = true;  ///< transparent huge pages (madvise)
    };

    explicit GuestMemory(Options options) : options_(options) {}

    /// Adds a region of zeroes. @return OutOfRange if misaligned or overlapping, OutOfMemory.
    Result<Region*> add_region(std::string name, Gpa base, u64 size, bool read_only = false);

    /// The usual PC layout: RAM below `hole_start` and, if there is more, from 4 GiB on.
    Result<> add_pc_ram(u64 bytes, u64 hole_start = 0x8000'0000);

    std::span<const std::unique_ptr<Region>> regions() const { return regions_; }
    Region* find(Gpa address) const;
    /// Bytes of RAM (without read-only regions).
    u64 ram_size() const;

    /// Host pointer to exactly [address, address+size), which must lie in one region; nullptr otherwise.
    /// For writing, the caller reports what it wrote by mark_dirty().
    u8* host_range(Gpa address, u64 size, bool for_write) const;

    /// Splits [address, address+size) into host pieces, appended to `out` (RAM can be discontiguous).
    /// @return OutOfRange if a part is not memory, or is read-only and `for_write`.
    Result<> host_pieces(Gpa address, u64 size, bool for_write, std::vector<std::span<u8>>& out) const;

    /// Copies in and out; a piece outside memory is OutOfRange and nothing is promised about the rest.
    Result<> read(Gpa address, std::span<u8> out) const;
    Result<> write(Gpa address, std::span<const u8> bytes);
    /// Like write(), but also into read-only regions and without dirty marks: for loaders, before the VM runs.
    Result<> load(Gpa address, std::span<const u8> bytes);

    /// One copy of a trivially copyable value (guest bytes are fetched once, then validated).
    template <class T>
    Result<T> read_object(Gpa address) const {
        static_assert(std::is_trivially_copyable_v<T>);
        T value;
        TRY(read(address, {reinterpret_cast<u8*>(&value), sizeof value}));
        return value;
    }
    template <class T>
    Result<> write_object(Gpa address, const T& value) {
        static_assert(std::is_trivially_copyable_v<T>);
        return write(address, {reinterpret_cast<const u8*>(&value), sizeof value});
    }

    void mark_dirty(Gpa address, u64 size);
    /// Marks pages by host pointer, as kept in I/O vectors. Pointers outside guest memory are ignored.
    void mark_dirty_host(const void* host, u64 size);
    /// Starts or stops recording. The engine additionally records what vCPUs write.
    void set_dirty_logging(bool on);
    bool dirty_logging() const { return dirty_logging_.load(std::memory_order_relaxed); }

    /// Called on every device store while set: the software engine watches for stores into translated code.
    /// Set before vCPUs run. Called on any thread with (guest address, size).
    using WriteObserver = void (*)(void* context, u64 gpa, u64 size);
    void set_write_observer(WriteObserver observer, void* context) {
        observer_context_ = context;
        observer_ = observer;
    }

    /// Gives the pages back to the host; they read as zero afterwards. Page-aligned; read-only regions refuse.
    Result<> discard(Gpa address, u64 size);

    /// Bytes of guest memory now resident in host RAM (mincore/proc; slow).
    u64 resident_bytes() const;

  private:
    Result<> copy(Gpa address, u64 size, bool for_write, bool ignore_read_only, auto&& piece) const;

    Options options_;
    std::vector<std::unique_ptr<Region>> regions_;  // sorted by base
    std::atomic<bool> dirty_logging_{false};
    WriteObserver observer_ = nullptr;
    void* observer_context_ = nullptr;
};

}  // namespace vezha::memory
