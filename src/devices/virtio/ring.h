// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <memory>

#include "devices/virtio/chain.h"

namespace vezha::devices::virtio {

/// Where a ring lies; the driver writes these. virtio 1.2, 4.1.4.3.
struct RingLayout {
    memory::Gpa descriptors, driver, device;
    u16 size = 0;  ///< entries
    bool event_index = false;
};

/// How far the device is, between chains in flight.
struct RingPosition {
    u16 available = 0, used = 0;  ///< free-running (split) or an index into the ring (packed)
    u8 available_wrap = 1, used_wrap = 1;  ///< packed layout only
};

/// The device's side of one ring. Everything in the ring is hostile: each method reads guest bytes once, does bounded
/// work and stays inside guest memory. @return Corrupt or OutOfRange where the driver broke the rules; the ring is not
/// usable afterwards. Not thread-safe: Queue is.
class Ring {
  public:
    virtual ~Ring() = default;
    /// Takes the next available chain. False: there is none, and the driver was asked to notify us of the next.
    virtual Result<bool> pop(Chain& chain) = 0;
    /// Puts back the chain popped last, as if it had not been taken. Several go back in reverse order.
    virtual void unpop(const Chain& chain) = 0;
    /// Prepares a used entry; the driver sees it after flush().
    virtual void push(const Chain& chain, u32 written) = 0;
    /// Shows the driver what was pushed. True if it wants an interrupt.
    virtual bool flush() = 0;
    virtual RingPosition position() const = 0;

  protected:
    explicit Ring(memory::GuestMemory& memory, const RingLayout& layout) : memory_(memory), layout_(layout) {}
    u16 load16(const u8* at, std::memory_order order = std::memory_order_acquire) const {
        return std::atomic_ref<const u16>(*reinterpret_cast<const u16*>(at)).load(order);
    }
    void store16(u8* at, memory::Gpa address, u16 value, std::memory_order order = std::memory_order_release) {
        memory_.mark_dirty(address, 2);
        std::atomic_ref<u16>(*reinterpret_cast<u16*>(at)).store(value, order);
    }
    /// Adds the descriptors of an indirect table. @param packed: in order, without `next`
    Result<> add_indirect(ChainBuilder& builder, const DescriptorView& table, bool packed);
    void mark_written(const Chain& chain, u32 written);

    memory::GuestMemory& memory_;
    const RingLayout layout_;
};

/// virtio 1.2, 2.7. @return Corrupt for a size, alignment or address that no driver may choose
Result<std::unique_ptr<Ring>> new_split_ring(memory::GuestMemory& memory, const RingLayout& layout, RingPosition start);
/// virtio 1.2, 2.8.
Result<std::unique_ptr<Ring>> new_packed_ring(memory::GuestMemory& memory, const RingLayout& layout, RingPosition start);

}  // namespace vezha::devices::virtio
