// SPDX-License-Identifier: Apache-2.0
#include "devices/platform/debug_ports.h"

#include <fmt/core.h>

namespace vezha::devices::platform {

DebugConsole::DebugConsole(bus::Bus& bus, u16 port, std::function<void(std::span<const u8>)> output)
    : name_(fmt::format("debug-console-{:x}", port)), output_(std::move(output)) {
    map(bus, bus::Space::Pio, port, 1, 0, name_);
}

DebugConsole::~DebugConsole() {
    if (!line_.empty()) output_(line_);
}

void DebugConsole::write(u32, u64, unsigned, u64 value) {
    line_.push_back(static_cast<u8>(value));
    if (line_.back() != '\n' && line_.size() < 512) return;
    output_(line_);
    line_.clear();
}

DebugExit::DebugExit(bus::Bus& bus, PlatformEvents& events, u16 port) : events_(events) {
    map(bus, bus::Space::Pio, port, 4, 0, "debug-exit");
}

void DebugExit::write(u32, u64, unsigned, u64 value) { events_.debug_exit(static_cast<u8>(value << 1 | 1)); }

PvPanic::PvPanic(bus::Bus& bus, PlatformEvents& events, u16 port) : events_(events) {
    map(bus, bus::Space::Pio, port, 1, 0, "pvpanic");
}

void PvPanic::write(u32, u64, unsigned, u64 value) {
    if (value & 1) events_.panicked(false);
    else if (value & 2) events_.panicked(true);
}

}  // namespace vezha::devices::platform
