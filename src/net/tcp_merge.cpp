// SPDX-License-Identifier: Apache-2.0
#include "net/tcp_merge.h"

#include <cstring>
#include <optional>

#include "net/vnet_header.h"

namespace vezha::net {

namespace {

constexpr usize kEthernet = 14, kIpv4 = 20, kTcpAt = kEthernet + kIpv4;
constexpr u8 kPsh = 0x08, kAck = 0x10;

u16 get16(const u8* at) { return static_cast<u16>(at[0] << 8 | at[1]); }
u32 get32(const u8* at) { return static_cast<u32>(get16(at)) << 16 | get16(at + 2); }
void put16(u8* at, u16 value) {
    at[0] = static_cast<u8>(value >> 8);
    at[1] = static_cast<u8>(value);
}

struct Segment {
    usize header;   // bytes before the payload, Ethernet's included
    usize payload;  // bytes
    u32 sequence;
    u8 flags;
};

/// A frame that can take part: plain IPv4 and TCP headers, nothing but ACK and PSH set, some payload.
std::optional<Segment> parse(std::span<const u8> frame) {
    if (frame.size() < kTcpAt + 20 || get16(&frame[12]) != 0x0800 || frame[14] != 0x45 || frame[23] != 6) return {};
    if (get16(&frame[20]) & 0x3fff) return {};  // a fragment
    const usize total = get16(&frame[16]), tcp_header = (frame[kTcpAt + 12] >> 4) * 4u;
    if (tcp_header < 20 || total <= kIpv4 + tcp_header || kEthernet + total > frame.size()) return {};
    const u8 flags = frame[kTcpAt + 13];
    if ((flags & ~kPsh) != kAck) return {};
    return Segment{kTcpAt + tcp_header, total - kIpv4 - tcp_header, get32(&frame[kTcpAt + 4]), flags};
}

bool same_stream(const u8* a, const u8* b, usize header) {
    return std::memcmp(a, b, kEthernet + 2) == 0              // Ethernet, version, type of service
           && std::memcmp(a + 22, b + 22, 2) == 0             // time to live, protocol
           && std::memcmp(a + 26, b + 26, 12) == 0            // addresses and ports
           && std::memcmp(a + kTcpAt + 8, b + kTcpAt + 8, 5) == 0  // acknowledgement, header length
           && std::memcmp(a + kTcpAt + 18, b + kTcpAt + 18, header - kTcpAt - 18) == 0;  // urgent pointer, options
}

}  // namespace

bool merge_tcp4(std::vector<u8>& packet, std::span<const u8> frame) {
    const auto next = parse(frame);
    if (!next || packet.size() < sizeof(VnetHeader)) return false;
    const auto last = parse(std::span(packet).subspan(sizeof(VnetHeader)));
    if (!last || (last->flags & kPsh) || last->header != next->header) return false;
    VnetHeader header;
    std::memcpy(&header, packet.data(), sizeof header);
    const bool merged = header.gso_type == VnetHeader::kGsoTcp4;
    const usize segment = merged ? header.gso_size : last->payload;
    if (last->payload % segment != 0 || next->payload > segment) return false;
    if (last->sequence + last->payload != next->sequence) return false;
    if (last->header - kEthernet + last->payload + next->payload > 0xffff) return false;
    u8* head = packet.data() + sizeof header;
    if (!same_stream(head, frame.data(), last->header)) return false;

    packet.resize(sizeof header + last->header + last->payload);  // without Ethernet padding
    packet.insert(packet.end(), frame.begin() + static_cast<std::ptrdiff_t>(next->header),
                  frame.begin() + static_cast<std::ptrdiff_t>(next->header + next->payload));
    head = packet.data() + sizeof header;
    const usize tcp_size = last->header - kTcpAt + last->payload + next->payload;
    put16(head + 16, static_cast<u16>(kIpv4 + tcp_size));
    put16(head + 24, 0);
    const u16 ip_sum = static_cast<u16>(~internet_sum({head + kEthernet, kIpv4}));
    std::memcpy(head + 24, &ip_sum, 2);
    head[kTcpAt + 13] |= next->flags;
    std::memcpy(head + kTcpAt + 14, frame.data() + kTcpAt + 14, 2);  // the latest window
    // The guest finds the pseudo header's sum in the checksum's place (virtio 1.2, 5.1.6.4).
    u8 pseudo[12];
    std::memcpy(pseudo, head + 26, 8);
    pseudo[8] = 0;
    pseudo[9] = 6;
    put16(pseudo + 10, static_cast<u16>(tcp_size));
    const u16 seed = internet_sum(pseudo);
    std::memcpy(head + kTcpAt + 16, &seed, 2);
    header.flags = VnetHeader::kNeedsChecksum;
    header.gso_type = VnetHeader::kGsoTcp4;
    header.gso_size = static_cast<u16>(segment);
    header.header_length = static_cast<u16>(last->header);
    header.checksum_start = kTcpAt;
    header.checksum_offset = 16;
    std::memcpy(packet.data(), &header, sizeof header);
    return true;
}

}  // namespace vezha::net
