// SPDX-License-Identifier: Apache-2.0
#include "devices/platform/hpet.h"

#include <algorithm>

namespace vezha::devices::platform {

namespace {
constexpr u64 kEnable = 1, kLegacy = 2;
// Timer configuration, 2.3.8.
constexpr u64 kLevel = 1 << 1, kInterrupt = 1 << 2, kPeriodic = 1 << 3, kPeriodicCapable = 1 << 4, kWideCapable = 1 << 5,
              kValueSet = 1 << 6, k32Bits = 1 << 8, kFsb = 1 << 14, kFsbCapable = 1 << 15;
constexpr u64 kRouteMask = 0x1f << 9;
constexpr u64 kTimerWritable = kLevel | kInterrupt | kPeriodic | k32Bits | kRouteMask | kFsb;
// Without messages or legacy mode, a timer can only have IOAPIC input 2.
constexpr u64 kTimerFixed = kPeriodicCapable | kWideCapable | kFsbCapable | u64{1u << 2} << 32;
constexpr u64 kCapabilities = u64{Hpet::kPeriodFs} << 32 | 0x8086u << 16 | 1u << 15 | 1u << 13 | (Hpet::kTimers - 1) << 8 | 1;
constexpr u64 kMinPeriod = 5000;  // ticks; bounds what a hostile guest can make us do
}  // namespace

Hpet::Hpet(bus::Bus& bus, bus::Clock& clock, bus::MsiSink& msi, bus::IrqLine& irq0, bus::IrqLine& irq8, u64 base)
    : clock_(clock), msi_(msi), irq0_(irq0), irq8_(irq8), pit_input_(irq0_), rtc_input_(irq8_), timer0_input_(irq0_),
      timer1_input_(irq8_), plain_input_(irq0_), pit_line_(pit_input_), rtc_line_(rtc_input_) {
    for (unsigned n = 0; n < kTimers; ++n) {
        alarms_[n] = clock.new_timer([this, n] {
            std::lock_guard lock(mutex());
            expired(n);
        });
    }
    reset();
    map(bus, bus::Space::Mmio, base, 0x400, 0, "hpet");
}

void Hpet::reset() {
    config_ = status_ = counter_at_start_ = start_ns_ = 0;
    for (unsigned n = 0; n < kTimers; ++n) {
        timers_[n] = {.config = kTimerFixed, .comparator = ~u64{0}};
        alarms_[n]->cancel();
    }
    timer0_input_.lower();
    timer1_input_.lower();
    plain_input_.lower();
    pit_line_.connect(true);
    rtc_line_.connect(true);
}

Result<> Hpet::loaded() {
    config_ &= kEnable | kLegacy;
    start_ns_ = std::min(start_ns_, clock_.now_ns());
    pit_line_.connect(!(config_ & kLegacy));
    rtc_line_.connect(!(config_ & kLegacy));
    for (unsigned n = 0; n < kTimers; ++n) {
        TimerState& t = timers_[n];
        t.config = (t.config & kTimerWritable) | kTimerFixed;
        t.value_set &= 1;
        schedule(n);
    }
    return {};
}

u64 Hpet::counter() const {
    if (!(config_ & kEnable)) return counter_at_start_;
    return counter_at_start_ + bus::ns_to_ticks(clock_.now_ns() - start_ns_, kHz);
}

bus::IrqLine* Hpet::line_of(unsigned n) {
    if (config_ & kLegacy) {
        if (n == 0) return &timer0_input_;
        if (n == 1) return &timer1_input_;
    }
    return (timers_[n].config & kRouteMask) >> 9 == 2 ? &plain_input_ : nullptr;
}

void Hpet::fire(unsigned n) {
    TimerState& t = timers_[n];
    if (t.config & kLevel) status_ |= u64{1} << n;
    if (!(t.config & kInterrupt)) return;
    if (t.config & kFsb) return msi_.send({t.fsb >> 32, static_cast<u32>(t.fsb)});
    bus::IrqLine* line = line_of(n);
    if (!line) return;
    if (t.config & kLevel) line->raise();
    else line->pulse();
}

void Hpet::release(unsigned n) {
    if (bus::IrqLine* line = line_of(n)) line->lower();
}

void Hpet::schedule(unsigned n) {
    TimerState& t = timers_[n];
    t.next_ns = 0;
    alarms_[n]->cancel();
    if (!(config_ & kEnable)) return;
    // A timer whose interrupt is off need not run: its status bit is of no use to anybody then.
    if (!(t.config & kInterrupt)) return;
    const u64 now = counter(), mask = wide(t) ? ~u64{0} : 0xffff'ffff;
    if ((t.config & kPeriodic) && t.period) {
        // Periods that passed unseen are dropped; the phase is kept.
        const u64 period = std::max(t.period & mask, kMinPeriod), late = (now - t.comparator) & mask;
        if (late < mask / 2) t.comparator = (t.comparator + (late / period + 1) * period) & mask;
    }
    u64 ticks = (t.comparator - now) & mask;
    if (ticks == 0) ticks = wide(t) ? 1 : u64{1} << 32;
    ticks = std::min<u64>(ticks, kHz * 86400 * 365);
    t.next_ns = clock_.now_ns() + std::max<u64>(bus::ticks_to_ns(ticks, kHz), 1);
    alarms_[n]->arm(t.next_ns);
}

void Hpet::expired(unsigned n) {
    TimerState& t = timers_[n];
    if (!t.next_ns || clock_.now_ns() < t.next_ns) return;
    fire(n);
    if (!(t.config & kPeriodic) && wide(t)) {
        t.next_ns = 0;  // the counter comes by again in 5,800 years
        return;
    }
    schedule(n);
}

u64 Hpet::read_register(u64 offset) const {
    switch (offset) {
        case 0x000: return kCapabilities;
        case 0x010: return config_;
        case 0x020: return status_;
        case 0x0f0: return counter();
        default: break;
    }
    if (offset < 0x100 || offset >= 0x100 + kTimers * 0x20) return 0;
    const TimerState& t = timers_[(offset - 0x100) / 0x20];
    switch (offset & 0x1f) {
        case 0x00: return t.config;
        case 0x08: return t.comparator;
        case 0x10: return t.fsb;
        default: return 0;
    }
}

void Hpet::write_timer(unsigned n, u64 offset, u64 value, u64 touched) {
    TimerState& t = timers_[n];
    switch (offset) {
        case 0x00: {
            const u64 changeable = kTimerWritable & touched;
            release(n);
            t.config = (t.config & ~changeable) | (value & changeable);
            if (value & touched & kValueSet) t.value_set = 1;
            if (!wide(t)) {
                t.comparator &= 0xffff'ffff;
                t.period &= 0xffff'ffff;
            }
            break;
        }
        case 0x08: {
            if (!wide(t)) {
                value &= 0xffff'ffff;
                touched &= 0xffff'ffff;
            }
            if (!(t.config & kPeriodic) || t.value_set) t.comparator = (t.comparator & ~touched) | (value & touched);
            if (t.config & kPeriodic) t.period = (t.period & ~touched) | (value & touched);
            if (!wide(t) || (touched >> 32)) t.value_set = 0;
            break;
        }
        case 0x10: t.fsb = (t.fsb & ~touched) | (value & touched); return;
        default: return;
    }
    schedule(n);
}

void Hpet::write_register(u64 offset, u64 value, u64 touched) {
    switch (offset) {
        case 0x010: {
            const u64 old = config_, changeable = (kEnable | kLegacy) & touched;
            const u64 wanted = (old & ~changeable) | (value & changeable);
            if ((old ^ wanted) & kLegacy) {
                for (unsigned n = 0; n < kTimers; ++n) release(n);
                pit_line_.connect(!(wanted & kLegacy));
                rtc_line_.connect(!(wanted & kLegacy));
            }
            const u64 count = counter();
            config_ = wanted;
            if ((old ^ wanted) & kEnable) {
                counter_at_start_ = count;
                start_ns_ = clock_.now_ns();
                for (unsigned n = 0; n < kTimers; ++n) schedule(n);
            }
            return;
        }
        case 0x020:
            for (unsigned n = 0; n < kTimers; ++n)
                if (value & touched & status_ & (u64{1} << n)) release(n);
            status_ &= ~(value & touched);
            return;
        case 0x0f0:
            counter_at_start_ = (counter() & ~touched) | (value & touched);
            start_ns_ = clock_.now_ns();
            for (unsigned n = 0; n < kTimers; ++n) schedule(n);
            return;
        default: break;
    }
    if (offset >= 0x100 && offset < 0x100 + kTimers * 0x20)
        write_timer(static_cast<unsigned>((offset - 0x100) / 0x20), offset & 0x1f, value, touched);
}

u64 Hpet::read(u32, u64 offset, unsigned size) {
    if (offset % 8 + size > 8) return 0;  // 2.4.7: only aligned accesses are defined
    return read_register(offset & ~u64{7}) >> (8 * (offset % 8));
}

void Hpet::write(u32, u64 offset, unsigned size, u64 value) {
    const unsigned shift = 8 * (offset % 8);
    if (offset % 8 + size > 8) return;
    write_register(offset & ~u64{7}, value << shift, mask_bytes(size) << shift);
}

}  // namespace vezha::devices::platform
