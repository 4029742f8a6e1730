// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <vector>

#include "base/check.h"
#include "devices/pci/pci_bus.h"
#include "devices/virtio/pci_device.h"

/// What tests and fuzzers use in place of a guest's virtio driver: it finds a device through PCI, negotiates, and builds
/// rings of either layout in guest memory.
namespace vezha::devices::virtio::model {

inline constexpr u64 kBar = 0xc000'0000;

/// Collects messages by vector number (data).
struct Sink final : bus::MsiSink {
    struct Route final : bus::MsiRoute {
        explicit Route(Sink& s) : sink(s) {}
        void set(const bus::MsiMessage& m) override { message = m; }
        void trigger() override { sink.send(message); }
        int event_fd() override { return -1; }
        Sink& sink;
        bus::MsiMessage message;
    };
    void send(const bus::MsiMessage& message) override {
        std::lock_guard lock(mutex);
        ++counts[message.data];
    }
    Result<std::unique_ptr<bus::MsiRoute>> new_route() override { return std::make_unique<Route>(*this); }
    /// How often a vector came since the last question.
    u32 take(u32 data) {
        std::lock_guard lock(mutex);
        return std::exchange(counts[data], 0);
    }
    std::mutex mutex;
    std::map<u32, u32> counts;
};

struct Router final : pci::IntxRouter {
    void set_intx(u8, u8, bool asserted) override { level = asserted; }
    bool level = false;
};

/// A machine with memory, a loop that runs when asked, and one slot.
struct Board {
    static constexpr u64 kRam = 8 * kMiB;
    Board() : memory({.huge_pages = false}) { CHECK(memory.add_region("ram", memory::Gpa{0}, kRam).has_value()); }
    memory::GuestMemory memory;
    bus::Bus bus;
    Sink sink;
    Router router;
    pci::PciBus root{router};
    std::unique_ptr<EventLoop> loop = EventLoop::create("test").value();
    Wiring wiring{bus, sink, memory};
    /// Serves what is ready, and what comes of that.
    void serve(unsigned rounds = 4) {
        while (rounds--) loop->run_once(0);
    }
};

struct Piece {
    u64 address;
    u32 length;
    bool write;
};

/// The driver's side of one ring.
class DriverRing {
  public:
    DriverRing(memory::GuestMemory& memory, u64 base, u16 size, bool packed, bool event_index)
        : memory_(memory), size_(size), packed_(packed), event_index_(event_index), descriptors(base),
          driver(base + align_up(16u * size, 16)), device(align_up(driver + 8 + 2 * size, 16)),
          tables_(align_up(device + 8 + 8 * size, 4096)) {
        for (u16 i = 0; i < size; ++i) free_.push_back(static_cast<u16>(size - 1 - i));
        counts_.resize(size);
    }
    static constexpr u64 kBytes = 64 * kKiB;

    /// @return the buffer's id. @param indirect: through a table of its own
    u16 add(const std::vector<Piece>& pieces, bool indirect = false) {
        const u16 id = free_.back();
        if (packed_) return add_packed(id, pieces, indirect);
        std::vector<u16> slots;
        const usize needed = indirect ? 1 : pieces.size();
        CHECK(free_.size() >= needed);
        for (usize i = 0; i < needed; ++i) {
            slots.push_back(free_.back());
            free_.pop_back();
        }
        if (indirect) {
            const u64 table = tables_ + 256u * slots[0];
            for (usize i = 0; i < pieces.size(); ++i)
                put(table + 16 * i, pieces[i].address, pieces[i].length,
                    static_cast<u16>(pieces[i].write * 2 | (i + 1 < pieces.size())), static_cast<u16>(i + 1));
            put(descriptors + 16u * slots[0], table, static_cast<u32>(16 * pieces.size()), 4, 0);
        } else {
            for (usize i = 0; i < pieces.size(); ++i)
                put(descriptors + 16u * slots[i], pieces[i].address, pieces[i].length,
                    static_cast<u16>(pieces[i].write * 2 | (i + 1 < pieces.size())),
                    i + 1 < pieces.size() ? slots[i + 1] : u16{0});
        }
        counts_[id] = slots;
        set<u16>(driver + 4 + 2 * (available_ % size_), id);
        set<u16>(driver + 2, ++available_);
        return id;
    }

    struct Used {
        u16 id;
        u32 length;
    };
    std::optional<Used> take() {
        if (packed_) return take_packed();
        if (get<u16>(device + 2) == used_) return std::nullopt;
        const Used out{static_cast<u16>(get<u32>(device + 4 + 8 * (used_ % size_))), get<u32>(device + 8 + 8 * (used_ % size_))};
        ++used_;
        if (event_index_) set<u16>(driver + 4 + 2 * size_, used_);
        for (auto it = counts_[out.id].rbegin(); it != counts_[out.id].rend(); ++it) free_.push_back(*it);
        counts_[out.id].clear();
        return out;
    }
    /// Would a driver notify the device now?
    bool must_kick(u16 added = 1) {
        if (packed_) {
            const u16 flags = get<u16>(device + 2);
            if (flags != 2) return flags == 0;
            const u16 event = get<u16>(device);
            i32 behind = i32{next_} - (event & 0x7fff);
            if ((event >> 15) != wrap_) behind += size_;
            return behind >= 1 && behind <= added;
        }
        if (!event_index_) return !(get<u16>(device) & 1);
        const u16 event = get<u16>(device + 4 + 8 * size_);
        return static_cast<u16>(available_ - event - 1) < added;
    }
    u16 size() const { return size_; }

    template <class T>
    T get(u64 at) const { return memory_.read_object<T>({at}).value(); }
    template <class T>
    void set(u64 at, T value) { CHECK(memory_.write_object(memory::Gpa{at}, value).has_value()); }
    void put(u64 at, u64 address, u32 length, u16 third, u16 fourth) {
        set(at, address);
        set(at + 8, length);
        set(at + 12, third);
        set(at + 14, fourth);
    }

  private:
    memory::GuestMemory& memory_;
    const u16 size_;
    const bool packed_, event_index_;

  public:
    const u64 descriptors, driver, device;

  private:
    u16 add_packed(u16 id, const std::vector<Piece>& pieces, bool indirect) {
        free_.pop_back();
        const u16 head = next_;
        const u16 head_flags = wrap_ ? 0x80 : 0x8000;
        u16 first_flags = 0;
        const auto write = [&](u64 address, u32 length, u16 flags) {
            const u16 mark = wrap_ ? 0x80 : 0x8000;
            const u64 at = descriptors + 16u * next_;
            set(at, address);
            set(at + 8, length);
            set(at + 12, id);
            if (next_ == head && !first_flags) first_flags = static_cast<u16>(flags | head_flags);
            else set<u16>(at + 14, flags | mark);
            if (++next_ == size_) {
                next_ = 0;
                wrap_ = !wrap_;
            }
        };
        if (indirect) {
            const u64 table = tables_ + 256u * id;
            for (usize i = 0; i < pieces.size(); ++i)
                put(table + 16 * i, pieces[i].address, pieces[i].length, 0, static_cast<u16>(pieces[i].write * 2));
            write(table, static_cast<u32>(16 * pieces.size()), 4);
        } else {
            for (usize i = 0; i < pieces.size(); ++i)
                write(pieces[i].address, pieces[i].length, static_cast<u16>(pieces[i].write * 2 | (i + 1 < pieces.size())));
        }
        counts_[id].assign(indirect ? 1 : pieces.size(), 0);
        set<u16>(descriptors + 16u * head + 14, first_flags);
        return id;
    }
    std::optional<Used> take_packed() {
        const u64 at = descriptors + 16u * used_;
        const u16 flags = get<u16>(at + 14);
        if (((flags >> 7) & 1) != used_wrap_ || ((flags >> 15) & 1) != used_wrap_) return std::nullopt;
        const Used out{get<u16>(at + 12), get<u32>(at + 8)};
        used_ = static_cast<u16>(used_ + counts_[out.id].size());
        if (used_ >= size_) {
            used_ = static_cast<u16>(used_ - size_);
            used_wrap_ = !used_wrap_;
        }
        if (event_index_) {
            set<u16>(driver, static_cast<u16>(used_ | (used_wrap_ ? 0x8000 : 0)));
            set<u16>(driver + 2, 2);
        }
        free_.push_back(out.id);
        return out;
    }

    const u64 tables_;
    std::vector<u16> free_;
    std::vector<std::vector<u16>> counts_;
    u16 available_ = 0, used_ = 0, next_ = 0;
    bool wrap_ = true, used_wrap_ = true;
};

/// Drives one device through its registers.
class Driver {
  public:
    /// Puts the device in slot 4 and finds its BAR and MSI-X.
    Driver(Board& board, PciDevice& device) : board_(board), device_(device) {
        if (!device.parent()) CHECK(board.root.add(device, pci::Slot{4, 0}).has_value());
        config(pci::kBar0, 4, static_cast<u32>(kBar));
        config(pci::kBar0 + 4, 4, 0);
        config(pci::kCommand, 2, pci::kCommandMemory | pci::kCommandMaster);
        for (u8 at = static_cast<u8>(read_config(pci::kCapabilities, 1)); at; at = static_cast<u8>(read_config(at + 1, 1)))
            if (read_config(at, 1) == pci::kCapMsix) msix_ = at;
    }
    u32 read_config(u16 at, unsigned size) { return board_.root.config_read(0, {4, 0}, at, size); }
    void config(u16 at, unsigned size, u32 value) { board_.root.config_write(0, {4, 0}, at, size, value); }
    u64 get(u64 at, unsigned size) { return board_.bus.read(bus::Space::Mmio, kBar + at, size); }
    void set(u64 at, unsigned size, u64 value) { board_.bus.write(bus::Space::Mmio, kBar + at, size, value); }
    u8 status() { return static_cast<u8>(get(common::kStatus, 1)); }
    u64 offered() {
        set(common::kDeviceFeatureSelect, 4, 0);
        const u64 low = get(common::kDeviceFeature, 4);
        set(common::kDeviceFeatureSelect, 4, 1);
        return low | get(common::kDeviceFeature, 4) << 32;
    }
    /// Message for vector n carries data 0x100 + n.
    void use_msix() {
        for (u32 i = 0; i < device_.msix().vectors(); ++i) {
            set(kMsixAt + 16 * i, 4, 0xfee0'0000);
            set(kMsixAt + 16 * i + 8, 4, 0x100 + i);
            set(kMsixAt + 16 * i + 12, 4, 0);
        }
        config(static_cast<u16>(msix_ + 2), 2, 0x8000);
    }
    bool negotiate(u64 features) {
        set(common::kStatus, 1, 0);
        set(common::kStatus, 1, kStatusAcknowledge);
        set(common::kStatus, 1, kStatusAcknowledge | kStatusDriver);
        features |= bit(kVersion1);
        features_ = features;
        set(common::kDriverFeatureSelect, 4, 0);
        set(common::kDriverFeature, 4, features & 0xffff'ffff);
        set(common::kDriverFeatureSelect, 4, 1);
        set(common::kDriverFeature, 4, features >> 32);
        set(common::kStatus, 1, kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk);
        return status() & kStatusFeaturesOk;
    }
    DriverRing& setup(u16 index, u16 size = 0) {
        set(common::kQueueSelect, 2, index);
        if (size) set(common::kQueueSize, 2, size);
        size = static_cast<u16>(get(common::kQueueSize, 2));
        const u64 base = 0x1'0000 + index * DriverRing::kBytes;
        auto ring = std::make_unique<DriverRing>(board_.memory, base, size, features_ >> kRingPacked & 1, features_ >> kRingEventIndex & 1);
        const std::vector<u8> zeroes(DriverRing::kBytes);
        CHECK(board_.memory.write({base}, zeroes).has_value());
        set(common::kQueueDesc, 4, ring->descriptors);
        set(common::kQueueDesc + 4, 4, 0);
        set(common::kQueueDriver, 8, ring->driver);
        set(common::kQueueDevice, 8, ring->device);
        set(common::kQueueVector, 2, index + 1u);
        set(common::kQueueEnable, 2, 1);
        auto& place = rings_[index];
        place = std::move(ring);
        return *place;
    }
    void ready() {
        set(common::kConfigVector, 2, 0);
        set(common::kStatus, 1, 0x0f);
        board_.serve();
    }
    /// Everything at once.
    void start(u64 features, u16 queues) {
        use_msix();
        CHECK(negotiate(features));
        for (u16 i = 0; i < queues; ++i) setup(i);
        ready();
    }
    DriverRing& ring(u16 index) { return *rings_[index]; }
    void kick(u16 index) { set(kNotifyAt + index * kNotifyMultiplier, 2, index); }
    /// Adds, notifies, serves until the buffer is back. @return the used length
    std::optional<u32> submit(u16 index, const std::vector<Piece>& pieces, bool indirect = false) {
        ring(index).add(pieces, indirect);
        kick(index);
        for (unsigned i = 0; i < 200; ++i) {
            board_.loop->run_once(i < 4 ? 0 : 10);
            if (auto used = ring(index).take()) return used->length;
        }
        return std::nullopt;
    }

  private:
    Board& board_;
    PciDevice& device_;
    u8 msix_ = 0;
    u64 features_ = 0;
    std::map<u16, std::unique_ptr<DriverRing>> rings_;
};

}  // namespace vezha::devices::virtio::model
