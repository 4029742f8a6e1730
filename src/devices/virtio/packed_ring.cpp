// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/ring.h"

namespace vezha::devices::virtio {

/// The packed virtqueue. Source: virtio 1.2, 2.8.
class PackedRing final : public Ring {
    struct Descriptor {
        u64 address;
        u32 length;
        u16 id, flags;
    };
    static constexpr u16 kAvailable = 1 << 7, kUsed = 1 << 15;
    // Event suppression structures: { u16 offset and wrap counter, u16 flags }.
    static constexpr u16 kEventsOn = 0, kEventsOff = 1, kEventsAt = 2;

    u8* ring_;
    u8* driver_events_;  // the driver's wish for interrupts
    u8* device_events_;  // ours for notifications
    u16 next_avail_, next_used_;
    bool avail_wrap_, used_wrap_;
    u32 in_flight_ = 0;   // ring slots
    u32 unsignalled_ = 0; // ring slots used since the last decision about an interrupt
    u16 staged_at_ = 0;   // first entry written but not shown: its flags come last
    u16 staged_flags_ = 0;
    bool staged_ = false, signalled_valid_ = false, notify_off_ = false;

    u8* slot(u16 index) const { return ring_ + 16 * u64{index}; }
    static void advance(u16& index, bool& wrap, u16 count, u16 size) {
        u32 next = u32{index} + count;
        if (next >= size) {
            next -= size;
            wrap = !wrap;
        }
        index = static_cast<u16>(next);
    }
    bool available() const {
        const u16 flags = load16(slot(next_avail_) + 14);
        return ((flags & kAvailable) != 0) == avail_wrap_ && ((flags & kUsed) != 0) != avail_wrap_;
    }

  public:
    PackedRing(memory::GuestMemory& memory, const RingLayout& layout, RingPosition start, u8* ring, u8* driver, u8* device)
        : Ring(memory, layout), ring_(ring), driver_events_(driver), device_events_(device), next_avail_(start.available),
          next_used_(start.used), avail_wrap_(start.available_wrap), used_wrap_(start.used_wrap) {}

    Result<bool> pop(Chain& chain) override {
        if (!available()) {
            ask_for_notification();
            if (!available()) return false;
        }
        if (!layout_.event_index && !notify_off_) {
            store16(device_events_ + 2, layout_.device + 2, kEventsOff, std::memory_order_relaxed);
            notify_off_ = true;
        }
        ChainBuilder builder(memory_, chain);
        u16 index = next_avail_, count = 0;
        for (;;) {
            if (++count + in_flight_ > layout_.size)
                return fail(ErrorCode::Corrupt, "more descriptors available than the ring of {} has", layout_.size);
            const auto descriptor = fetch<Descriptor>(slot(index));
            const DescriptorView view{descriptor.address, descriptor.length, descriptor.flags};
            chain.id_ = descriptor.id;  // the last one's counts (2.8.6)
            if (descriptor.flags & kDescriptorIndirect) {
                TRY(add_indirect(builder, view, true));
                break;
            }
            TRY(builder.add(view));
            if (!(descriptor.flags & kDescriptorNext)) break;
            index = static_cast<u16>(index + 1 == layout_.size ? 0 : index + 1);
        }
        chain.slots_ = count;
        advance(next_avail_, avail_wrap_, count, layout_.size);
        in_flight_ += count;
        return true;
    }

    void unpop(const Chain& chain) override {
        if (next_avail_ < chain.slots_) {
            next_avail_ = static_cast<u16>(next_avail_ + layout_.size);
            avail_wrap_ = !avail_wrap_;
        }
        next_avail_ = static_cast<u16>(next_avail_ - chain.slots_);
        in_flight_ -= chain.slots_;
    }

    void push(const Chain& chain, u32 written) override {
        mark_written(chain, written);
        u8* at = slot(next_used_);
        memory_.mark_dirty(layout_.descriptors + 16 * u64{next_used_}, 16);
        std::memcpy(at + 8, &written, 4);
        std::memcpy(at + 12, &chain.id_, 2);
        const u16 flags = static_cast<u16>((used_wrap_ ? kAvailable | kUsed : 0) | (written ? kDescriptorWrite : 0));
        if (!staged_) {
            staged_ = true;
            staged_at_ = next_used_;
            staged_flags_ = flags;
        } else {
            store16(at + 14, layout_.descriptors + (16 * u64{next_used_} + 14), flags);
        }
        advance(next_used_, used_wrap_, chain.slots_, layout_.size);
        in_flight_ -= chain.slots_;
        unsignalled_ += chain.slots_;
    }

    bool flush() override {
        if (!staged_) return false;
        staged_ = false;
        store16(slot(staged_at_) + 14, layout_.descriptors + (16 * u64{staged_at_} + 14), staged_flags_);
        std::atomic_thread_fence(std::memory_order_seq_cst);
        const u16 mode = load16(driver_events_ + 2) & 3;
        const u32 moved = unsignalled_;
        const bool first = !signalled_valid_;
        unsignalled_ = 0;
        signalled_valid_ = true;
        if (mode == kEventsOff) return false;
        if (mode != kEventsAt || !layout_.event_index || first) return true;
        // 2.8.10: how far behind our used position is the entry that the driver named?
        const u16 event = load16(driver_events_, std::memory_order_relaxed);
        const u16 at = event & 0x7fff;
        const bool wrap = event >> 15;
        i32 behind = i32{next_used_} - at;
        if (wrap != used_wrap_) behind += layout_.size;
        return behind >= 1 && static_cast<u32>(behind) <= moved;
    }

    RingPosition position() const override {
        return {next_avail_, next_used_, static_cast<u8>(avail_wrap_), static_cast<u8>(used_wrap_)};
    }

  private:
    void ask_for_notification() {
        if (layout_.event_index) {
            const u16 event = static_cast<u16>(next_avail_ | (avail_wrap_ ? 0x8000 : 0));
            store16(device_events_, layout_.device, event, std::memory_order_relaxed);
            store16(device_events_ + 2, layout_.device + 2, kEventsAt);
        } else if (notify_off_) {
            store16(device_events_ + 2, layout_.device + 2, kEventsOn);
        }
        notify_off_ = false;
        std::atomic_thread_fence(std::memory_order_seq_cst);
    }
};

Result<std::unique_ptr<Ring>> new_packed_ring(memory::GuestMemory& memory, const RingLayout& layout, RingPosition start) {
    const u64 size = layout.size;
    if (size == 0 || size > 32768) return fail(ErrorCode::Corrupt, "a packed ring of {} entries", size);
    if (start.available >= size || start.used >= size || start.available_wrap > 1 || start.used_wrap > 1)
        return fail(ErrorCode::Corrupt, "a position outside a ring of {} entries", size);
    if (!is_aligned(layout.descriptors.value, 16) || !is_aligned(layout.driver.value, 4) || !is_aligned(layout.device.value, 4))
        return fail(ErrorCode::Corrupt, "a misaligned ring");
    u8* ring = memory.host_range(layout.descriptors, 16 * size, true);
    u8* driver = memory.host_range(layout.driver, 4, false);
    u8* device = memory.host_range(layout.device, 4, true);
    if (!ring || !driver || !device) return fail(ErrorCode::Corrupt, "a ring outside of memory");
    return std::make_unique<PackedRing>(memory, layout, start, ring, driver, device);
}

}  // namespace vezha::devices::virtio
