// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>

#include "bus/clock.h"
#include "engine/dbt/context.h"

namespace vezha::engine::dbt {

/// What an interrupt message asks of the processors it reaches (SDM vol. 3A, 11.6.1 and 11.11).
struct InterruptMessage {
    enum Delivery : u8 { Fixed = 0, LowestPriority = 1, Smi = 2, Nmi = 4, Init = 5, StartUp = 6, ExtInt = 7 };
    u8 vector = 0;
    Delivery delivery = Fixed;
    bool logical = false;
    bool level = false;      ///< trigger mode
    bool from_x2apic = false;  ///< `destination` has 32 bits; broadcast is all ones
    u32 destination = 0;
};

/// One processor's local APIC, in xAPIC and x2APIC mode (SDM vol. 3A, chapter 11). The registers belong to the vCPU's
/// thread; post() and what it touches (IRR, TMR) may come from any thread, and the destination registers are read by any.
class Lapic {
  public:
    /// Sends a message of this processor's ICR. Set by the fabric.
    struct Outside {
        std::function<void(Lapic& source, const InterruptMessage& message, u32 shorthand)> send;
        std::function<void(u8 vector)> eoi;
        bus::Clock* clock = nullptr;
        u64 tsc_hz = 0;
    };
    Lapic(Context& ctx, u32 apic_id, const Outside& outside);
    ~Lapic();

    /// After power-on and INIT; the ID stays.
    void reset();

    u32 apic_id() const { return apic_id_; }
    Context& context() { return ctx_; }

    /// xAPIC page.
    u32 mmio_read(u32 offset);
    void mmio_write(u32 offset, u32 value);
    /// x2APIC MSRs. @return false for #GP
    bool msr_read(u32 index, u64& value);
    bool msr_write(u32 index, u64 value);
    /// IA32_APIC_BASE. @return false for #GP
    bool write_base(u64 value);

    /// Any thread: makes a vector pend (or NMI, INIT, SIPI) and wakes the vCPU.
    void post(const InterruptMessage& message);
    bool matches(const InterruptMessage& message) const;
    /// Any thread: lower is the better candidate for lowest-priority delivery.
    u32 arbitration_priority() const;

    // ---- what the processor core asks ----
    bool hardware_enabled() const;
    bool x2apic() const;
    /// The vector that would be taken now, or -1.
    int pending_vector() const;
    /// INTA: moves the vector from IRR to ISR.
    void acknowledge(u8 vector);
    /// Back again: for a state saved between the two.
    void unacknowledge(u8 vector);
    /// The PIC's INTR reaches this processor (LINT0 as ExtINT, or the APIC is off).
    bool accepts_ext_int() const;
    u64 cr8() const { return get(x86::lapic::kTpr) >> 4; }
    void set_cr8(u64 value);
    /// A SIPI's vector, or -1; forgets it.
    int take_sipi() { return sipi_vector_.exchange(-1); }
    bool nmi_waiting() const { return nmis_.load() != 0; }
    /// How many NMIs came since the last call.
    u32 take_nmis() { return nmis_.exchange(0); }
    /// A hypercall kick or similar arrived for a halted processor; forgets it.
    bool take_unhalt() { return unhalted_.exchange(false); }
    bool unhalt_pending() const { return unhalted_.load(); }
    void unhalt();

    u64 tsc_deadline() const;
    void set_tsc_deadline(u64 value);
    /// The guest's TSC jumped (WRMSR): an armed deadline moves.
    void tsc_changed();

    void save(x86::LapicState& out) const;
    void load(const x86::LapicState& in);

  private:
    u32 get(u32 offset) const { return registers_[offset / 16].load(std::memory_order_relaxed); }
    void put(u32 offset, u32 value) { registers_[offset / 16].store(value, std::memory_order_relaxed); }
    int highest(u32 bank) const;
    u32 ppr() const;
    bool software_enabled() const { return get(x86::lapic::kSpurious) & 0x100; }
    u32 read(u32 offset);
    void write(u32 offset, u32 value);
    void write_icr(u64 value, bool x2);
    void end_of_interrupt();
    void error(u32 bit);
    void deliver_lvt(u32 lvt);
    void recheck();
    void set_lvt(u32 offset, u32 value);

    // Timer.
    enum class TimerMode : u8 { OneShot, Periodic, TscDeadline, Reserved };
    TimerMode timer_mode() const { return static_cast<TimerMode>(get(x86::lapic::kLvtTimer) >> 17 & 3); }
    u64 divisor() const;
    u64 period_ns() const;
    void start_timer(u32 initial);
    void timer_fired();
    void settle_timer();
    void arm_deadline_locked();
    u32 current_count() const;

    Context& ctx_;
    const u32 apic_id_;
    const Outside& outside_;
    std::array<std::atomic<u32>, 64> registers_{};
    std::atomic<u32> pending_errors_{0};
    std::atomic<int> sipi_vector_{-1};
    std::atomic<bool> unhalted_{false};
    std::atomic<u32> nmis_{0};

    mutable std::mutex timer_mutex_;  // innermost; guards what follows
    u64 timer_start_ns_ = 0;          // when the count was loaded (periodic: last period's start)
    bool timer_running_ = false;
    u64 tsc_deadline_ = 0;
    std::unique_ptr<bus::Timer> timer_;  // last: its callback uses the rest
};

/// The timer counts bus cycles of 1 ns: a 1 GHz APIC clock, as under KVM.
inline constexpr u64 kApicTimerHz = 1'000'000'000;

}  // namespace vezha::engine::dbt
