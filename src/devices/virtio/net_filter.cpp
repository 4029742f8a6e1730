// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/net_filter.h"

#include <algorithm>
#include <cstring>

namespace vezha::devices::virtio {

void NetFilter::reset(const net::MacAddress& own) {
    std::lock_guard lock(mutex_);
    now_ = {};
    now_.own = own;
    now_.modes[Promiscuous] = true;
    unicast_.clear();
    multicast_.clear();
}

void NetFilter::set_own(const net::MacAddress& own) {
    std::lock_guard lock(mutex_);
    now_.own = own;
}

void NetFilter::set_mode(Mode mode, bool on) {
    std::lock_guard lock(mutex_);
    now_.modes[mode] = on;
}

void NetFilter::set_tables(std::vector<net::MacAddress> unicast, std::vector<net::MacAddress> multicast) {
    std::sort(unicast.begin(), unicast.end());
    std::sort(multicast.begin(), multicast.end());
    std::lock_guard lock(mutex_);
    unicast_ = std::move(unicast);
    multicast_ = std::move(multicast);
}

void NetFilter::filter_vlans(bool on) {
    std::lock_guard lock(mutex_);
    now_.filter_vlans = on;
}

void NetFilter::set_vlan(u16 id, bool on) {
    std::lock_guard lock(mutex_);
    u64& word = now_.vlans[(id & 0xfff) / 64];
    const u64 mask = u64{1} << (id % 64);
    word = on ? word | mask : word & ~mask;
}

bool NetFilter::accepts(std::span<const u8> frame) const {
    if (frame.size() < 14) return false;
    std::lock_guard lock(mutex_);
    const auto& modes = now_.modes;
    const u16 ethertype = static_cast<u16>(frame[12] << 8 | frame[13]);
    if (now_.filter_vlans && ethertype == 0x8100 && frame.size() >= 16) {
        const u16 id = static_cast<u16>((frame[14] << 8 | frame[15]) & 0xfff);
        if (!(now_.vlans[id / 64] >> (id % 64) & 1)) return false;
    }
    if (modes[Promiscuous]) return true;
    net::MacAddress to;
    std::memcpy(to.data(), frame.data(), to.size());
    if (to[0] & 1) {
        if (std::all_of(to.begin(), to.end(), [](u8 b) { return b == 0xff; })) return !modes[NoBroadcast];
        if (modes[NoMulticast]) return false;
        return modes[AllMulticast] || std::binary_search(multicast_.begin(), multicast_.end(), to);
    }
    if (modes[NoUnicast]) return false;
    return modes[AllUnicast] || to == now_.own || std::binary_search(unicast_.begin(), unicast_.end(), to);
}

void NetFilter::save(Saved& fixed, std::vector<net::MacAddress>& unicast, std::vector<net::MacAddress>& multicast) const {
    std::lock_guard lock(mutex_);
    fixed = now_;
    unicast = unicast_;
    multicast = multicast_;
}

void NetFilter::load(const Saved& fixed, std::vector<net::MacAddress> unicast, std::vector<net::MacAddress> multicast) {
    set_tables(std::move(unicast), std::move(multicast));
    std::lock_guard lock(mutex_);
    now_ = fixed;
}

}  // namespace vezha::devices::virtio
