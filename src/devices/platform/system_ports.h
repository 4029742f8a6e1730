// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "devices/platform/platform_events.h"
#include "devices/stateful_device.h"

namespace vezha::devices::platform {

/// The small ports of a PC: system control port A (0x92), reset control (0xcf9), POST code (0x80).
/// Source: ICH9, 13.7.3, 13.7.5.
class SystemPorts final : public StatefulDevice<SystemPorts> {
  public:
    SystemPorts(bus::Bus& bus, PlatformEvents& events);
    u8 post_code() const { return post_code_; }

    u64 read(u32 range, u64 offset, unsigned size) override;
    void write(u32 range, u64 offset, unsigned size, u64 value) override;
    std::string state_name() const override { return "system-ports"; }
    void reset() override;

  private:
    PlatformEvents& events_;
    u8 port92_ = 2, reset_control_ = 0, post_code_ = 0;

  public:
    static constexpr auto kState = std::to_array<state::StateField<SystemPorts>>(
        {state::field<SystemPorts, &SystemPorts::port92_>("port92"),
         state::field<SystemPorts, &SystemPorts::reset_control_>("reset_control"),
         state::field<SystemPorts, &SystemPorts::post_code_>("post_code")});
};

}  // namespace vezha::devices::platform
