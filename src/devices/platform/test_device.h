// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>

#include "bus/irq.h"
#include "devices/stateful_device.h"

namespace vezha::devices::platform {

/// What test guests (kvm-unit-tests among them) use to check accesses and interrupts: a latch at ports 0xe0-0xe3 and
/// 0xe8-0xeb, interrupt lines at 0x2000-0x2017, scratch memory at 0xff000000. Off unless the user asks for test devices.
/// Compatible with QEMU's pc-testdev, but for 0xe4, which there unmaps a page of the host and here does nothing.
class TestDevice final : public StatefulDevice<TestDevice> {
  public:
    static constexpr unsigned kLines = 24;
    /// @param lines the inputs that port 0x2000 + n drives; null entries are ignored
    TestDevice(bus::Bus& bus, const std::array<bus::IrqLine*, kLines>& lines);

    u64 read(u32 range, u64 offset, unsigned size) override;
    void write(u32 range, u64 offset, unsigned size, u64 value) override;
    std::string state_name() const override { return "test-device"; }
    void reset() override;

  private:
    enum Range : u32 { kLatch, kFlush, kByteLatch, kInterrupts, kMemory };
    std::array<bus::IrqLine*, kLines> lines_;
    std::array<u8, 4> latch_{};
    std::vector<u8> memory_ = std::vector<u8>(0x1'0000);

  public:
    static constexpr auto kState =
        std::to_array<state::StateField<TestDevice>>({state::field<TestDevice, &TestDevice::latch_>("latch"),
                                                      state::field<TestDevice, &TestDevice::memory_>("memory")});
    Result<> loaded();
};

}  // namespace vezha::devices::platform
