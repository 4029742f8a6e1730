// SPDX-License-Identifier: Apache-2.0
#include "net/frame_stream.h"

#include <cstring>

#include "net/vnet_header.h"

namespace vezha::net {

std::span<u8> FrameStream::room() {
    // An unfinished frame is at most a quarter of the buffer, so moving it is rare and cheap.
    if (begin_ == end_) begin_ = end_ = 0;
    if (buffer_.size() - end_ < 4 + kMaxFrame) {
        std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
        end_ -= begin_;
        begin_ = 0;
    }
    return std::span(buffer_).subspan(end_);
}

Result<std::span<const u8>> FrameStream::next() {
    if (end_ - begin_ < 4) return std::span<const u8>{};
    u32 length;
    std::memcpy(&length, buffer_.data() + begin_, 4);
    length = __builtin_bswap32(length);
    if (length == 0 || length > kMaxFrame) return fail(ErrorCode::InvalidFormat, "a frame of {} bytes", length);
    if (end_ - begin_ - 4 < length) return std::span<const u8>{};
    const std::span<const u8> frame = std::span(buffer_).subspan(begin_ + 4, length);
    begin_ += 4 + length;
    return frame;
}

}  // namespace vezha::net
