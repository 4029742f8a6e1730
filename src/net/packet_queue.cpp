// SPDX-License-Identifier: Apache-2.0
#include "net/packet_queue.h"

#include <cstring>

#include "net/tcp_merge.h"

namespace vezha::net {

bool PacketQueue::push(const VnetHeader& header, std::span<const u8> frame) {
    const usize size = sizeof header + frame.size();
    if (bytes_ + size > max_bytes_ || packets_.size() >= max_packets_) return false;
    std::vector<u8> packet;
    if (!spare_.empty()) {
        packet = std::move(spare_.back());
        spare_.pop_back();
    }
    packet.resize(size);
    std::memcpy(packet.data(), &header, sizeof header);
    std::memcpy(packet.data() + sizeof header, frame.data(), frame.size());
    packets_.push_back(std::move(packet));
    bytes_ += size;
    return true;
}

bool PacketQueue::merge(std::span<const u8> frame) {
    if (packets_.empty() || bytes_ + frame.size() > max_bytes_) return false;
    std::vector<u8>& last = packets_.back();
    const usize before = last.size();
    if (!merge_tcp4(last, frame)) return false;
    bytes_ = bytes_ - before + last.size();
    return true;
}

Result<usize> PacketQueue::receive(std::span<const iovec> buffers) {
    static constexpr usize kSpare = 64;
    if (packets_.empty()) return fail(ErrorCode::WouldBlock, "no packet");
    std::vector<u8>& packet = packets_.front();
    const usize size = packet.size();
    if (total_size(buffers) < size) return fail(ErrorCode::OutOfRange, "a packet of {} bytes", size);
    scatter(packet, buffers);
    bytes_ -= size;
    if (spare_.size() < kSpare) spare_.push_back(std::move(packet));
    packets_.pop_front();
    return size;
}

void PacketQueue::clear() {
    packets_.clear();
    bytes_ = 0;
}

}  // namespace vezha::net
