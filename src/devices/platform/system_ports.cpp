// SPDX-License-Identifier: Apache-2.0
#include "devices/platform/system_ports.h"

namespace vezha::devices::platform {

namespace {
enum Range : u32 { kPort92, kResetControl, kPost };
}

SystemPorts::SystemPorts(bus::Bus& bus, PlatformEvents& events) : events_(events) {
    map(bus, bus::Space::Pio, 0x92, 1, kPort92, "port92");
    // Lies within the configuration address register, which only answers dwords.
    map(bus, bus::Space::Pio, 0xcf9, 1, kResetControl, "reset-control", /*priority=*/1);
    map(bus, bus::Space::Pio, 0x80, 1, kPost, "post-code");
}

void SystemPorts::reset() {
    port92_ = 2;  // A20 is on from the start
    reset_control_ = post_code_ = 0;
}

u64 SystemPorts::read(u32 range, u64, unsigned) {
    switch (range) {
        case kPort92: return port92_;
        case kResetControl: return reset_control_;
        default: return post_code_;
    }
}

void SystemPorts::write(u32 range, u64, unsigned, u64 value) {
    const u8 byte = static_cast<u8>(value);
    switch (range) {
        case kPort92: {
            const bool reset = (byte & 1) && !(port92_ & 1), a20 = (byte ^ port92_) & 2;
            port92_ = byte & 3;
            if (a20) events_.a20(port92_ & 2);
            if (reset) events_.reset();
            return;
        }
        case kResetControl: {
            // RST_CPU going from 0 to 1 starts the reset.
            const bool reset = (byte & 4) && !(reset_control_ & 4);
            reset_control_ = byte & 0x0e;
            if (reset) events_.reset();
            return;
        }
        default: post_code_ = byte;
    }
}

}  // namespace vezha::devices::platform
