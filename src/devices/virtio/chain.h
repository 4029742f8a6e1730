// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/uio.h>

#include <cstring>
#include <span>
#include <vector>

#include "memory/guest_memory.h"

namespace vezha::devices::virtio {

/// One buffer that the driver made available: host pieces to read from, then host pieces to write to. The pieces lie in
/// guest memory and were checked; the bytes in them may change at any time. Keep a Chain to reuse its storage.
/// Source: virtio 1.2, 2.6.4.
class Chain {
  public:
    std::span<const iovec> readable() const { return std::span(pieces_).first(readable_count_); }
    std::span<const iovec> writable() const { return std::span(pieces_).subspan(readable_count_); }
    u64 readable_bytes() const { return readable_bytes_; }
    u64 writable_bytes() const { return writable_bytes_; }

  private:
    friend class ChainBuilder;
    friend class SplitRing;
    friend class PackedRing;
    friend class Queue;
    std::vector<iovec> pieces_;
    usize readable_count_ = 0;
    u64 readable_bytes_ = 0, writable_bytes_ = 0;
    u16 id_ = 0;          // what the used ring names
    u16 slots_ = 0;       // descriptors of the ring it takes (packed layout); 1 for a split ring
    u32 generation_ = 0;  // of the queue when it was popped
};

/// A descriptor as both layouts have it: address, length, flags.
struct DescriptorView {
    u64 address;
    u32 length;
    u16 flags;
};

inline constexpr u16 kDescriptorNext = 1, kDescriptorWrite = 2, kDescriptorIndirect = 4;

/// Copies a value that the guest may change meanwhile; the compiler may not read it again.
template <class T>
T fetch(const u8* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    asm volatile("" ::: "memory");
    return value;
}

/// Appends descriptors to a Chain and refuses what no driver may do: memory that is not there, readable after writable,
/// too many of them, more than 4 GiB.
class ChainBuilder {
  public:
    /// Longest chain taken; the specification's own limit is the queue's size, which some drivers exceed by a few.
    static constexpr u32 kMaxDescriptors = 1024;

    ChainBuilder(const memory::GuestMemory& memory, Chain& chain);
    Result<> add(const DescriptorView& descriptor);

  private:
    const memory::GuestMemory& memory_;
    Chain& chain_;
    u32 count_ = 0;
};

// Scatter lists ---------------------------------------------------------------------------------------------------------

/// Copies out of `pieces` from byte `offset` on. @return bytes copied, fewer at the end of the pieces
usize copy_from(std::span<const iovec> pieces, u64 offset, std::span<u8> out);
/// Copies into `pieces` from byte `offset` on. @return bytes copied
usize copy_to(std::span<const iovec> pieces, u64 offset, std::span<const u8> bytes);
/// Appends to `out` the bytes [offset, offset+length) of `pieces`, or as many of them as there are.
void slice(std::span<const iovec> pieces, u64 offset, u64 length, std::vector<iovec>& out);

template <class T>
bool read_object(std::span<const iovec> pieces, u64 offset, T& out) {
    static_assert(std::is_trivially_copyable_v<T>);
    return copy_from(pieces, offset, {reinterpret_cast<u8*>(&out), sizeof out}) == sizeof out;
}
template <class T>
bool write_object(std::span<const iovec> pieces, u64 offset, const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    return copy_to(pieces, offset, {reinterpret_cast<const u8*>(&value), sizeof value}) == sizeof value;
}

}  // namespace vezha::devices::virtio
