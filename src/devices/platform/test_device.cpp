// SPDX-License-Identifier: Apache-2.0
#include "devices/platform/test_device.h"

#include <algorithm>

namespace vezha::devices::platform {

TestDevice::TestDevice(bus::Bus& bus, const std::array<bus::IrqLine*, kLines>& lines) : lines_(lines) {
    map(bus, bus::Space::Pio, 0xe0, 4, kLatch, "test-latch");
    map(bus, bus::Space::Pio, 0xe4, 4, kFlush, "test-flush");
    map(bus, bus::Space::Pio, 0xe8, 4, kByteLatch, "test-byte-latch");
    map(bus, bus::Space::Pio, 0x2000, kLines, kInterrupts, "test-interrupts");
    map(bus, bus::Space::Mmio, 0xff00'0000, memory_.size(), kMemory, "test-memory");
}

u64 TestDevice::read(u32 range, u64 offset, unsigned size) {
    std::span<const u8> bytes;
    if (range == kLatch || range == kByteLatch) bytes = latch_;
    else if (range == kMemory) bytes = memory_;
    u64 value = 0;
    for (unsigned i = 0; i < size; ++i)
        if (offset + i < bytes.size()) value |= u64{bytes[offset + i]} << (8 * i);
    return value;
}

void TestDevice::write(u32 range, u64 offset, unsigned size, u64 value) {
    std::span<u8> bytes;
    if (range == kLatch || range == kByteLatch) bytes = latch_;
    else if (range == kMemory) bytes = memory_;
    for (unsigned i = 0; i < size; ++i) {
        const u8 byte = static_cast<u8>(value >> (8 * i));
        if (range == kInterrupts && offset + i < kLines && lines_[offset + i]) lines_[offset + i]->set(byte != 0);
        if (offset + i < bytes.size()) bytes[offset + i] = byte;
    }
}

void TestDevice::reset() {
    latch_.fill(0);
    std::fill(memory_.begin(), memory_.end(), 0);
}

Result<> TestDevice::loaded() {
    if (memory_.size() != 0x1'0000) return fail(ErrorCode::InvalidFormat, "test device memory of {} bytes", memory_.size());
    return {};
}

}  // namespace vezha::devices::platform
