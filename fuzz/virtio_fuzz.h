// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/log.h"
#include "devices/virtio/driver_model.h"

/// What the virtio fuzzers share: input as a stream of choices, and a driver whose requests it decides.
namespace vezha::devices::virtio::model {

class Input {
  public:
    Input(const u8* data, usize size) : data_(data), left_(size) {}
    bool empty() const { return left_ == 0; }
    template <class T>
    T take() {
        T value{};
        const usize count = std::min(left_, sizeof value);
        std::memcpy(&value, data_, count);
        skip(count);
        return value;
    }
    std::span<const u8> bytes(usize count) {
        count = std::min(count, left_);
        const std::span<const u8> out(data_, count);
        skip(count);
        return out;
    }

  private:
    void skip(usize count) {
        data_ += count;
        left_ -= count;
    }
    const u8* data_;
    usize left_;
};

/// Sends requests of the input's making to a device's queues until the input ends, then resets the device.
/// @param also does one thing besides requests when the input says so
inline void fuzz_requests(Board& board, PciDevice& device, u16 queues, Input input, auto&& also) {
    set_log_level(LogLevel::Error);
    Driver driver(board, device);
    const u8 ring = input.take<u8>();
    u64 features = driver.offered() & ~(bit(kRingPacked) | bit(kRingEventIndex));
    if (ring & 1) features |= bit(kRingPacked);
    if (ring & 2) features |= bit(kRingEventIndex);
    if (ring & 4) features &= ~input.take<u64>() | bit(kRingPacked) | bit(kRingEventIndex);
    driver.start(features, queues);
    std::vector<unsigned> outstanding(queues);
    while (!input.empty()) {
        const u8 action = input.take<u8>();
        if (action >= 0xf0) {
            also(input);
        } else if (action >= 0xe0) {
            driver.set(kConfigAt + (action & 15) * 4, 4, input.take<u32>());
        } else {
            const u16 index = action % queues;
            if (outstanding[index] >= 8) continue;
            std::vector<Piece> pieces;
            const u8 shape = input.take<u8>();
            for (u8 i = 0, count = 1 + shape % 4; i < count; ++i) {
                const u64 at = 0x40'0000 + 0x2'0000ull * i + 0x8'0000ull * (outstanding[index] % 4);
                const bool write = shape >> (4 + i) & 1;
                const u16 length = input.take<u16>();
                if (!write) (void)board.memory.write({at}, input.bytes(length & 0x1ff));
                pieces.push_back({at, shape & 8 ? length : length & 0x1ffu, write});
            }
            // A broken chain is the ring fuzzers' subject.
            std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.write < b.write; });
            driver.ring(index).add(pieces, shape & 4);
            ++outstanding[index];
            driver.kick(index);
        }
        board.serve(1);
        for (u16 i = 0; i < queues; ++i)
            while (driver.ring(i).take()) --outstanding[i];
    }
    also(input);  // with nothing left: lets go what it holds
    driver.set(common::kStatus, 1, 0);
    CHECK(driver.status() == 0);
    board.serve(1);
}

}  // namespace vezha::devices::virtio::model
