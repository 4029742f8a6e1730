// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <functional>
#include <mutex>

#include "bus/irq.h"
#include "devices/stateful_device.h"

namespace vezha::devices::platform {

/// I/O APIC with 24 inputs. Source: Intel 82093AA data sheet; ICH9, 13.5 (EOI register, version 0x20).
/// Lines and eoi() are for any thread; an innermost lock guards the state, and messages are sent after it is released.
class IoApic final : public StatefulDevice<IoApic> {
  public:
    static constexpr unsigned kPins = 24;
    /// Tells the engine what a pin would send: Vm::set_ioapic_route.
    using RouteChanged = std::function<void(u32 pin, const bus::MsiMessage& message, bool level, bool masked)>;

    IoApic(bus::Bus& bus, bus::MsiSink& sink, RouteChanged route_changed, u64 base = 0xfec0'0000);

    bus::IrqLine& line(unsigned pin) { return lines_[pin]; }
    /// A local APIC completed the level-triggered interrupt `vector`. Any thread.
    void eoi(u8 vector);

    u64 read(u32 range, u64 offset, unsigned size) override;
    void write(u32 range, u64 offset, unsigned size, u64 value) override;
    std::string state_name() const override { return "ioapic"; }
    void reset() override;
    Result<> loaded();

  private:
    class Line final : public bus::IrqLine {
      public:
        void set(bool asserted) override { ioapic->set_line(pin, asserted); }
        IoApic* ioapic = nullptr;
        u8 pin = 0;
    };
    struct Outgoing;
    void set_line(u8 pin, bool asserted);
    void try_send(u8 pin, Outgoing& out);
    void set_redirection(u8 pin, u64 value, u64 touched, Outgoing& out);
    void announce_all();

    bus::MsiSink& sink_;
    RouteChanged route_changed_;
    std::mutex lock_;
    u32 select_ = 0, id_ = 0, level_ = 0;  // level_: the inputs as they are
    u32 irr_ = 0;                          // edges not delivered yet
    std::array<u64, kPins> redirection_{};
    std::array<Line, kPins> lines_;

  public:
    static constexpr auto kState = std::to_array<state::StateField<IoApic>>(
        {state::field<IoApic, &IoApic::select_>("select"), state::field<IoApic, &IoApic::id_>("id"),
         state::field<IoApic, &IoApic::level_>("level"), state::field<IoApic, &IoApic::irr_>("irr"),
         state::field<IoApic, &IoApic::redirection_>("redirection")});
};

}  // namespace vezha::devices::platform
