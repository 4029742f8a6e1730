// SPDX-License-Identifier: Apache-2.0
#include "devices/platform/pit.h"

#include <algorithm>

namespace vezha::devices::platform {

namespace {
enum Range : u32 { kCounters, kPort61 };
constexpr u64 kMinPeriodNs = 50'000;  // bounds what a hostile guest can make the host do
constexpr bool periodic(u8 mode) { return mode == 2 || mode == 3; }

u16 to_bcd(u16 value) {
    return static_cast<u16>(value % 10 | value / 10 % 10 << 4 | value / 100 % 10 << 8 | value / 1000 % 10 << 12);
}
u32 from_bcd(u16 value) {
    return (value & 0xfu) + 10 * (value >> 4 & 0xfu) + 100 * (value >> 8 & 0xfu) + 1000 * (value >> 12 & 0xfu);
}
}  // namespace

Pit::Pit(bus::Bus& bus, bus::Clock& clock, bus::IrqLine& irq0) : clock_(clock), irq0_(irq0) {
    timer_ = clock.new_timer([this] {
        std::lock_guard lock(mutex());
        expired();
    });
    reset();
    map(bus, bus::Space::Pio, 0x40, 4, kCounters, "pit");
    map(bus, bus::Space::Pio, 0x61, 1, kPort61, "port61");
}

void Pit::reset() {
    counters_ = {};
    counters_[2].gate = 0;
    port61_ = 0;
    next_ns_ = 0;
    timer_->cancel();
    irq0_.lower();
}

Result<> Pit::loaded() {
    for (Counter& counter : counters_) {
        if (counter.count == 0 || counter.count > 0x1'0000 || counter.mode > 5 || counter.access == 0 || counter.access > 3 ||
            counter.latch_bytes > 2)
            return fail(ErrorCode::InvalidFormat, "pit: impossible counter state");
        counter.start_ns = std::min(counter.start_ns, clock_.now_ns());
    }
    schedule();
    return {};
}

u64 Pit::elapsed(const Counter& counter) const {
    const u64 now = clock_.now_ns();
    return now > counter.start_ns ? bus::ns_to_ticks(now - counter.start_ns, kHz) : 0;
}

u16 Pit::current(const Counter& counter) const {
    if (!counter.running) return static_cast<u16>(counter.count);
    const u64 ticks = elapsed(counter);
    u64 value;
    switch (counter.mode) {
        case 2: value = counter.count - ticks % counter.count; break;
        case 3: value = counter.count - 2 * ticks % counter.count; break;  // counts by two
        default: value = counter.count - ticks; break;                     // wraps on after the end
    }
    return counter.bcd ? to_bcd(static_cast<u16>((value % 10000 + 10000) % 10000)) : static_cast<u16>(value);
}

bool Pit::output(const Counter& counter) const {
    if (!counter.running) return counter.mode != 0;
    const u64 ticks = elapsed(counter);
    switch (counter.mode) {
        case 0: return ticks >= counter.count;
        case 1: return ticks >= counter.count;
        case 2: return !counter.gate || ticks % counter.count != counter.count - 1;
        case 3: return !counter.gate || ticks % counter.count < (counter.count + 1) / 2;
        default: return ticks != counter.count;
    }
}

void Pit::start(unsigned index) {
    counters_[index].start_ns = clock_.now_ns();
    counters_[index].running = 1;
    counters_[index].null_count = 0;
}

void Pit::load_count(unsigned index, u32 value) {
    Counter& counter = counters_[index];
    if (counter.bcd) value = from_bcd(static_cast<u16>(value));
    counter.count = value ? value : counter.bcd ? 10000 : 0x1'0000;
    if (counter.count == 1 && periodic(counter.mode)) counter.count = 2;  // 1 is illegal in these modes
    counter.null_count = 0;
    if (counter.mode != 1 && counter.mode != 5) start(index);  // those wait for the gate
    if (index == 0) {
        if (counter.mode == 0) irq0_.lower();
        schedule();
    }
}

void Pit::set_gate(unsigned index, bool level) {
    Counter& counter = counters_[index];
    const bool rising = level && !counter.gate;
    counter.gate = level;
    // Modes 1 and 5 start, 2 and 3 restart at a rising edge. (Suspending modes 0 and 4 is not observable on a PC.)
    if (rising && (periodic(counter.mode) || counter.mode == 1 || counter.mode == 5)) start(index);
}

void Pit::schedule() {
    const Counter& counter = counters_[0];
    if (!counter.running || counter.mode == 1 || counter.mode == 5) {
        next_ns_ = 0;
        return timer_->cancel();
    }
    const u64 ticks = elapsed(counter);
    u64 at;
    if (periodic(counter.mode)) {
        at = (ticks / counter.count + 1) * counter.count;
    } else if (ticks < counter.count) {
        at = counter.count;
    } else {
        if (counter.mode == 0) irq0_.raise();
        next_ns_ = 0;
        return timer_->cancel();
    }
    next_ns_ = counter.start_ns + bus::ticks_to_ns(at, kHz) + 1;  // rounding must not fall before the tick
    if (periodic(counter.mode)) next_ns_ = std::max(next_ns_, clock_.now_ns() + kMinPeriodNs);
    timer_->arm(next_ns_);
}

void Pit::expired() {
    if (next_ns_ == 0 || clock_.now_ns() < next_ns_) return;  // rearmed meanwhile
    const u8 mode = counters_[0].mode;
    if (mode == 0) irq0_.raise();
    else irq0_.pulse();
    if (periodic(mode)) return schedule();
    next_ns_ = 0;
}

void Pit::write_control(u8 value) {
    const unsigned index = value >> 6;
    if (index == 3) {  // read-back
        for (unsigned i = 0; i < 3; ++i) {
            if (!(value >> (i + 1) & 1)) continue;
            Counter& counter = counters_[i];
            if (!(value & 0x20) && !counter.latch_bytes) {
                counter.latched = current(counter);
                counter.latch_bytes = counter.access == 3 ? 2 : 1;
            }
            if (!(value & 0x10) && !counter.status_latched) {
                counter.status = static_cast<u8>(output(counter) << 7 | counter.null_count << 6 | counter.access << 4 |
                                                 counter.mode << 1 | counter.bcd);
                counter.status_latched = 1;
            }
        }
        return;
    }
    Counter& counter = counters_[index];
    const u8 access = value >> 4 & 3;
    if (access == 0) {  // counter latch
        if (counter.latch_bytes) return;
        counter.latched = current(counter);
        counter.latch_bytes = counter.access == 3 ? 2 : 1;
        return;
    }
    counter.access = access;
    counter.mode = value >> 1 & 7;
    if (counter.mode > 5) counter.mode -= 4;
    counter.bcd = value & 1;
    counter.write_high_next = counter.read_high_next = counter.latch_bytes = counter.status_latched = 0;
    counter.null_count = 1;
    counter.running = 0;
    if (index == 0) {
        // OUT goes low in mode 0 and high in the others.
        irq0_.lower();
        schedule();
    }
}

u8 Pit::read_counter(Counter& counter) {
    if (counter.status_latched) {
        counter.status_latched = 0;
        return counter.status;
    }
    if (counter.latch_bytes) {
        const bool high = counter.access == 2 || counter.latch_bytes == 1 ? counter.access != 1 : false;
        --counter.latch_bytes;
        return static_cast<u8>(high ? counter.latched >> 8 : counter.latched);
    }
    const u16 value = current(counter);
    if (counter.access == 1) return static_cast<u8>(value);
    if (counter.access == 2) return static_cast<u8>(value >> 8);
    counter.read_high_next ^= 1;
    return static_cast<u8>(counter.read_high_next ? value : value >> 8);
}

void Pit::write_counter(unsigned index, u8 value) {
    Counter& counter = counters_[index];
    switch (counter.access) {
        case 1: return load_count(index, value);
        case 2: return load_count(index, u32{value} << 8);
        default:
            if (!counter.write_high_next) {
                counter.write_low = value;
                counter.write_high_next = 1;
                if (counter.mode == 0) counter.running = 0;  // the first byte stops the count
                return;
            }
            counter.write_high_next = 0;
            load_count(index, counter.write_low | u32{value} << 8);
    }
}

u64 Pit::read(u32 range, u64 offset, unsigned size) {
    if (range == kPort61) {
        // Bit 4 toggles with every memory refresh, 15.085 us.
        const u8 refresh = clock_.now_ns() / 15085 & 1;
        return static_cast<u64>((port61_ & 0x0f) | refresh << 4 | output(counters_[2]) << 5);
    }
    u64 value = 0;
    for (unsigned i = 0; i < size && offset + i < 3; ++i) value |= u64{read_counter(counters_[offset + i])} << (8 * i);
    return value;
}

void Pit::write(u32 range, u64 offset, unsigned size, u64 value) {
    if (range == kPort61) {
        port61_ = value & 0x0f;
        return set_gate(2, port61_ & 1);
    }
    for (unsigned i = 0; i < size && offset + i < 4; ++i) {
        const u8 byte = static_cast<u8>(value >> (8 * i));
        if (offset + i == 3) write_control(byte);
        else write_counter(static_cast<unsigned>(offset + i), byte);
    }
}

}  // namespace vezha::devices::platform
