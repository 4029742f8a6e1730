// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/uio.h>

#include <span>
#include <vector>

#include "base/result.h"

namespace vezha::net {

/// What stands in front of every packet (virtio 1.2, 5.1.6), little-endian.
struct VnetHeader {
    static constexpr u8 kNeedsChecksum = 1, kDataValid = 2;
    static constexpr u8 kGsoNone = 0, kGsoTcp4 = 1, kGsoUdp = 3, kGsoTcp6 = 4, kGsoUdpL4 = 5, kGsoEcn = 0x80;
    u8 flags = 0;
    u8 gso_type = 0;
    u16 header_length = 0;
    u16 gso_size = 0;
    u16 checksum_start = 0;   ///< from the frame's first byte
    u16 checksum_offset = 0;  ///< from checksum_start
    u16 buffer_count = 0;
};
static_assert(sizeof(VnetHeader) == 12);

/// Largest frame that any back end carries: a 64 KiB segment with its Ethernet header and tags.
inline constexpr usize kMaxFrame = 65536 + 64;

usize total_size(std::span<const iovec> pieces);
/// Copies the pieces into one vector. @return InvalidFormat if shorter than a header with an Ethernet header, or longer
/// than a header and kMaxFrame.
Result<> gather_packet(std::span<const iovec> pieces, std::vector<u8>& out);
/// Copies `bytes` into `buffers`, which have room.
void scatter(std::span<const u8> bytes, std::span<const iovec> buffers);

/// The one's-complement sum of RFC 1071 over `bytes`, not inverted, starting from `sum`.
u16 internet_sum(std::span<const u8> bytes, u16 sum = 0);
/// Completes the checksum that the guest left to us (kNeedsChecksum). `frame` without the header.
/// @return InvalidFormat if the place is outside the frame.
Result<> complete_checksum(const VnetHeader& header, std::span<u8> frame);

}  // namespace vezha::net
