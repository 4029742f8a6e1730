// SPDX-License-Identifier: Apache-2.0
#include "net/vnet_header.h"

#include <cstring>

namespace vezha::net {

usize total_size(std::span<const iovec> pieces) {
    usize size = 0;
    for (const iovec& piece : pieces) size += piece.iov_len;
    return size;
}

Result<> gather_packet(std::span<const iovec> pieces, std::vector<u8>& out) {
    const usize size = total_size(pieces);
    if (size < sizeof(VnetHeader) + 14 || size > sizeof(VnetHeader) + kMaxFrame)
        return fail(ErrorCode::InvalidFormat, "a packet of {} bytes", size);
    out.resize(size);
    usize at = 0;
    for (const iovec& piece : pieces) {
        std::memcpy(out.data() + at, piece.iov_base, piece.iov_len);
        at += piece.iov_len;
    }
    return {};
}

void scatter(std::span<const u8> bytes, std::span<const iovec> buffers) {
    for (const iovec& buffer : buffers) {
        const usize size = std::min<usize>(buffer.iov_len, bytes.size());
        std::memcpy(buffer.iov_base, bytes.data(), size);
        bytes = bytes.subspan(size);
        if (bytes.empty()) return;
    }
}

u16 internet_sum(std::span<const u8> bytes, u16 start) {
    // The sum is the same in either byte order up to a swap of the result (RFC 1071, 2B), so host words do.
    u64 sum = start;
    const u8* data = bytes.data();
    usize size = bytes.size();
    u64 carry = 0;
    for (; size >= 8; data += 8, size -= 8) {
        u64 word;
        std::memcpy(&word, data, 8);
        carry += __builtin_add_overflow(sum, word, &sum);
    }
    u64 tail = 0;
    std::memcpy(&tail, data, size);
    carry += __builtin_add_overflow(sum, tail, &sum);
    if (__builtin_add_overflow(sum, carry, &sum)) ++sum;
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<u16>(sum);
}

Result<> complete_checksum(const VnetHeader& header, std::span<u8> frame) {
    const usize start = header.checksum_start, field = start + header.checksum_offset;
    if (field + 2 > frame.size()) return fail(ErrorCode::InvalidFormat, "a checksum at {} of {} bytes", field, frame.size());
    // The field holds the pseudo header's sum already.
    u16 sum = static_cast<u16>(~internet_sum(frame.subspan(start)));
    if (sum == 0) sum = 0xffff;  // zero means "none" in UDP, and is the same number
    std::memcpy(frame.data() + field, &sum, 2);
    return {};
}

}  // namespace vezha::net
