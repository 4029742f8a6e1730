// SPDX-License-Identifier: Apache-2.0
#include "devices/platform/i8042.h"

#include <algorithm>

namespace vezha::devices::platform {

namespace {
enum Range : u32 { kData, kCommand };
// Configuration byte.
constexpr u8 kKeyboardIrq = 0x01, kMouseIrq = 0x02, kSystemFlag = 0x04, kKeyboardOff = 0x10, kMouseOff = 0x20, kTranslate = 0x40;
// Status register.
constexpr u8 kOutputFull = 0x01, kStatusCommand = 0x08, kNotLocked = 0x10, kMouseData = 0x20;
constexpr u8 kAck = 0xfa, kResend = 0xfe;
constexpr u8 kPortReset = 0x01, kPortA20 = 0x02;
}  // namespace

I8042::I8042(bus::Bus& bus, bus::IrqLine& irq1, bus::IrqLine& irq12, PlatformEvents& events)
    : irq1_(irq1), irq12_(irq12), events_(events) {
    reset();
    map(bus, bus::Space::Pio, 0x60, 1, kData, "i8042-data");
    map(bus, bus::Space::Pio, 0x64, 1, kCommand, "i8042-command");
}

void I8042::reset() {
    queue_.clear();
    config_ = kSystemFlag | kTranslate | kMouseOff | kKeyboardIrq;
    output_port_ = kPortReset | kPortA20 | 0xcc;
    last_read_ = last_was_command_ = pending_ = 0;
    reset_keyboard();
    reset_mouse();
    update_irqs();
}

Result<> I8042::loaded() {
    if (queue_.size() > kQueue) return fail(ErrorCode::InvalidFormat, "i8042: output queue too long");
    update_irqs();
    return {};
}

void I8042::reset_keyboard() {
    keyboard_pending_ = 0;
    keyboard_scanning_ = 1;
    keyboard_set_ = 2;
}

void I8042::reset_mouse() {
    mouse_pending_ = mouse_reporting_ = mouse_scaling_ = mouse_remote_ = mouse_wrap_ = mouse_buttons_ = 0;
    mouse_rate_ = 100;
    mouse_resolution_ = 2;
}

void I8042::type(std::span<const u8> set1) {
    std::lock_guard lock(mutex());
    if (!keyboard_scanning_ || (config_ & kKeyboardOff) || queue_.size() + set1.size() > kQueue) return;
    for (u8 byte : set1) push(byte, false);
}

void I8042::move_mouse(int dx, int dy, u8 buttons) {
    std::lock_guard lock(mutex());
    mouse_buttons_ = buttons & 7;
    if (!mouse_reporting_ || (config_ & kMouseOff) || queue_.size() + 3 > kQueue) return;
    dx = std::clamp(dx, -255, 255);
    dy = std::clamp(dy, -255, 255);
    push(static_cast<u8>(0x08 | mouse_buttons_ | (dx < 0 ? 0x10 : 0) | (dy < 0 ? 0x20 : 0)), true);
    push(static_cast<u8>(dx), true);
    push(static_cast<u8>(dy), true);
}

void I8042::push(u8 byte, bool mouse) {
    if (queue_.size() >= kQueue) return;
    queue_.push_back({byte, mouse});
    update_irqs();
}

void I8042::push_reply(std::initializer_list<u8> bytes, bool mouse) {
    for (u8 byte : bytes) push(byte, mouse);
}

u8 I8042::status() const {
    u8 value = kNotLocked | (config_ & kSystemFlag) | (last_was_command_ ? kStatusCommand : 0);
    if (!queue_.empty()) value |= static_cast<u8>(kOutputFull | (queue_.front().from_mouse ? kMouseData : 0));
    return value;
}

void I8042::update_irqs() {
    const bool full = !queue_.empty(), mouse = full && queue_.front().from_mouse;
    irq1_.set(full && !mouse && (config_ & kKeyboardIrq));
    irq12_.set(full && mouse && (config_ & kMouseIrq));
}

void I8042::set_output_port(u8 value) {
    if ((value ^ output_port_) & kPortA20) events_.a20(value & kPortA20);
    output_port_ = value | kPortReset;
    if (!(value & kPortReset)) events_.reset();
}

void I8042::controller_command(u8 command) {
    pending_ = 0;
    switch (command) {
        case 0xa7: config_ |= kMouseOff; break;
        case 0xa8: config_ &= static_cast<u8>(~kMouseOff); break;
        case 0xa9: push(0x00, false); break;  // mouse port works
        case 0xaa:
            config_ |= kSystemFlag;
            push(0x55, false);  // self-test passed
            break;
        case 0xab: push(0x00, false); break;  // keyboard port works
        case 0xad: config_ |= kKeyboardOff; break;
        case 0xae: config_ &= static_cast<u8>(~kKeyboardOff); break;
        case 0xc0: push(0xbf, false); break;  // input port: not locked
        case 0xd0:
            push(static_cast<u8>((output_port_ & ~0x30) | (queue_.empty() ? 0 : queue_.front().from_mouse ? 0x20 : 0x10)), false);
            break;
        case 0xdd: set_output_port(output_port_ & static_cast<u8>(~kPortA20)); break;
        case 0xdf: set_output_port(output_port_ | kPortA20); break;
        case 0xd1: case 0xd2: case 0xd3: case 0xd4: pending_ = command; break;
        default:
            if (command >= 0x20 && command < 0x40) {
                push(command == 0x20 ? config_ : u8{0}, false);
            } else if (command >= 0x60 && command < 0x80) {
                pending_ = command;
            } else if (command >= 0xf0) {
                // Pulses the output port's low bits that are clear; bit 0 is the processor's reset.
                if (!(command & 1)) events_.reset();
            }
    }
    update_irqs();
}

void I8042::controller_data(u8 value) {
    const u8 command = pending_;
    pending_ = 0;
    switch (command) {
        case 0: keyboard_command(value); break;
        case 0x60: config_ = value; break;
        case 0xd1: set_output_port(value); break;
        case 0xd2: push(value, false); break;
        case 0xd3: push(value, true); break;
        case 0xd4: mouse_command(value); break;
        default: break;
    }
    update_irqs();
}

void I8042::keyboard_command(u8 value) {
    config_ &= static_cast<u8>(~kKeyboardOff);  // writing to the keyboard switches its port on
    const u8 command = keyboard_pending_;
    keyboard_pending_ = 0;
    if (command && value < 0xed) {
        push(kAck, false);
        if (command == 0xf0) {
            if (value == 0) push(config_ & kTranslate ? (keyboard_set_ == 1 ? 0x43 : keyboard_set_ == 2 ? 0x41 : 0x3f) : keyboard_set_, false);
            else if (value <= 3) keyboard_set_ = value;
        }
        return;
    }
    switch (value) {
        case 0xed: case 0xf0: case 0xf3:  // LEDs, scan code set, repeat rate: one parameter
            keyboard_pending_ = value;
            return push(kAck, false);
        case 0xee: return push(0xee, false);
        case 0xf2: {
            const bool translated = config_ & kTranslate;
            return push_reply({kAck, 0xab, static_cast<u8>(translated ? 0x41 : 0x83)}, false);
        }
        case 0xf4: keyboard_scanning_ = 1; return push(kAck, false);
        case 0xf5: keyboard_scanning_ = 0; return push(kAck, false);
        case 0xf6: reset_keyboard(); return push(kAck, false);
        case 0xff:
            reset_keyboard();
            return push_reply({kAck, 0xaa}, false);
        default:
            return push(value >= 0xed ? kAck : kResend, false);
    }
}

void I8042::mouse_command(u8 value) {
    config_ &= static_cast<u8>(~kMouseOff);
    const u8 command = mouse_pending_;
    mouse_pending_ = 0;
    if (command) {
        if (command == 0xf3) mouse_rate_ = value;
        if (command == 0xe8) mouse_resolution_ = value & 3;
        return push(kAck, true);
    }
    if (mouse_wrap_ && value != 0xff && value != 0xec) return push(value, true);
    switch (value) {
        case 0xe6: mouse_scaling_ = 0; break;
        case 0xe7: mouse_scaling_ = 1; break;
        case 0xe8: case 0xf3: mouse_pending_ = value; break;
        case 0xe9:
            return push_reply({kAck, static_cast<u8>(mouse_remote_ << 6 | mouse_reporting_ << 5 | mouse_scaling_ << 4 | mouse_buttons_),
                               mouse_resolution_, mouse_rate_}, true);
        case 0xea: mouse_remote_ = 0; break;
        case 0xeb: return push_reply({kAck, static_cast<u8>(0x08 | mouse_buttons_), 0, 0}, true);
        case 0xec: mouse_wrap_ = 0; break;
        case 0xee: mouse_wrap_ = 1; break;
        case 0xf0: mouse_remote_ = 1; break;
        case 0xf2: return push_reply({kAck, 0x00}, true);
        case 0xf4: mouse_reporting_ = 1; break;
        case 0xf5: mouse_reporting_ = 0; break;
        case 0xf6: reset_mouse(); break;
        case 0xff:
            reset_mouse();
            return push_reply({kAck, 0xaa, 0x00}, true);
        default: return push(kResend, true);
    }
    push(kAck, true);
}

u64 I8042::read(u32 range, u64, unsigned) {
    if (range == kCommand) return status();
    if (queue_.empty()) return last_read_;
    last_read_ = queue_.front().byte;
    queue_.erase(queue_.begin());
    // The line drops between two bytes, so that each is an edge.
    irq1_.lower();
    irq12_.lower();
    update_irqs();
    return last_read_;
}

void I8042::write(u32 range, u64, unsigned, u64 value) {
    last_was_command_ = range == kCommand;
    if (range == kCommand) controller_command(static_cast<u8>(value));
    else controller_data(static_cast<u8>(value));
}

}  // namespace vezha::devices::platform
