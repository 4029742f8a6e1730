// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/uio.h>

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/event_loop.h"
#include "base/result.h"

namespace vezha::net {

using MacAddress = std::array<u8, 6>;

/// Offloads a back end can take from, or give to, a guest (the meanings of virtio 1.2, 5.1.3).
struct Offloads {
    bool checksum = false;  ///< partial checksums
    bool tso4 = false, tso6 = false, ecn = false, ufo = false, uso = false;
};

/// One queue pair on one loop. Packets are Ethernet frames with a struct virtio_net_hdr_v1 (12 bytes) in front, always.
class BackendQueue {
  public:
    virtual ~BackendQueue() = default;
    /// Sends one packet. @return WouldBlock: keep it, on_writable will come; other errors drop the packet.
    virtual Result<> send(std::span<const iovec> packet) = 0;
    /// Takes one packet into `buffers`. @return bytes stored; WouldBlock: on_readable will come;
    /// OutOfRange: the buffers are too small and the packet is kept.
    virtual Result<usize> receive(std::span<const iovec> buffers) = 0;
    /// Size in bytes, header included, of the packet that receive() would give now; 0 if there is none.
    virtual usize next_packet_size() = 0;
};

/// Called on the loop given to attach().
struct QueueEvents {
    std::function<void()> on_readable;
    std::function<void()> on_writable;
};

class Backend {
  public:
    virtual ~Backend() = default;
    virtual u32 queue_pairs() const { return 1; }
    /// What the guest may leave undone when it sends.
    virtual Offloads accepts() const { return {}; }
    /// What the back end may leave undone in packets to the guest, at most; none until set_receive_offloads().
    virtual Offloads provides() const { return {}; }
    virtual Result<> set_receive_offloads(const Offloads&) { return {}; }
    /// Queue `index` below queue_pairs(), served on `loop`.
    virtual Result<std::unique_ptr<BackendQueue>> attach(EventLoop& loop, u32 index, QueueEvents events) = 0;
    virtual std::string describe() const = 0;
};

}  // namespace vezha::net
