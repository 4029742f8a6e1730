// SPDX-License-Identifier: Apache-2.0
#include "devices/platform/rtc.h"

#include <algorithm>
#include <chrono>

namespace vezha::devices::platform {

namespace {
constexpr u8 kBSet = 0x80, kBPeriodic = 0x40, kBAlarm = 0x20, kBUpdate = 0x10, kBBinary = 0x04, kB24Hours = 0x02;
constexpr u8 kCInterrupt = 0x80, kCPeriodic = 0x40, kCAlarm = 0x20, kCUpdate = 0x10;
constexpr u8 kAUpdating = 0x80;
constexpr u64 kUpdateNs = 244'000;  // UIP is set that long before the registers change
}  // namespace

Rtc::Rtc(bus::Bus& bus, bus::Clock& clock, bus::IrqLine& irq8, std::function<u64()> wall_clock_ns)
    : clock_(clock), irq_(irq8), wall_clock_ns_(std::move(wall_clock_ns)) {
    update_timer_ = clock.new_timer([this] {
        std::lock_guard lock(mutex());
        if (!update_at_ || clock_.now_ns() < update_at_) return;
        update_at_ = 0;
        const u64 second = now_ns() / kNsPerSec;
        u8 flags = second != seen_second_ ? kCUpdate : 0;
        // A late timer may have skipped the alarm's second; a day is the alarm's longest period.
        for (u64 s = std::max(seen_second_ + 1, second > 86400 ? second - 86400 : 0); s <= second; ++s)
            if (alarm_matches(s)) flags |= kCAlarm;
        seen_second_ = second;
        if (flags) raise(flags);
        schedule_update();
    });
    periodic_timer_ = clock.new_timer([this] {
        std::lock_guard lock(mutex());
        if (!periodic_at_ || clock_.now_ns() < periodic_at_) return;
        raise(kCPeriodic);
        schedule_periodic();
    });
    cmos_[kA] = 0x26;
    cmos_[kB] = kB24Hours;
    cmos_[kD] = 0x80;
    reset();
    map(bus, bus::Space::Pio, 0x70, 2, 0, "rtc");
}

void Rtc::reset() {
    // A reset clears the interrupt enables and flags; time and memory are kept by the battery.
    cmos_[kB] &= static_cast<u8>(~(kBPeriodic | kBAlarm | kBUpdate | 0x08));
    cmos_[kC] = 0;
    index_ = 0;
    irq_.lower();
    seen_second_ = now_ns() / kNsPerSec;
    schedule_update();
    schedule_periodic();
}

Result<> Rtc::loaded() {
    constexpr i64 kLimit = i64{200} * 365 * 86400 * static_cast<i64>(kNsPerSec);
    offset_ns_ = std::clamp(offset_ns_, -kLimit, kLimit);
    index_ &= 0x7f;
    seen_second_ = now_ns() / kNsPerSec;
    irq_.set(cmos_[kC] & kCInterrupt);
    schedule_update();
    schedule_periodic();
    return {};
}

void Rtc::set_memory_sizes(u64 low, u64 high) {
    auto put = [&](u8 index, u64 value, unsigned bytes) {
        for (unsigned i = 0; i < bytes; ++i) cmos_[index + i] = static_cast<u8>(value >> (8 * i));
    };
    put(0x15, 640, 2);  // KiB of base memory
    const u64 extended_kib = low > kMiB ? std::min<u64>((low - kMiB) / kKiB, 0xffff) : 0;
    put(0x17, extended_kib, 2);
    put(0x30, extended_kib, 2);
    put(0x34, low > 16 * kMiB ? std::min<u64>((low - 16 * kMiB) / (64 * kKiB), 0xffff) : 0, 2);
    put(0x5b, std::min<u64>(high / (64 * kKiB), 0xff'ffff), 3);
}

// Unsigned: an offset from a damaged state must not overflow.
u64 Rtc::now_ns() const { return wall_clock_ns_() + static_cast<u64>(offset_ns_); }

bool Rtc::stopped() const { return (cmos_[kB] & kBSet) || (cmos_[kA] & 0x60) == 0x60; }

u8 Rtc::encode(unsigned value) const {
    return static_cast<u8>(cmos_[kB] & kBBinary ? value : value / 10 % 10 << 4 | value % 10);
}
unsigned Rtc::decode(u8 value) const { return cmos_[kB] & kBBinary ? value : (value >> 4) * 10u + (value & 0xf); }

u8 Rtc::encode_hours(unsigned hours) const {
    if (cmos_[kB] & kB24Hours) return encode(hours);
    return static_cast<u8>(encode(hours % 12 ? hours % 12 : 12) | (hours >= 12 ? 0x80 : 0));
}
unsigned Rtc::decode_hours(u8 value) const {
    if (cmos_[kB] & kB24Hours) return decode(value);
    return decode(value & 0x7f) % 12 + (value & 0x80 ? 12 : 0);
}

void Rtc::show_time() {
    if (stopped()) return;
    using namespace std::chrono;
    const auto since = seconds(now_ns() / kNsPerSec);
    const auto today = floor<days>(since);
    const year_month_day date{sys_days(today)};
    const auto clock = since - today;
    cmos_[kSeconds] = encode(static_cast<unsigned>(clock.count() % 60));
    cmos_[kMinutes] = encode(static_cast<unsigned>(clock.count() / 60 % 60));
    cmos_[kHours] = encode_hours(static_cast<unsigned>(clock.count() / 3600));
    cmos_[kWeekday] = encode(weekday(sys_days(today)).c_encoding() + 1);
    cmos_[kDay] = encode(unsigned(date.day()));
    cmos_[kMonth] = encode(unsigned(date.month()));
    const int y = int(date.year());
    cmos_[kYear] = encode(static_cast<unsigned>(y % 100));
    cmos_[kCentury] = encode(static_cast<unsigned>(y / 100));
}

void Rtc::take_time() {
    using namespace std::chrono;
    const int y = static_cast<int>(decode(cmos_[kCentury]) * 100 + decode(cmos_[kYear]));
    const year_month_day date{year{y}, month{decode(cmos_[kMonth])}, day{decode(cmos_[kDay])}};
    const unsigned h = decode_hours(cmos_[kHours]), m = decode(cmos_[kMinutes]), s = decode(cmos_[kSeconds]);
    if (!date.ok() || y < 1970 || y > 2199 || h > 23 || m > 59 || s > 59) return;  // nonsense: the time goes on as it was
    const i64 wanted = (sys_days(date).time_since_epoch().count() * i64{86400} + h * 3600 + m * 60 + s);
    offset_ns_ = wanted * static_cast<i64>(kNsPerSec) - static_cast<i64>(wall_clock_ns_());
    seen_second_ = now_ns() / kNsPerSec;
}

bool Rtc::alarm_matches(u64 second) const {
    const auto matches = [](u8 alarm, unsigned wanted, unsigned is) { return alarm >= 0xc0 || wanted == is; };
    return matches(cmos_[1], decode(cmos_[1]), second % 60) && matches(cmos_[3], decode(cmos_[3]), second / 60 % 60) &&
           matches(cmos_[5], decode_hours(cmos_[5]), second / 3600 % 24);
}

void Rtc::raise(u8 flags) {
    cmos_[kC] |= flags;
    if (cmos_[kB] & cmos_[kC] & (kCPeriodic | kCAlarm | kCUpdate)) {
        cmos_[kC] |= kCInterrupt;
        irq_.raise();
    }
}

void Rtc::schedule_update() {
    update_at_ = 0;
    // The flags are only worth a timer while somebody may see an interrupt; polled flags are set when C is read.
    if (stopped() || !(cmos_[kB] & (kBAlarm | kBUpdate))) return update_timer_->cancel();
    update_at_ = clock_.now_ns() + (kNsPerSec - now_ns() % kNsPerSec);
    update_timer_->arm(update_at_);
}

void Rtc::schedule_periodic() {
    const u8 rate = cmos_[kA] & 0x0f;
    if (!rate || !(cmos_[kB] & kBPeriodic) || (cmos_[kA] & 0x70) != 0x20) {
        periodic_at_ = 0;
        return periodic_timer_->cancel();
    }
    const u64 period = bus::ticks_to_ns(u64{1} << ((rate <= 2 ? rate + 7 : rate) - 1), 32768);
    const u64 now = clock_.now_ns();
    // Keeps its phase; periods that passed unseen are dropped.
    periodic_at_ = periodic_at_ && periodic_at_ + period > now ? periodic_at_ + period : now + period;
    periodic_timer_->arm(periodic_at_);
}

u8 Rtc::read_register(u8 index) {
    switch (index) {
        case kA: {
            const bool updating = !stopped() && now_ns() % kNsPerSec >= kNsPerSec - kUpdateNs;
            return static_cast<u8>((cmos_[kA] & 0x7f) | (updating ? kAUpdating : 0));
        }
        case kC: {
            const u64 second = now_ns() / kNsPerSec;
            if (!stopped() && second != seen_second_ && !update_at_) {
                cmos_[kC] |= kCUpdate;
                if (alarm_matches(second)) cmos_[kC] |= kCAlarm;
                seen_second_ = second;
            }
            const u8 value = cmos_[kC];
            cmos_[kC] = 0;
            irq_.lower();
            return value;
        }
        default:
            if (index <= kYear || index == kCentury) show_time();
            return cmos_[index];
    }
}

void Rtc::write_register(u8 index, u8 value) {
    switch (index) {
        case kA:
        case kB: {
            // Time stands still in the registers while SET or the divider's reset stops it, whichever ends last.
            const bool was_stopped = stopped();
            if (!was_stopped) show_time();
            cmos_[index] = index == kA ? value & 0x7f : value;
            if (cmos_[kB] & kBSet) cmos_[kB] &= static_cast<u8>(~kBUpdate);
            if (was_stopped && !stopped()) take_time();
            if (cmos_[kC] & cmos_[kB] & 0x70) raise(0);
            schedule_update();
            return schedule_periodic();
        }
        case kC:
        case kD: return;
        default: break;
    }
    const bool time = index == kCentury || (index <= kYear && index != 1 && index != 3 && index != 5);
    if (time && !stopped()) {
        // Written while it runs: the other fields go on.
        show_time();
        cmos_[index] = value;
        return take_time();
    }
    cmos_[index] = value;
}

u64 Rtc::read(u32, u64 offset, unsigned size) {
    u64 value = offset == 0 ? 0xff : read_register(index_);  // the index port is write-only
    if (offset == 0 && size > 1) value |= u64{read_register(index_)} << 8;
    return size > 1 && offset == 0 ? value : value | (mask_bytes(size) & ~u64{0xff});
}

void Rtc::write(u32, u64 offset, unsigned size, u64 value) {
    // Bit 7 of the index gates NMI, which nothing here raises.
    if (offset == 0) index_ = value & 0x7f;
    if (offset == 1) write_register(index_, static_cast<u8>(value));
    else if (size > 1) write_register(index_, static_cast<u8>(value >> 8));
}

}  // namespace vezha::devices::platform
