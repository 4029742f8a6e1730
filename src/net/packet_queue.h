// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <span>
#include <vector>

#include "net/backend.h"
#include "net/vnet_header.h"

namespace vezha::net {

/// Packets on their way to a guest, each with its header; bounded, with recycled memory. One thread.
class PacketQueue {
  public:
    explicit PacketQueue(usize max_bytes, usize max_packets = 4096) : max_bytes_(max_bytes), max_packets_(max_packets) {}

    /// @return false if the packet was dropped for lack of room.
    bool push(const VnetHeader& header, std::span<const u8> frame);
    /// Makes `frame` part of the newest packet if it continues that one's TCP stream. @return false: push it.
    bool merge(std::span<const u8> frame);
    Result<usize> receive(std::span<const iovec> buffers);
    usize next_size() const { return packets_.empty() ? 0 : packets_.front().size(); }
    bool empty() const { return packets_.empty(); }
    /// More than half full: a source that can wait should.
    bool crowded() const { return bytes_ > max_bytes_ / 2 || packets_.size() > max_packets_ / 2; }
    void clear();

  private:
    const usize max_bytes_, max_packets_;
    usize bytes_ = 0;
    std::deque<std::vector<u8>> packets_;
    std::vector<std::vector<u8>> spare_;
};

}  // namespace vezha::net
