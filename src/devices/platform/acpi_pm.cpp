// SPDX-License-Identifier: Apache-2.0
#include "devices/platform/acpi_pm.h"

namespace vezha::devices::platform {

namespace {
enum Range : u32 { kBlock, kApm };
constexpr u16 kTimerStatus = 1, kGlobalStatus = 1 << 5, kPowerButton = 1 << 8, kSleepButton = 1 << 9, kRtcStatus = 1 << 10,
              kWake = 1 << 15;
constexpr u16 kStatusClearable = kTimerStatus | 1 << 4 | kGlobalStatus | kPowerButton | kSleepButton | kRtcStatus | kWake;
constexpr u16 kEnableWritable = kTimerStatus | kGlobalStatus | kPowerButton | kSleepButton | kRtcStatus | 1 << 14;
constexpr u16 kSciEnable = 1, kSleepType = 7 << 10, kSleepEnable = 1 << 13;
constexpr u16 kControlWritable = kSciEnable | 1 << 1 | kSleepType;
}  // namespace

AcpiPm::AcpiPm(bus::Bus& bus, bus::Clock& clock, bus::IrqLine& sci, PlatformEvents& events, std::optional<u16> base,
               bool acpi_on)
    : clock_(clock), sci_(sci), events_(events), acpi_on_(acpi_on) {
    carry_timer_ = clock.new_timer([this] {
        std::lock_guard lock(mutex());
        note_timer_carry();
    });
    reset();
    block_ = &map(bus, bus::Space::Pio, base ? std::optional<u64>(*base) : std::nullopt, 128, kBlock, "acpi-pm");
    map(bus, bus::Space::Pio, 0xb2, 2, kApm, "apm");
}

void AcpiPm::reset() {
    status_ = enable_ = 0;
    control_ = acpi_on_ ? kSciEnable : 0;
    gpe_status_ = gpe_enable_ = smi_enable_ = 0;
    apm_control_ = apm_status_ = 0;
    carries_seen_ = bus::ns_to_ticks(clock_.now_ns(), kTimerHz) >> 31;
    carry_timer_->cancel();
    sci_.lower();
}

Result<> AcpiPm::loaded() {
    note_timer_carry();
    return {};
}

void AcpiPm::press_power_button() {
    std::lock_guard lock(mutex());
    status_ |= kPowerButton;
    update_sci();
}

void AcpiPm::press_sleep_button() {
    std::lock_guard lock(mutex());
    status_ |= kSleepButton;
    update_sci();
}

void AcpiPm::raise_gpe(unsigned bit) {
    std::lock_guard lock(mutex());
    gpe_status_ |= u64{1} << (bit & 63);
    update_sci();
}

/// TMR_STS is set when the timer's highest bit changes (ACPI 4.8.2.1).
void AcpiPm::note_timer_carry() {
    const u64 ticks = bus::ns_to_ticks(clock_.now_ns(), kTimerHz), carries = ticks >> 31;
    if (carries != carries_seen_) status_ |= kTimerStatus;
    carries_seen_ = carries;
    if (enable_ & kTimerStatus) carry_timer_->arm(bus::ticks_to_ns((carries + 1) << 31, kTimerHz) + 1);
    update_sci();
}

void AcpiPm::update_sci() {
    const bool pm1 = status_ & enable_ & (kTimerStatus | kGlobalStatus | kPowerButton | kSleepButton | kRtcStatus);
    sci_.set((control_ & kSciEnable) && (pm1 || (gpe_status_ & gpe_enable_)));
}

void AcpiPm::control_written() {
    if (!(control_ & kSleepEnable)) return;
    control_ &= static_cast<u16>(~kSleepEnable);  // write-only
    const u8 type = control_ >> 10 & 7;
    // Firmware made for other boards of this kind writes 0 for soft-off.
    if (type == kSleepSoftOff || type == 0) events_.shutdown();
}

u8 AcpiPm::read_byte(unsigned offset) {
    auto byte = [&](u64 value, unsigned base) { return static_cast<u8>(value >> (8 * (offset - base))); };
    if (offset < 0x02) {
        if (offset == 0) note_timer_carry();
        return byte(status_, 0x00);
    }
    if (offset < 0x04) return byte(enable_, 0x02);
    if (offset < 0x06) return byte(control_, 0x04);
    if (offset >= 0x20 && offset < 0x28) return byte(gpe_status_, 0x20);
    if (offset >= 0x28 && offset < 0x30) return byte(gpe_enable_, 0x28);
    if (offset >= 0x30 && offset < 0x34) return byte(smi_enable_, 0x30);
    return 0;
}

void AcpiPm::write_byte(unsigned offset, u8 value) {
    auto insert = [&](auto& target, unsigned base, u64 mask) {
        using T = std::remove_reference_t<decltype(target)>;
        const unsigned shift = 8 * (offset - base);
        const u64 changeable = (u64{0xff} << shift) & mask;
        target = static_cast<T>((target & ~changeable) | ((u64{value} << shift) & changeable));
    };
    if (offset < 0x02) status_ &= static_cast<u16>(~((value << (8 * offset)) & kStatusClearable));
    else if (offset < 0x04) insert(enable_, 0x02, kEnableWritable);
    else if (offset < 0x06) insert(control_, 0x04, kControlWritable | kSleepEnable);
    else if (offset >= 0x20 && offset < 0x28) gpe_status_ &= ~(u64{value} << (8 * (offset - 0x20)));
    else if (offset >= 0x28 && offset < 0x30) insert(gpe_enable_, 0x28, ~u64{0});
    else if (offset >= 0x30 && offset < 0x34) insert(smi_enable_, 0x30, ~u64{0});
}

u64 AcpiPm::read(u32 range, u64 offset, unsigned size) {
    if (range == kApm) return offset == 0 ? apm_control_ | u64{apm_status_} << 8 : apm_status_;
    // The timer is read as a whole, or its bytes would not belong together.
    if (offset >= 0x08 && offset < 0x0c) return timer() >> (8 * (offset - 8));
    u64 value = 0;
    for (unsigned i = 0; i < size; ++i) value |= u64{read_byte(static_cast<unsigned>(offset) + i)} << (8 * i);
    return value;
}

void AcpiPm::write(u32 range, u64 offset, unsigned size, u64 value) {
    if (range == kApm) {
        if (offset == 1 || size > 1) apm_status_ = static_cast<u8>(offset == 1 ? value : value >> 8);
        if (offset == 1) return;
        apm_control_ = static_cast<u8>(value);
        // There is no SMM code: what it would do on these commands happens at once.
        if (apm_control_ == kAcpiEnable) control_ |= kSciEnable;
        if (apm_control_ == kAcpiDisable) control_ &= static_cast<u16>(~kSciEnable);
        return update_sci();
    }
    for (unsigned i = 0; i < size; ++i)
        write_byte(static_cast<unsigned>(offset) + i, static_cast<u8>(value >> (8 * i)));
    if (offset < 0x06 && offset + size > 0x04) control_written();
    if (offset < 0x04 && offset + size > 0x02) note_timer_carry();
    update_sci();
}

}  // namespace vezha::devices::platform
