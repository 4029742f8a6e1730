// SPDX-License-Identifier: Apache-2.0
#include "devices/platform/ioapic.h"

namespace vezha::devices::platform {

namespace {
constexpr u64 kRemoteIrr = 1 << 14, kLevel = 1 << 15, kMasked = 1 << 16, kDeliveryStatus = 1 << 12;
constexpr u64 kWritable = 0xffff'0000'0001'afffull;  // bits 55-48 extend the destination to 15 bits
constexpr u32 kVersion = 0x20;

bus::MsiMessage message_of(u64 redirection) {
    // SDM vol. 3A, 11.11: destination, mode and delivery as the message has them. Bits 48 to 54 of the entry carry
    // destination bits 8 to 14 into address bits 5 to 11, as guests with the extended destination format expect.
    const u64 destination = redirection >> 56 & 0xff, extended = redirection >> 48 & 0x7f;
    const bool logical = redirection >> 11 & 1;
    const u32 delivery = redirection >> 8 & 7;
    const bool lowest_priority = delivery == 1;
    bus::MsiMessage message;
    message.address = 0xfee0'0000 | destination << 12 | extended << 5 | (lowest_priority ? 1u << 3 : 0u) | (logical ? 1u << 2 : 0u);
    message.data = static_cast<u32>((redirection & 0xff) | delivery << 8 | 1u << 14 | (redirection & kLevel ? 1u << 15 : 0u));
    return message;
}
}  // namespace

struct IoApic::Outgoing {
    std::array<bus::MsiMessage, kPins> messages;
    unsigned count = 0;
};

IoApic::IoApic(bus::Bus& bus, bus::MsiSink& sink, RouteChanged route_changed, u64 base)
    : sink_(sink), route_changed_(std::move(route_changed)) {
    for (u8 pin = 0; pin < kPins; ++pin) {
        lines_[pin].ioapic = this;
        lines_[pin].pin = pin;
    }
    map(bus, bus::Space::Mmio, base, 0x1000, 0, "ioapic");
    redirection_.fill(kMasked);
}

void IoApic::reset() {
    {
        std::lock_guard lock(lock_);
        select_ = id_ = irr_ = 0;
        redirection_.fill(kMasked);
    }
    announce_all();
}

Result<> IoApic::loaded() {
    for (u64& entry : redirection_) entry &= kWritable | kRemoteIrr;
    level_ &= (1u << kPins) - 1;
    irr_ &= (1u << kPins) - 1;
    announce_all();
    return {};
}

void IoApic::announce_all() {
    if (!route_changed_) return;
    for (u8 pin = 0; pin < kPins; ++pin) {
        const u64 entry = redirection_[pin];
        route_changed_(pin, message_of(entry), entry & kLevel, entry & kMasked);
    }
}

void IoApic::try_send(u8 pin, Outgoing& out) {
    u64& entry = redirection_[pin];
    const u32 bit = 1u << pin;
    if (entry & kMasked) return;
    if (entry & kLevel) {
        if (!(level_ & bit) || (entry & kRemoteIrr)) return;
        entry |= kRemoteIrr;
    } else {
        if (!(irr_ & bit)) return;
        irr_ &= ~bit;
    }
    out.messages[out.count++] = message_of(entry);
}

void IoApic::set_line(u8 pin, bool asserted) {
    Outgoing out;
    {
        std::lock_guard lock(lock_);
        const u32 bit = 1u << pin;
        const bool was = level_ & bit;
        if (was == asserted) return;
        if (asserted) level_ |= bit;
        else level_ &= ~bit;
        if (asserted) {
            // 82093AA, 3.2.4: edges on a masked pin are lost.
            if (!(redirection_[pin] & (kLevel | kMasked))) irr_ |= bit;
            try_send(pin, out);
        }
    }
    for (unsigned i = 0; i < out.count; ++i) sink_.send(out.messages[i]);
}

void IoApic::eoi(u8 vector) {
    Outgoing out;
    {
        std::lock_guard lock(lock_);
        for (u8 pin = 0; pin < kPins; ++pin) {
            u64& entry = redirection_[pin];
            if ((entry & 0xff) != vector || !(entry & kRemoteIrr)) continue;
            entry &= ~kRemoteIrr;
            try_send(pin, out);
        }
    }
    for (unsigned i = 0; i < out.count; ++i) sink_.send(out.messages[i]);
}

void IoApic::set_redirection(u8 pin, u64 value, u64 touched, Outgoing& out) {
    u64& entry = redirection_[pin];
    const u64 changeable = kWritable & touched;
    entry = (entry & ~changeable) | (value & changeable);
    // Turning a pin to edge mode clears its remote IRR: the way software recovers a stuck one.
    if (!(entry & kLevel)) entry &= ~kRemoteIrr;
    else irr_ &= ~(1u << pin);
    try_send(pin, out);
}

u64 IoApic::read(u32, u64 offset, unsigned size) {
    std::lock_guard lock(lock_);
    const u64 in_register = offset & 0xf;
    u32 value = 0;
    switch (offset & ~u64{0xf}) {
        case 0x00: value = select_; break;
        case 0x10:
            if (select_ == 0) value = id_ << 24;
            else if (select_ == 1) value = kVersion | (kPins - 1) << 16;
            else if (select_ == 2) value = id_ << 24;
            else if (select_ >= 0x10 && select_ < 0x10 + 2 * kPins) {
                const unsigned at = select_ - 0x10;
                value = static_cast<u32>((redirection_[at / 2] & ~kDeliveryStatus) >> (at % 2 * 32));
            }
            break;
        default: break;
    }
    return in_register < 4 ? (u64{value} >> (8 * in_register)) & mask_bytes(size) : 0;
}

void IoApic::write(u32, u64 offset, unsigned, u64 value) {
    switch (offset) {
        case 0x00: {
            std::lock_guard lock(lock_);
            select_ = value & 0xff;
            return;
        }
        case 0x40: return eoi(static_cast<u8>(value));
        case 0x10: break;
        default: return;
    }
    Outgoing out;
    unsigned changed = kPins;
    u64 entry = 0;
    {
        std::lock_guard lock(lock_);
        if (select_ == 0) id_ = value >> 24 & 0xf;
        if (select_ >= 0x10 && select_ < 0x10 + 2 * kPins) {
            changed = (select_ - 0x10) / 2;
            const unsigned shift = select_ % 2 * 32;
            set_redirection(static_cast<u8>(changed), (value & 0xffff'ffff) << shift, u64{0xffff'ffff} << shift, out);
            entry = redirection_[changed];
        }
    }
    if (changed < kPins && route_changed_) route_changed_(changed, message_of(entry), entry & kLevel, entry & kMasked);
    for (unsigned i = 0; i < out.count; ++i) sink_.send(out.messages[i]);
}

}  // namespace vezha::devices::platform
