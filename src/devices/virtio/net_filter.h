// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bitset>
#include <mutex>
#include <span>
#include <vector>

#include "base/types.h"
#include "net/backend.h"

namespace vezha::devices::virtio {

/// Which frames the driver wants. Any thread. Source: virtio 1.2, 5.1.6.5.1 to 5.1.6.5.3.
class NetFilter {
  public:
    enum Mode : u8 { Promiscuous, AllMulticast, AllUnicast, NoMulticast, NoUnicast, NoBroadcast, kModes };
    static constexpr usize kMaxAddresses = 1024;  ///< of each kind; more than that means all

    /// Unused device: everything passes.
    void reset(const net::MacAddress& own);
    void set_own(const net::MacAddress& own);
    void set_mode(Mode mode, bool on);
    void set_tables(std::vector<net::MacAddress> unicast, std::vector<net::MacAddress> multicast);
    /// From now on tagged frames pass only for VLANs that were added.
    void filter_vlans(bool on);
    void set_vlan(u16 id, bool on);
    /// @param frame the first 18 bytes of an Ethernet frame, or all of a shorter one
    bool accepts(std::span<const u8> frame) const;

    struct Saved {
        net::MacAddress own;
        std::array<bool, kModes> modes;
        bool filter_vlans;
        std::array<u64, 64> vlans;
    };
    void save(Saved& fixed, std::vector<net::MacAddress>& unicast, std::vector<net::MacAddress>& multicast) const;
    void load(const Saved& fixed, std::vector<net::MacAddress> unicast, std::vector<net::MacAddress> multicast);

  private:
    mutable std::mutex mutex_;
    Saved now_{};
    std::vector<net::MacAddress> unicast_, multicast_;  // sorted
};

}  // namespace vezha::devices::virtio
