// SPDX-License-Identifier: Apache-2.0
// What the other end of a socket network sends, in portions of the size that the first byte says; each frame then goes
// the way of a guest's packet whose first bytes are its header.
#include <algorithm>
#include <cstring>

#include "net/frame_stream.h"
#include "net/packet_queue.h"

using namespace vezha;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 1) return 0;
    const usize portion = data[0] ? data[0] : size;
    std::span<const u8> bytes(data + 1, size - 1);
    net::FrameStream stream;
    net::PacketQueue queue(128 * kKiB, 16);
    while (!bytes.empty()) {
        const std::span<u8> room = stream.room();
        const usize n = std::min({portion, bytes.size(), room.size()});
        if (n == 0) __builtin_trap();
        std::memcpy(room.data(), bytes.data(), n);
        stream.filled(n);
        bytes = bytes.subspan(n);
        for (;;) {
            auto frame = stream.next();
            if (!frame.has_value()) return 0;
            if (frame->empty()) break;
            net::VnetHeader header;
            std::memcpy(&header, frame->data(), std::min(sizeof header, frame->size()));
            std::vector<u8> copy(frame->begin(), frame->end());
            (void)net::complete_checksum(header, copy);
            if (!queue.push(header, copy)) {
                std::vector<u8> out(70'000);
                iovec piece{out.data(), out.size()};
                if (!queue.receive({&piece, 1}).has_value()) __builtin_trap();
            }
        }
    }
    return 0;
}
