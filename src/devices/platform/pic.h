// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <mutex>

#include "bus/irq.h"
#include "devices/stateful_device.h"

namespace vezha::devices::platform {

/// The two cascaded 8259A interrupt controllers of a PC, with the edge/level registers. Source: Intel 8259A data sheet;
/// ICH9, 13.4. Lines and the ExtIntSource side are for any thread; an innermost lock guards the chips.
class Pic final : public StatefulDevice<Pic>, public bus::ExtIntSource {
  public:
    /// @param intr_changed called, without locks of ours, when pending() may have changed
    Pic(bus::Bus& bus, std::function<void()> intr_changed);
    void set_intr_changed(std::function<void()> callback) { intr_changed_ = std::move(callback); }  ///< before use

    /// Inputs 0 to 15; 2 is the cascade and does nothing.
    bus::IrqLine& line(unsigned irq) { return lines_[irq]; }

    bool pending() override { return intr_.load(std::memory_order_acquire); }
    u8 acknowledge() override;

    u64 read(u32 range, u64 offset, unsigned size) override;
    void write(u32 range, u64 offset, unsigned size, u64 value) override;
    std::string state_name() const override { return "pic"; }
    void reset() override;
    Result<> loaded();

  private:
    struct Chip {
        u8 irr = 0, isr = 0, imr = 0, lines = 0, elcr = 0;
        u8 base = 0;         // ICW2
        u8 icw_step = 0;     // 0: operating; 2 to 4: the ICW expected next
        u8 icw4 = 0, single = 0;
        u8 read_isr = 0, poll = 0, special_mask = 0, rotate_on_aeoi = 0;
        u8 lowest = 7;       // the input of lowest priority
    };
    class Line final : public bus::IrqLine {
      public:
        void set(bool asserted) override { pic->set_line(irq, asserted); }
        Pic* pic = nullptr;
        u8 irq = 0;
    };

  public:
    static constexpr u8 kElcrMask[2] = {0xf8, 0xde};  // IRQ 0, 1, 2, 8 and 13 are always edges

  private:
    void set_line(u8 irq, bool asserted);
    int requested(unsigned chip) const;  // input to serve, or -1
    u8 requests(unsigned chip) const;
    void serve(Chip& chip, u8 input);
    void write_command(Chip& chip, u8 value);
    void write_data(Chip& chip, u8 value);
    void update_locked();
    template <class Change>
    auto changing(Change&& change);

    std::function<void()> intr_changed_;
    std::mutex lock_;
    std::array<Chip, 2> chips_{};
    std::atomic<bool> intr_{false};
    std::array<Line, 16> lines_;

  public:
    static constexpr auto kState = std::to_array<state::StateField<Pic>>({state::field<Pic, &Pic::chips_>("chips")});
};

}  // namespace vezha::devices::platform
