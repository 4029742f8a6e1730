// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/console.h"

#include <algorithm>

#include "base/log.h"
#include "state/field.h"

namespace vezha::devices::virtio {

namespace {
constexpr unsigned kSize = 0, kMultiport = 1, kEmergencyWrite = 2;  // feature bits, 5.3.3
constexpr u16 kControlReceive = 2, kControlTransmit = 3;

// Control events, 5.3.6.2.
constexpr u16 kDeviceReady = 0, kPortAdd = 1, kPortReady = 3, kConsolePort = 4, kResize = 5, kPortOpen = 6, kPortName = 7;

/// 5.3.4
struct Config {
    u16 columns, rows;
    u32 max_ports;
    u32 emergency_write;
};
static_assert(sizeof(Config) == 12);

struct ControlHeader {
    u32 port;
    u16 event, value;
};
static_assert(sizeof(ControlHeader) == 8);

constexpr usize kMaxOutgoing = 512;     // a driver that asks and never reads gets no more
constexpr usize kChunk = 4096;
}  // namespace

Result<std::unique_ptr<VirtioConsole>> VirtioConsole::create(const Wiring& wiring, ConsoleOptions options) {
    if (options.ports.empty() || options.ports.size() > kMaxPorts)
        return fail(ErrorCode::InvalidArgument, "a virtio console has 1 to {} ports, not {}", kMaxPorts, options.ports.size());
    std::unique_ptr<VirtioConsole> device(new VirtioConsole(wiring, std::move(options)));
    VirtioConsole* self = device.get();
    for (usize i = 0; i < device->ports_.size(); ++i)
        if (auto* chardev = device->ports_[i]->chardev)
            chardev->attach({.on_input = [self, i](std::span<const u8> bytes) { return self->take_input(i, bytes); },
                             .on_connection = [self, i](bool connected) { self->connection_changed(i, connected); }});
    TRY(device->start());
    return device;
}

VirtioConsole::VirtioConsole(const Wiring& wiring, ConsoleOptions options)
    : PciDevice(wiring, {Type::Console, "virtio-console", 0x078000, bit(kSize) | bit(kMultiport) | bit(kEmergencyWrite), sizeof(Config)},
                std::vector<QueueOptions>(2 + 2 * options.ports.size(), QueueOptions{options.loop, 64})),
      options_(std::move(options)) {
    for (const ConsolePort& port : options_.ports) {
        ports_.push_back(std::make_unique<Port>());
        ports_.back()->chardev = port.chardev;
        ports_.back()->console = port.console;
    }
    set_device_config(0, Config{options_.columns, options_.rows, static_cast<u32>(ports_.size()), 0});
    set_config_writable(offsetof(Config, emergency_write), 4);
}

VirtioConsole::~VirtioConsole() {
    for (auto& port : ports_)
        if (port->chardev) port->chardev->attach({});
    shutdown();
}

// Data ------------------------------------------------------------------------------------------------------------------

usize VirtioConsole::take_input(usize number, std::span<const u8> bytes) {
    Port& port = *ports_[number];
    const u16 index = receive_queue(number);
    std::lock_guard lock(port.input_mutex);
    // Set before looking, so that a buffer that comes meanwhile finds it.
    port.refused = true;
    if (!bus_master() || !driver_ready() || (negotiated(kMultiport) && !port.console && !port.guest_open)) return 0;
    usize taken = 0;
    while (taken < bytes.size() && pop(index, port.input)) {
        const usize stored = copy_to(port.input.writable(), 0, bytes.subspan(taken));
        queue(index).push(port.input, stored);
        taken += stored;
    }
    if (taken == bytes.size()) port.refused = false;
    if (taken > 0) complete(index);
    return taken;
}

void VirtioConsole::transmit(usize number, u16 index) {
    Port& port = *ports_[number];
    for (u32 budget = kBatch; budget > 0; --budget) {
        if (!pop(index, chain_)) return complete(index);
        std::array<u8, kChunk> chunk;
        const u64 total = std::min<u64>(chain_.readable_bytes(), kMiB);
        for (u64 at = 0; at < total && port.chardev;) {
            const usize count = copy_from(chain_.readable(), at, std::span(chunk).first(std::min<u64>(kChunk, total - at)));
            if (count == 0) break;
            port.chardev->write(std::span(chunk).first(count));
            at += count;
        }
        queue(index).push(chain_, 0);
    }
    complete(index);
    kick(index);
}

void VirtioConsole::on_config_written(u32 offset, u32 size) {
    constexpr u32 at = offsetof(Config, emergency_write);
    if (offset > at || offset + size <= at) return;
    const u8 byte = device_config<u8>(at);
    if (ports_[0]->chardev) ports_[0]->chardev->write({&byte, 1});
}

void VirtioConsole::on_queue(u16 index) {
    if (index == kControlReceive) {
        std::lock_guard lock(control_mutex_);
        return write_control();
    }
    if (index == kControlTransmit) return read_control();
    const usize port = index < 2 ? 0 : (index - 2u) / 2;
    if (port >= ports_.size()) return;
    if (index % 2) return transmit(port, index);
    if (ports_[port]->refused.exchange(false) && ports_[port]->chardev) ports_[port]->chardev->resume_input();
}

// Control ---------------------------------------------------------------------------------------------------------------

void VirtioConsole::on_driver_ready() {
    // Input that came too early; the loop asks for it again.
    for (usize i = 0; i < ports_.size(); ++i) kick(receive_queue(i));
}

void VirtioConsole::on_reset() {
    for (auto& port : ports_) port->guest_open = false;
    std::lock_guard lock(control_mutex_);
    outgoing_.clear();
}

void VirtioConsole::resize(u16 columns, u16 rows) {
    set_device_config<u16>(offsetof(Config, columns), columns);
    set_device_config<u16>(offsetof(Config, rows), rows);
    config_changed();
    if (negotiated(kMultiport) && driver_ready()) send_resize();
}

void VirtioConsole::send_resize() {
    struct {
        u16 columns, rows;
    } size{device_config<u16>(offsetof(Config, columns)), device_config<u16>(offsetof(Config, rows))};
    if (!size.columns || !size.rows) return;
    for (u32 i = 0; i < ports_.size(); ++i)
        if (ports_[i]->console) send({i, kResize, 0, std::string(reinterpret_cast<const char*>(&size), sizeof size)});
}

void VirtioConsole::connection_changed(usize port, bool connected) {
    if (ports_[port]->host_open.exchange(connected) == connected) return;
    if (negotiated(kMultiport) && driver_ready() && !ports_[port]->console) send({static_cast<u32>(port), kPortOpen, connected, {}});
}

void VirtioConsole::read_control() {
    for (u32 budget = 64; budget > 0; --budget) {
        if (!pop(kControlTransmit, chain_)) return complete(kControlTransmit);
        ControlHeader message{};
        const bool whole = read_object(chain_.readable(), 0, message);
        queue(kControlTransmit).push(chain_, 0);
        if (whole) handle(message.port, message.event, message.value);
    }
    complete(kControlTransmit);
    kick(kControlTransmit);
}

void VirtioConsole::handle(u32 number, u16 event, u16 value) {
    if (!negotiated(kMultiport)) return;
    if (event == kDeviceReady) {
        if (value)
            for (u32 i = 0; i < ports_.size(); ++i) send({i, kPortAdd, 1, {}});
        return;
    }
    if (number >= ports_.size()) {
        LOG_GUEST_ERROR("virtio", "{}: control event {} for port {}", state_name(), event, number);
        return;
    }
    Port& port = *ports_[number];
    switch (event) {
        case kPortReady:
            if (!value) return;
            if (port.console) send({number, kConsolePort, 1, {}});
            if (const std::string& text = options_.ports[number].name; !text.empty()) send({number, kPortName, 1, text});
            if (port.console) send_resize();
            if (port.console || port.host_open) send({number, kPortOpen, 1, {}});
            break;
        case kPortOpen:
            port.guest_open = value != 0;
            if (value && port.refused.exchange(false) && port.chardev) port.chardev->resume_input();
            break;
        default: break;
    }
}

void VirtioConsole::send(Message message) {
    std::lock_guard lock(control_mutex_);
    if (outgoing_.size() >= kMaxOutgoing) {
        LOG_GUEST_ERROR("virtio", "{}: the driver does not read control messages", state_name());
        return;
    }
    outgoing_.push_back(std::move(message));
    write_control();
}

void VirtioConsole::write_control() {
    usize sent = 0;
    for (; sent < outgoing_.size() && pop(kControlReceive, control_); ++sent) {
        const Message& message = outgoing_[sent];
        const ControlHeader header{message.port, message.event, message.value};
        usize written = copy_to(control_.writable(), 0, {reinterpret_cast<const u8*>(&header), sizeof header});
        written += copy_to(control_.writable(), sizeof header, {reinterpret_cast<const u8*>(message.text.data()), message.text.size()});
        queue(kControlReceive).push(control_, written);
    }
    outgoing_.erase(outgoing_.begin(), outgoing_.begin() + static_cast<std::ptrdiff_t>(sent));
    if (sent > 0) complete(kControlReceive);
}

// Saved state -----------------------------------------------------------------------------------------------------------

void VirtioConsole::save_device(state::Section& out) const {
    std::vector<u8> open;
    for (const auto& port : ports_) open.push_back(port->guest_open);
    out.put("console.open", open);
}

Result<> VirtioConsole::load_device(const state::Section& in, u32) {
    const std::vector<u8>* open = in.get("console.open");
    if (!open || open->size() != ports_.size()) return fail(ErrorCode::InvalidFormat, "{}: saved with other ports", state_name());
    for (usize i = 0; i < ports_.size(); ++i) {
        ports_[i]->guest_open = (*open)[i] != 0;
        ports_[i]->refused = true;  // asks again on resume()
    }
    return {};
}

}  // namespace vezha::devices::virtio
