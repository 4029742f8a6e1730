// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/net.h"

#include <algorithm>

#include "base/log.h"
#include "state/field.h"

namespace vezha::devices::virtio {

namespace {

// Feature bits, 5.1.3.
constexpr unsigned kCsum = 0, kGuestCsum = 1, kCtrlGuestOffloads = 2, kMtu = 3, kMac = 5, kGuestTso4 = 7, kGuestTso6 = 8,
                   kGuestEcn = 9, kGuestUfo = 10, kHostTso4 = 11, kHostTso6 = 12, kHostEcn = 13, kHostUfo = 14,
                   kMergeableBuffers = 15, kStatus = 16, kCtrlQueue = 17, kCtrlRx = 18, kCtrlVlan = 19, kCtrlRxExtra = 20,
                   kGuestAnnounce = 21, kMultiQueue = 22, kCtrlMac = 23, kGuestUso4 = 54, kGuestUso6 = 55, kHostUso = 56,
                   kSpeedDuplex = 63;
constexpr u64 kGuestOffloadBits = bit(kGuestCsum) | bit(kGuestTso4) | bit(kGuestTso6) | bit(kGuestEcn) | bit(kGuestUfo) |
                                  bit(kGuestUso4) | bit(kGuestUso6);

/// 5.1.4
struct Config {
    net::MacAddress mac;
    u16 status;
    u16 max_virtqueue_pairs;
    u16 mtu;
    u32 speed;  // Mbit/s
    u8 duplex;  // 1: full
    u8 rss_max_key_size;
    u16 rss_max_indirection_table_length;
    u32 supported_hash_types;
};
static_assert(sizeof(Config) == 24);
constexpr u16 kLinkUp = 1, kAnnounce = 2;

constexpr usize kHeaderSize = 12;  // struct virtio_net_hdr_v1
constexpr usize kNumBuffersAt = 10;
constexpr usize kMaxPacket = kHeaderSize + 65535 + 18;

// Control commands, 5.1.6.5.
constexpr u8 kClassRx = 0, kClassMac = 1, kClassVlan = 2, kClassAnnounce = 3, kClassMq = 4, kClassOffloads = 5;
constexpr u8 kAckOk = 0, kAckError = 1;

u64 features(const net::Backend& backend, const NetOptions& options) {
    u64 out = bit(kMac) | bit(kMergeableBuffers) | bit(kStatus) | bit(kCtrlQueue) | bit(kCtrlRx) | bit(kCtrlVlan) |
              bit(kCtrlRxExtra) | bit(kGuestAnnounce) | bit(kCtrlMac) | bit(kSpeedDuplex);
    if (options.pair_loops.size() > 1) out |= bit(kMultiQueue);
    if (options.mtu) out |= bit(kMtu);
    const net::Offloads accepts = backend.accepts(), provides = backend.provides();
    if (accepts.checksum) {
        out |= bit(kCsum);
        if (accepts.tso4) out |= bit(kHostTso4);
        if (accepts.tso6) out |= bit(kHostTso6);
        if (accepts.ecn) out |= bit(kHostEcn);
        if (accepts.ufo) out |= bit(kHostUfo);
        if (accepts.uso) out |= bit(kHostUso);
    }
    if (provides.checksum) {
        out |= bit(kGuestCsum) | bit(kCtrlGuestOffloads);
        if (provides.tso4) out |= bit(kGuestTso4);
        if (provides.tso6) out |= bit(kGuestTso6);
        if (provides.ecn) out |= bit(kGuestEcn);
        if (provides.ufo) out |= bit(kGuestUfo);
        if (provides.uso) out |= bit(kGuestUso4) | bit(kGuestUso6);
    }
    return out;
}

std::vector<QueueOptions> queues(const NetOptions& options) {
    std::vector<QueueOptions> out;
    for (EventLoop* loop : options.pair_loops) out.insert(out.end(), 2, QueueOptions{loop, options.queue_size});
    out.push_back({options.pair_loops.front(), 64});
    return out;
}

}  // namespace

Result<std::unique_ptr<VirtioNet>> VirtioNet::create(const Wiring& wiring, net::Backend& backend, NetOptions options) {
    if (options.pair_loops.empty() || options.pair_loops.size() > backend.queue_pairs())
        return Failure(Error(ErrorCode::InvalidArgument, fmt::format("{} queue pairs on a back end with {}",
                                                                     options.pair_loops.size(), backend.queue_pairs()))
                           .with_hint("choose as many queues for the interface as its back end has"));
    if (options.mac[0] & 1) return fail(ErrorCode::InvalidArgument, "the MAC address of an interface is a multicast address");
    if (options.mtu && options.mtu < 68) return fail(ErrorCode::InvalidArgument, "an MTU of {} is below 68", options.mtu);
    std::unique_ptr<VirtioNet> device(new VirtioNet(wiring, backend, std::move(options)));
    VirtioNet* self = device.get();
    for (u16 i = 0; i < device->pairs_.size(); ++i) {
        Pair& pair = *device->pairs_[i];
        Result<> outcome;
        pair.loop->run_exclusive([&] {
            auto queue = backend.attach(*pair.loop, i, {.on_readable = [self, i] { self->receive(i); },
                                                        .on_writable = [self, i] { self->transmit(i); }});
            if (queue) pair.backend = *std::move(queue);
            else outcome = Failure(queue.error());
        });
        TRY(outcome);
    }
    TRY(device->start());
    return device;
}

VirtioNet::VirtioNet(const Wiring& wiring, net::Backend& backend, NetOptions options)
    : PciDevice(wiring, {Type::Network, "virtio-net", 0x020000, features(backend, options), sizeof(Config)}, queues(options)),
      backend_(backend), options_(std::move(options)), link_up_(options_.link_up) {
    for (EventLoop* loop : options_.pair_loops) {
        pairs_.push_back(std::make_unique<Pair>());
        pairs_.back()->loop = loop;
    }
    Config config{};
    config.mac = options_.mac;
    config.status = link_up_ ? kLinkUp : 0;
    config.max_virtqueue_pairs = static_cast<u16>(pairs_.size());
    config.mtu = options_.mtu;
    config.speed = options_.speed_mbit;
    config.duplex = 1;
    set_device_config(0, config);
    filter_.reset(options_.mac);
}

VirtioNet::~VirtioNet() {
    shutdown();
    for (auto& pair : pairs_) pair->loop->run_exclusive([&] { pair->backend.reset(); });
}

u16 VirtioNet::control_index() const {
    // Without MQ the driver knows of one pair only (5.1.2).
    return negotiated(kMultiQueue) ? static_cast<u16>(2 * pairs_.size()) : 2;
}

void VirtioNet::set_link(bool up) {
    if (link_up_.exchange(up) == up) return;
    const u16 status = device_config<u16>(offsetof(Config, status));
    set_device_config<u16>(offsetof(Config, status), static_cast<u16>(up ? status | kLinkUp : status & ~kLinkUp));
    config_changed();
    // Packets that waited.
    if (up)
        for (u16 i = 0; i < pairs_.size(); ++i) kick(static_cast<u16>(2 * i));
}

void VirtioNet::announce() {
    if (!negotiated(kGuestAnnounce)) return;
    set_device_config<u16>(offsetof(Config, status), device_config<u16>(offsetof(Config, status)) | kAnnounce);
    config_changed();
}

Result<> VirtioNet::apply_offloads(u64 bits) {
    guest_offloads_ = bits;
    return backend_.set_receive_offloads({.checksum = (bits & bit(kGuestCsum)) != 0,
                                          .tso4 = (bits & bit(kGuestTso4)) != 0,
                                          .tso6 = (bits & bit(kGuestTso6)) != 0,
                                          .ecn = (bits & bit(kGuestEcn)) != 0,
                                          .ufo = (bits & bit(kGuestUfo)) != 0,
                                          .uso = (bits & (bit(kGuestUso4) | bit(kGuestUso6))) != 0});
}

void VirtioNet::on_driver_ready() {
    u64 agreed = 0;
    for (unsigned feature = 0; feature < 64; ++feature)
        if (negotiated(feature)) agreed |= bit(feature);
    // After load() the driver's last choice counts.
    if (auto applied = apply_offloads(restored_offloads_.value_or(agreed) & agreed & kGuestOffloadBits); !applied)
        log_warning("virtio", "{}: {}", state_name(), applied.error().message());
    restored_offloads_.reset();
    filter_.filter_vlans(negotiated(kCtrlVlan));
}

void VirtioNet::on_reset() {
    filter_.reset(options_.mac);
    active_pairs_ = 1;
    set_device_config(0, options_.mac);
    set_device_config<u16>(offsetof(Config, status), link_up_ ? kLinkUp : 0);
    if (auto applied = apply_offloads(0); !applied) log_warning("virtio", "{}: {}", state_name(), applied.error().message());
}

void VirtioNet::on_queue(u16 index) {
    if (index == control_index()) return control();
    const u16 pair = index / 2;
    if (pair >= pairs_.size()) return;
    if (index % 2) return transmit(pair);
    for (u16 source = 0; source < pairs_.size(); ++source) {
        if (target_of(source) != pair) continue;
        if (pairs_[source]->loop == pairs_[pair]->loop) receive(source);
        else kick(static_cast<u16>(2 * source));  // its own loop looks: target_of() leads back here
    }
    // A kick for a pair that is switched off comes from another loop on behalf of its back-end queue.
    if (target_of(pair) != pair) receive(pair);
}

// Packets ---------------------------------------------------------------------------------------------------------------

void VirtioNet::receive(u16 source) {
    if (!link_up() || !bus_master() || !driver_ready()) return;
    const u16 to = target_of(source);
    Pair& target = *pairs_[to];
    const u16 index = static_cast<u16>(2 * to);
    u32 budget = kBatch;
    {
        std::lock_guard lock(target.receive_mutex);
        while (budget > 0) {
            const usize size = pairs_[source]->backend->next_packet_size();
            if (size == 0 || !deliver(source, target, index, size)) break;
            --budget;
        }
        complete(index);
    }
    if (budget == 0) kick(static_cast<u16>(2 * source));
}

bool VirtioNet::deliver(u16 source, Pair& target, u16 index, usize size) {
    // Collect room; without mergeable buffers one chain must do.
    const bool mergeable = negotiated(kMergeableBuffers);
    usize count = 0;
    u64 room = 0;
    target.pieces.clear();
    const auto put_back = [&] {
        while (count > 0) queue(index).unpop(target.received[--count]);
    };
    while (room < size && (mergeable || count == 0)) {
        if (count == target.received.size()) target.received.emplace_back();
        Chain& chain = target.received[count];
        if (!pop(index, chain)) {
            put_back();
            return false;
        }
        ++count;
        room += chain.writable_bytes();
        target.pieces.insert(target.pieces.end(), chain.writable().begin(), chain.writable().end());
        if (chain.writable_bytes() < kHeaderSize && count == 1) {
            put_back();
            set_needs_reset(Error(ErrorCode::Corrupt, "a receive buffer smaller than the packet header"));
            return false;
        }
    }
    std::array<u8, kMaxPacket> discarded;
    if (room < size) {
        LOG_GUEST_ERROR("virtio", "{}: receive buffer of {} bytes for a packet of {}", state_name(), room, size);
        put_back();
        const iovec all{discarded.data(), discarded.size()};
        (void)pairs_[source]->backend->receive({&all, 1});
        return true;
    }
    const auto taken = pairs_[source]->backend->receive(target.pieces);
    if (!taken || *taken < kHeaderSize) {
        put_back();
        return taken.has_value();
    }
    std::array<u8, 18> start;
    const usize shown = copy_from(target.pieces, kHeaderSize, start);
    if (!filter_.accepts(std::span(start).first(std::min<usize>(shown, *taken - kHeaderSize)))) {
        put_back();
        return true;
    }
    // The buffers that the packet did not reach go back.
    usize used = 0;
    u64 covered = 0;
    while (used < count && covered < *taken) covered += target.received[used++].writable_bytes();
    while (count > used) queue(index).unpop(target.received[--count]);
    write_object(target.received[0].writable(), kNumBuffersAt, static_cast<u16>(used));
    u64 left = *taken;
    for (usize i = 0; i < used; ++i) {
        const u64 here = std::min(left, target.received[i].writable_bytes());
        queue(index).push(target.received[i], here);
        left -= here;
    }
    return true;
}

void VirtioNet::transmit(u16 number) {
    Pair& pair = *pairs_[number];
    const u16 index = static_cast<u16>(2 * number + 1);
    if (index == control_index() || !bus_master()) return;
    u32 budget = kBatch;
    for (; budget > 0; --budget) {
        if (!pop(index, pair.transmit)) break;
        const u64 size = pair.transmit.readable_bytes();
        if (size > kHeaderSize && size <= kMaxPacket && link_up()) {
            const auto sent = pair.backend->send(pair.transmit.readable());
            if (!sent && sent.error().code() == ErrorCode::WouldBlock) {
                queue(index).unpop(pair.transmit);
                break;  // on_writable
            }
        }
        queue(index).push(pair.transmit, 0);
    }
    complete(index);
    if (budget == 0) kick(index);
}

// Control queue ---------------------------------------------------------------------------------------------------------

void VirtioNet::control() {
    const u16 index = control_index();
    for (u32 budget = 64; budget > 0; --budget) {
        if (!pop(index, control_chain_)) return complete(index);
        if (control_chain_.writable_bytes() == 0) {
            queue(index).push(control_chain_, 0);
            set_needs_reset(Error(ErrorCode::Corrupt, "a control command without room for its result"));
            return;
        }
        const u8 ack = handle_command(control_chain_.readable());
        write_object(control_chain_.writable(), 0, ack);
        queue(index).push(control_chain_, 1);
    }
    complete(index);
    kick(index);
}

u8 VirtioNet::handle_command(std::span<const iovec> data) {
    struct {
        u8 type, command;
    } header;
    if (!read_object(data, 0, header)) return kAckError;
    const auto value = [&]<class T>(T& out) { return read_object(data, 2, out); };
    switch (header.type) {
        case kClassRx: {
            u8 on = 0;
            if (!negotiated(kCtrlRx) || header.command >= NetFilter::kModes || !value(on)) return kAckError;
            filter_.set_mode(static_cast<NetFilter::Mode>(header.command), on != 0);
            return kAckOk;
        }
        case kClassMac: {
            if (header.command == 0) return negotiated(kCtrlRx) ? set_mac_tables(data) : kAckError;
            net::MacAddress mac;
            if (header.command != 1 || !negotiated(kCtrlMac) || !value(mac)) return kAckError;
            set_device_config(0, mac);
            filter_.set_own(mac);
            return kAckOk;
        }
        case kClassVlan: {
            u16 id = 0;
            if (!negotiated(kCtrlVlan) || header.command > 1 || !value(id) || id > 4095) return kAckError;
            filter_.set_vlan(id, header.command == 0);
            return kAckOk;
        }
        case kClassAnnounce: {
            const u16 status = device_config<u16>(offsetof(Config, status));
            if (header.command != 0 || !(status & kAnnounce)) return kAckError;
            set_device_config<u16>(offsetof(Config, status), static_cast<u16>(status & ~kAnnounce));
            return kAckOk;
        }
        case kClassMq: {
            u16 pairs = 0;
            if (!negotiated(kMultiQueue) || header.command != 0 || !value(pairs) || pairs == 0 || pairs > pairs_.size())
                return kAckError;
            active_pairs_ = pairs;
            // What waits at queues that changed their target.
            for (u16 i = 0; i < pairs_.size(); ++i) kick(static_cast<u16>(2 * i));
            return kAckOk;
        }
        case kClassOffloads: {
            u64 wanted = 0;
            if (!negotiated(kCtrlGuestOffloads) || header.command != 0 || !value(wanted)) return kAckError;
            for (unsigned feature = 0; feature < 64; ++feature)
                if ((wanted >> feature & 1) && (!(kGuestOffloadBits >> feature & 1) || !negotiated(feature))) return kAckError;
            return apply_offloads(wanted) ? kAckOk : kAckError;
        }
        default: return kAckError;
    }
}

u8 VirtioNet::set_mac_tables(std::span<const iovec> data) {
    u64 at = 2;
    std::array<std::vector<net::MacAddress>, 2> tables;
    std::array<bool, 2> overflow{};
    for (unsigned kind = 0; kind < 2; ++kind) {
        u32 count = 0;
        if (!read_object(data, at, count)) return kAckError;
        at += 4;
        overflow[kind] = count > NetFilter::kMaxAddresses;
        for (u32 i = 0; i < count && !overflow[kind]; ++i) {
            net::MacAddress mac;
            if (!read_object(data, at + 6 * u64{i}, mac)) return kAckError;
            tables[kind].push_back(mac);
        }
        at += 6 * u64{count};
    }
    // Too many to remember: let all of the kind pass, the driver filters too.
    if (overflow[0]) filter_.set_mode(NetFilter::AllUnicast, true);
    if (overflow[1]) filter_.set_mode(NetFilter::AllMulticast, true);
    filter_.set_tables(std::move(tables[0]), std::move(tables[1]));
    return kAckOk;
}

// Saved state -----------------------------------------------------------------------------------------------------------

void VirtioNet::save_device(state::Section& out) const {
    NetFilter::Saved fixed;
    std::vector<net::MacAddress> unicast, multicast;
    filter_.save(fixed, unicast, multicast);
    out.put_value("net.filter", fixed);
    out.put("net.unicast", state::Codec<std::vector<net::MacAddress>>::encode(unicast));
    out.put("net.multicast", state::Codec<std::vector<net::MacAddress>>::encode(multicast));
    out.put_value("net.active_pairs", active_pairs_.load());
    out.put_value("net.offloads", guest_offloads_);
    out.put_value("net.status", device_config<u16>(offsetof(Config, status)));
}

Result<> VirtioNet::load_device(const state::Section& in, u32) {
    const u16 pairs = TRY(in.get_value<u16>("net.active_pairs"));
    if (pairs == 0 || pairs > pairs_.size()) return fail(ErrorCode::InvalidFormat, "{}: {} active queue pairs", state_name(), pairs);
    // Booleans come as bytes of unknown value.
    const auto raw = TRY((in.get_value<std::array<u8, sizeof(NetFilter::Saved)>>("net.filter")));
    NetFilter::Saved fixed{};
    std::memcpy(fixed.own.data(), raw.data(), 6);
    for (usize i = 0; i < NetFilter::kModes; ++i) fixed.modes[i] = raw[offsetof(NetFilter::Saved, modes) + i] & 1;
    fixed.filter_vlans = raw[offsetof(NetFilter::Saved, filter_vlans)] & 1;
    std::memcpy(fixed.vlans.data(), raw.data() + offsetof(NetFilter::Saved, vlans), sizeof fixed.vlans);
    std::array<std::vector<net::MacAddress>, 2> tables;
    const std::array<std::string_view, 2> names{"net.unicast", "net.multicast"};
    for (unsigned i = 0; i < 2; ++i) {
        const std::vector<u8>* bytes = in.get(names[i]);
        if (!bytes) return fail(ErrorCode::InvalidFormat, "{}: '{}' is missing", state_name(), names[i]);
        TRY(state::Codec<std::vector<net::MacAddress>>::decode(*bytes, tables[i]));
        if (tables[i].size() > NetFilter::kMaxAddresses) return fail(ErrorCode::InvalidFormat, "{}: {} addresses", state_name(), tables[i].size());
    }
    active_pairs_ = pairs;
    restored_offloads_ = TRY(in.get_value<u64>("net.offloads"));
    set_device_config(0, fixed.own);
    filter_.load(fixed, std::move(tables[0]), std::move(tables[1]));
    const u16 status = TRY(in.get_value<u16>("net.status"));
    set_device_config<u16>(offsetof(Config, status), static_cast<u16>((status & kAnnounce) | (link_up_ ? kLinkUp : 0)));
    return {};
}

}  // namespace vezha::devices::virtio
