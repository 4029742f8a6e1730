// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <vector>

#include "bus/clock.h"
#include "bus/irq.h"
#include "chardev/chardev.h"
#include "devices/stateful_device.h"

namespace vezha::devices::platform {

/// 16550A serial port. Source: National Semiconductor PC16550D data sheet. The line is infinitely fast towards the host:
/// the transmitter is always empty. Output is collected and given to the host at line ends, when 256 bytes are there,
/// or after a millisecond.
class Uart final : public StatefulDevice<Uart> {
  public:
    /// @param host the other end; nullptr: nothing is connected
    Uart(bus::Bus& bus, bus::Clock& clock, bus::IrqLine& irq, chardev::Chardev* host, u16 port, std::string name);
    ~Uart() override;

    /// Hands over collected output now. Any thread.
    void flush();

    u64 read(u32 range, u64 offset, unsigned size) override;
    void write(u32 range, u64 offset, unsigned size, u64 value) override;
    std::string state_name() const override { return name_; }
    void reset() override;
    Result<> loaded();

  private:
    static constexpr usize kFifo = 16;
    usize room() const { return (fifo_control_ & 1 ? kFifo : 1) - received_.size(); }
    usize take(std::span<const u8> bytes);  // from the host
    void receive(u8 byte);
    void transmit(u8 byte);
    void flush_locked();
    void update_irq();
    u8 interrupt_id() const;
    u8 modem_status() const;
    void set_modem_lines(u8 lines);
    u8 read_register(u64 offset);
    void write_register(u64 offset, u8 value);
    void arm_receive_timeout();

    bus::Clock& clock_;
    bus::IrqLine& irq_;
    chardev::Chardev* host_;
    const std::string name_;
    std::unique_ptr<bus::Timer> flush_timer_, timeout_timer_;
    std::vector<u8> output_;
    bool input_wanted_ = false;  // the host has more than we took

    u8 interrupt_enable_ = 0, fifo_control_ = 0, line_control_ = 0, modem_control_ = 0, scratch_ = 0;
    u8 line_errors_ = 0;                // overrun, until LSR is read
    u8 modem_lines_ = 0, modem_delta_ = 0;
    u16 divisor_ = 12;
    u8 transmit_empty_pending_ = 0, timeout_pending_ = 0;
    u64 timeout_at_ = 0;                // 0: not armed
    std::vector<u8> received_;

  public:
    static constexpr auto kState = std::to_array<state::StateField<Uart>>(
        {state::field<Uart, &Uart::interrupt_enable_>("ier"), state::field<Uart, &Uart::fifo_control_>("fcr"),
         state::field<Uart, &Uart::line_control_>("lcr"), state::field<Uart, &Uart::modem_control_>("mcr"),
         state::field<Uart, &Uart::scratch_>("scr"), state::field<Uart, &Uart::line_errors_>("line_errors"),
         state::field<Uart, &Uart::modem_lines_>("modem_lines"), state::field<Uart, &Uart::modem_delta_>("modem_delta"),
         state::field<Uart, &Uart::divisor_>("divisor"), state::field<Uart, &Uart::transmit_empty_pending_>("thre_pending"),
         state::field<Uart, &Uart::timeout_pending_>("timeout_pending"), state::field<Uart, &Uart::received_>("received")});
};

}  // namespace vezha::devices::platform
