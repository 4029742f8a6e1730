// SPDX-License-Identifier: Apache-2.0
#include <bit>

#include "devices/virtio/ring.h"

namespace vezha::devices::virtio {

/// The split virtqueue. Source: virtio 1.2, 2.7.
class SplitRing final : public Ring {
    struct Descriptor {
        u64 address;
        u32 length;
        u16 flags, next;
    };
    struct UsedElement {
        u32 id, length;
    };
    static constexpr u16 kNoInterrupt = 1;  // avail.flags
    static constexpr u16 kNoNotify = 1;     // used.flags

    u8* descriptors_;
    u8* avail_;  // flags, idx, ring[size], used_event
    u8* used_;   // flags, idx, ring[size], avail_event
    u16 next_avail_, used_index_;
    u16 staged_ = 0;       // used entries written but not shown
    u32 in_flight_ = 0;
    u16 signalled_ = 0;    // used index at the last decision about an interrupt
    bool signalled_valid_ = false;
    bool notify_off_ = false;

    u16 mask() const { return static_cast<u16>(layout_.size - 1); }
    u8* used_event() const { return avail_ + 4 + 2 * layout_.size; }
    u8* avail_event() const { return used_ + 4 + 8 * layout_.size; }
    memory::Gpa used_gpa(const u8* at) const { return layout_.device + static_cast<u64>(at - used_); }

  public:
    SplitRing(memory::GuestMemory& memory, const RingLayout& layout, RingPosition start, u8* descriptors, u8* avail, u8* used)
        : Ring(memory, layout), descriptors_(descriptors), avail_(avail), used_(used), next_avail_(start.available),
          used_index_(start.used) {}

    Result<bool> pop(Chain& chain) override {
        u16 pending = static_cast<u16>(load16(avail_ + 2) - next_avail_);
        if (pending == 0) {
            ask_for_notification();
            pending = static_cast<u16>(load16(avail_ + 2) - next_avail_);
            if (pending == 0) return false;
        }
        if (pending + in_flight_ > layout_.size)
            return fail(ErrorCode::Corrupt, "{} chains available and {} in flight in a ring of {}", pending, in_flight_,
                        layout_.size);
        if (!layout_.event_index && !notify_off_) {
            store16(used_, layout_.device, kNoNotify, std::memory_order_relaxed);
            notify_off_ = true;
        }
        const u16 head = load16(avail_ + 4 + 2 * (next_avail_ & mask()), std::memory_order_relaxed);
        ChainBuilder builder(memory_, chain);
        for (u16 index = head;;) {
            if (index >= layout_.size) return fail(ErrorCode::Corrupt, "descriptor {} of {}", index, layout_.size);
            const auto descriptor = fetch<Descriptor>(descriptors_ + 16 * u64{index});
            const DescriptorView view{descriptor.address, descriptor.length, descriptor.flags};
            if (descriptor.flags & kDescriptorIndirect) {
                TRY(add_indirect(builder, view, false));
                break;
            }
            TRY(builder.add(view));  // bounds the number of steps
            if (!(descriptor.flags & kDescriptorNext)) break;
            index = descriptor.next;
        }
        chain.id_ = head;
        chain.slots_ = 1;
        ++next_avail_;
        ++in_flight_;
        return true;
    }

    void unpop(const Chain&) override {
        --next_avail_;
        --in_flight_;
    }

    void push(const Chain& chain, u32 written) override {
        mark_written(chain, written);
        u8* at = used_ + 4 + 8 * (static_cast<u16>(used_index_ + staged_) & mask());
        const UsedElement element{chain.id_, written};
        memory_.mark_dirty(used_gpa(at), sizeof element);
        std::memcpy(at, &element, sizeof element);
        ++staged_;
        --in_flight_;
    }

    bool flush() override {
        if (staged_ == 0) return false;
        used_index_ = static_cast<u16>(used_index_ + staged_);
        staged_ = 0;
        store16(used_ + 2, used_gpa(used_ + 2), used_index_);
        // The driver writes its event, then looks at the index: we the other way round.
        std::atomic_thread_fence(std::memory_order_seq_cst);
        if (!layout_.event_index) return !(load16(avail_) & kNoInterrupt);
        const u16 event = load16(used_event());
        const u16 old = signalled_;
        const bool first = !signalled_valid_;
        signalled_ = used_index_;
        signalled_valid_ = true;
        // virtio 1.2, 2.7.7.2: did the index move past the event?
        return first || static_cast<u16>(used_index_ - event - 1) < static_cast<u16>(used_index_ - old);
    }

    RingPosition position() const override { return {next_avail_, used_index_, 1, 1}; }

  private:
    void ask_for_notification() {
        if (layout_.event_index) store16(avail_event(), used_gpa(avail_event()), next_avail_, std::memory_order_relaxed);
        else if (notify_off_) store16(used_, layout_.device, 0, std::memory_order_relaxed);
        notify_off_ = false;
        std::atomic_thread_fence(std::memory_order_seq_cst);
    }
};

Result<std::unique_ptr<Ring>> new_split_ring(memory::GuestMemory& memory, const RingLayout& layout, RingPosition start) {
    const u64 size = layout.size;
    if (size == 0 || size > 32768 || !std::has_single_bit(size)) return fail(ErrorCode::Corrupt, "a split ring of {} entries", size);
    if (!is_aligned(layout.descriptors.value, 16) || !is_aligned(layout.driver.value, 2) || !is_aligned(layout.device.value, 4))
        return fail(ErrorCode::Corrupt, "a misaligned ring");
    u8* descriptors = memory.host_range(layout.descriptors, 16 * size, false);
    u8* avail = memory.host_range(layout.driver, 6 + 2 * size, false);
    u8* used = memory.host_range(layout.device, 6 + 8 * size, true);
    if (!descriptors || !avail || !used) return fail(ErrorCode::Corrupt, "a ring outside of memory");
    return std::make_unique<SplitRing>(memory, layout, start, descriptors, avail, used);
}

}  // namespace vezha::devices::virtio
