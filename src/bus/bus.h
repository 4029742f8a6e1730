// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <shared_mutex>
#include <string>
#include <vector>

#include "base/fd.h"
#include "bus/device.h"

namespace vezha::bus {

enum class Space : u8 { Mmio, Pio };

/// A place whose write only signals an event: virtqueue notifications. KVM handles it without an exit (ioeventfd).
struct Doorbell {
    Space space;
    u64 address;
    unsigned size;  ///< 0: any size
    std::optional<u64> match;  ///< only writes of this value
    int event_fd;
    bool operator==(const Doorbell&) const = default;
};

/// Told of doorbells as they come and go; implemented by the KVM engine. Called with the topology locked.
class DoorbellListener {
  public:
    virtual ~DoorbellListener() = default;
    virtual void doorbell_added(const Doorbell& doorbell) = 0;
    virtual void doorbell_removed(const Doorbell& doorbell) = 0;
};

/// The two address spaces of a VM (memory-mapped and port I/O) and who answers where. vCPU threads call read() and
/// write(); the device's mutex is held meanwhile. Topology changes made from within a device access (a BAR write) take
/// effect when the access is complete, before the vCPU goes on.
class Bus {
  public:
    Bus();
    ~Bus();

    /// A mapping ends when this is destroyed.
    class Mapping {
      public:
        ~Mapping();
        Mapping(const Mapping&) = delete;
        Mapping& operator=(const Mapping&) = delete;
        /// Moves or hides (nullopt) the range; deferred within an access.
        void move(std::optional<u64> base);

      private:
        friend class Bus;
        Mapping(Bus& bus, u64 id) : bus_(bus), id_(id) {}
        Bus& bus_;
        u64 id_;
    };

    /// Maps `size` bytes; where ranges overlap, the higher `priority` answers, then the later mapping. `base` nullopt:
    /// not visible yet. @param range passed to the device. @return OutOfRange for an empty or wrapping range.
    Result<std::unique_ptr<Mapping>> map(Space space, std::optional<u64> base, u64 size, Device& device, u32 range,
                                         std::string name, int priority = 0);

    /// A guest access of 1, 2, 4 or 8 bytes. Reads of nobody's addresses are all ones, writes are dropped.
    u64 read(Space space, u64 address, unsigned size);
    void write(Space space, u64 address, unsigned size, u64 value);

    class DoorbellHandle {
      public:
        ~DoorbellHandle();
        DoorbellHandle(const DoorbellHandle&) = delete;
        DoorbellHandle& operator=(const DoorbellHandle&) = delete;

      private:
        friend class Bus;
        DoorbellHandle(Bus& bus, Doorbell doorbell) : bus_(bus), doorbell_(doorbell) {}
        Bus& bus_;
        Doorbell doorbell_;
    };
    /// Takes precedence over mappings. Deferred within an access, like move().
    std::unique_ptr<DoorbellHandle> add_doorbell(const Doorbell& doorbell);
    /// Announces the existing doorbells at once. nullptr ends it.
    void set_doorbell_listener(DoorbellListener* listener);

    /// Runs `change` now, or, on a thread that is inside an access, right after that access with no lock held.
    void after_access(std::function<void()> change);

    struct MappingInfo {
        Space space;
        u64 base, size;
        std::string name;
        int priority;
    };
    /// Visible mappings sorted by space and base, for people and tests.
    std::vector<MappingInfo> mappings() const;

  private:
    struct Range {
        u64 id;
        Space space;
        std::optional<u64> base;
        u64 size;
        Device* device;
        u32 range;
        std::string name;
        int priority;
    };
    struct Flat {  // non-overlapping, sorted: what answers where
        u64 start, last;
        Device* device;
        u32 range;
        u64 range_base;
    };
    const Flat* find(Space space, u64 address) const;
    bool ring_doorbell(Space space, u64 address, unsigned size, u64 value) const;
    void flatten_locked();
    template <class Access>
    void with_topology(Access&& access);

    mutable std::shared_mutex topology_;
    std::vector<Range> ranges_;  // in order of mapping
    std::vector<Flat> flat_[2];
    std::vector<Doorbell> doorbells_;
    DoorbellListener* listener_ = nullptr;
    u64 next_id_ = 1;
};

}  // namespace vezha::bus
