// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "devices/platform/platform_events.h"
#include "devices/stateful_device.h"

namespace vezha::devices::platform {

/// The debug console that firmware writes to: a byte port that reads as its own signature. 0xe9 (Bochs) and 0x402
/// (SeaBIOS, OVMF). Output is handed over by lines.
class DebugConsole final : public StatefulDevice<DebugConsole> {
  public:
    /// @param output called with the device's mutex held; must not block
    DebugConsole(bus::Bus& bus, u16 port, std::function<void(std::span<const u8>)> output);
    ~DebugConsole() override;

    u64 read(u32, u64, unsigned) override { return 0xe9; }
    void write(u32 range, u64 offset, unsigned size, u64 value) override;
    std::string state_name() const override { return name_; }
    void reset() override {}
    static constexpr std::array<state::StateField<DebugConsole>, 0> kState{};

  private:
    const std::string name_;
    std::function<void(std::span<const u8>)> output_;
    std::vector<u8> line_;
};

/// Ends the process with status (value << 1) | 1 when the guest writes: for test guests only, off by default.
class DebugExit final : public StatefulDevice<DebugExit> {
  public:
    DebugExit(bus::Bus& bus, PlatformEvents& events, u16 port = 0xf4);
    u64 read(u32, u64, unsigned) override { return 0; }
    void write(u32 range, u64 offset, unsigned size, u64 value) override;
    std::string state_name() const override { return "debug-exit"; }
    void reset() override {}
    static constexpr std::array<state::StateField<DebugExit>, 0> kState{};

  private:
    PlatformEvents& events_;
};

/// pvpanic: the guest's kernel says that it has crashed. ISA port 0x505; ACPI device QEMU0001.
class PvPanic final : public StatefulDevice<PvPanic> {
  public:
    PvPanic(bus::Bus& bus, PlatformEvents& events, u16 port = 0x505);
    u64 read(u32, u64, unsigned) override { return 3; }  // panicked and crash-loaded are understood
    void write(u32 range, u64 offset, unsigned size, u64 value) override;
    std::string state_name() const override { return "pvpanic"; }
    void reset() override {}
    static constexpr std::array<state::StateField<PvPanic>, 0> kState{};

  private:
    PlatformEvents& events_;
};

}  // namespace vezha::devices::platform
