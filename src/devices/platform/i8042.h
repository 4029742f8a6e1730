// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <span>
#include <vector>

#include "bus/irq.h"
#include "devices/platform/platform_events.h"
#include "devices/stateful_device.h"

namespace vezha::devices::platform {

/// The PS/2 keyboard controller with a keyboard and a mouse that answer their commands, ports 0x60 and 0x64.
/// Source: IBM PS/2 Hardware Interface Technical Reference; Intel 8042 as PCs use it.
class I8042 final : public StatefulDevice<I8042> {
  public:
    I8042(bus::Bus& bus, bus::IrqLine& irq1, bus::IrqLine& irq12, PlatformEvents& events);

    /// Scan codes of set 1 as a guest with translation sees them (0xe0 prefixes included). Dropped while the keyboard is
    /// disabled or its queue is full. Any thread.
    void type(std::span<const u8> set1);
    /// A movement of the mouse: counts, up is positive; buttons: bit 0 left, 1 right, 2 middle. Any thread.
    void move_mouse(int dx, int dy, u8 buttons);

    u64 read(u32 range, u64 offset, unsigned size) override;
    void write(u32 range, u64 offset, unsigned size, u64 value) override;
    std::string state_name() const override { return "i8042"; }
    void reset() override;
    Result<> loaded();

  private:
    struct Output {
        u8 byte = 0;
        u8 from_mouse = 0;
    };
    static constexpr usize kQueue = 64;
    void controller_command(u8 command);
    void controller_data(u8 value);
    void keyboard_command(u8 value);
    void mouse_command(u8 value);
    void reset_keyboard();
    void reset_mouse();
    void push(u8 byte, bool mouse);
    void push_reply(std::initializer_list<u8> bytes, bool mouse);
    void set_output_port(u8 value);
    void update_irqs();
    u8 status() const;

    bus::IrqLine& irq1_;
    bus::IrqLine& irq12_;
    PlatformEvents& events_;
    std::vector<Output> queue_;
    u8 config_ = 0, output_port_ = 0, last_read_ = 0, last_was_command_ = 0;
    u8 pending_ = 0;            // controller command that waits for its data byte
    u8 keyboard_pending_ = 0, keyboard_scanning_ = 0, keyboard_set_ = 2;
    u8 mouse_pending_ = 0, mouse_reporting_ = 0, mouse_rate_ = 100, mouse_resolution_ = 2, mouse_scaling_ = 0, mouse_remote_ = 0,
       mouse_wrap_ = 0, mouse_buttons_ = 0;

  public:
    static constexpr auto kState = std::to_array<state::StateField<I8042>>(
        {state::field<I8042, &I8042::queue_>("queue"), state::field<I8042, &I8042::config_>("config"),
         state::field<I8042, &I8042::output_port_>("output_port"), state::field<I8042, &I8042::last_read_>("last_read"),
         state::field<I8042, &I8042::pending_>("pending"), state::field<I8042, &I8042::keyboard_pending_>("keyboard_pending"),
         state::field<I8042, &I8042::keyboard_scanning_>("keyboard_scanning"),
         state::field<I8042, &I8042::keyboard_set_>("keyboard_set"),
         state::field<I8042, &I8042::mouse_pending_>("mouse_pending"),
         state::field<I8042, &I8042::mouse_reporting_>("mouse_reporting"),
         state::field<I8042, &I8042::mouse_rate_>("mouse_rate"),
         state::field<I8042, &I8042::mouse_resolution_>("mouse_resolution"),
         state::field<I8042, &I8042::mouse_scaling_>("mouse_scaling"),
         state::field<I8042, &I8042::mouse_remote_>("mouse_remote"), state::field<I8042, &I8042::mouse_wrap_>("mouse_wrap"),
         state::field<I8042, &I8042::mouse_buttons_>("mouse_buttons")});
};

}  // namespace vezha::devices::platform
