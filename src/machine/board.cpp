// SPDX-License-Identifier: Apache-2.0
#include "machine/board.h"

#include "base/check.h"
#include "base/log.h"
#include "base/time.h"
#include "machine/memory_map.h"

namespace vezha::machine {

using namespace devices::platform;  // NOLINT: the board is made of these

std::array<std::unique_ptr<Board::IsaLine>, 16> Board::make_isa_lines() {
    std::array<std::unique_ptr<IsaLine>, 16> lines;
    for (unsigned irq = 0; irq < 16; ++irq) lines[irq] = std::make_unique<IsaLine>(parts_.pic, ioapic_, irq);
    return lines;
}

namespace {
/// Empty, for cards that come later: where ICH9 has its own, 00:1c.0 and up.
constexpr u8 kRootPorts = 4;

void log_debug_console(std::span<const u8> bytes) {
    log_info("guest", "{}", std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}
}  // namespace

Board::Board(const Parts& parts)
    : parts_(parts),
      ioapic_(parts.bus, parts.vm.msi(),
              [vm = &parts.vm](u32 pin, const bus::MsiMessage& message, bool level, bool masked) {
                  vm->set_ioapic_route(pin, message, level, masked);
              },
              kIoApicBase),
      isa_(make_isa_lines()),
      hpet_(parts.bus, parts.clock, parts.vm.msi(), isa(0), isa(8), kHpetBase),
      pit_(parts.bus, parts.clock, hpet_.pit_line()),
      rtc_(parts.bus, parts.clock, hpet_.rtc_line(), realtime_ns),
      i8042_(parts.bus, isa(1), isa(12), parts.events),
      acpi_pm_(parts.bus, parts.clock, isa(9), parts.events, kPmBase, /*acpi_on=*/true),
      system_ports_(parts.bus, parts.events),
      debug_console_(parts.bus, 0x402, log_debug_console),
      pvpanic_(parts.bus, parts.events),
      fw_cfg_(parts.bus, parts.memory),
      pirq_([this](unsigned gsi, bool asserted) { ioapic_.line(gsi).set(asserted); },
            [this](unsigned irq, bool asserted) { isa_[irq]->pirq.set(asserted); }),
      pci_(pirq_),
      host_bridge_(parts.bus, parts.vm.msi(), pci_, {.ecam_base = kEcamBase}),
      lpc_(parts.bus, parts.vm.msi(), pirq_, [this](std::optional<u16> base) { acpi_pm_.move(base); }, {.pm_base = kPmBase}),
      smbus_(parts.bus, parts.vm.msi(), kSmbusBase) {
    static constexpr std::array<std::pair<u16, unsigned>, 4> kCom{{{0x3f8, 4}, {0x2f8, 3}, {0x3e8, 4}, {0x2e8, 3}}};
    for (usize i = 0; i < parts.serials.size() && i < kCom.size(); ++i)
        uarts_.push_back(std::make_unique<Uart>(parts.bus, parts.clock, isa(kCom[i].second), parts.serials[i], kCom[i].first,
                                                fmt::format("serial{}", i)));
    // Chipset slots of ICH9 are fixed; nothing else is on the bus yet.
    CHECK(pci_.add(lpc_, devices::pci::Slot{31, 0}).has_value());
    CHECK(pci_.add(smbus_, devices::pci::Slot{31, 3}).has_value());
    for (u8 number = 0; number < kRootPorts; ++number) {
        auto& port = root_ports_.emplace_back(std::make_unique<devices::pci::RootPort>(parts.bus, parts.vm.msi(), number));
        port->set_multifunction();
        CHECK(pci_.add(*port, devices::pci::Slot{28, number}).has_value());
    }

    if (parts.test_devices) {
        debug_exit_ = std::make_unique<devices::platform::DebugExit>(parts.bus, parts.events);
        std::array<bus::IrqLine*, devices::platform::TestDevice::kLines> lines{};
        for (unsigned line = 0; line < lines.size(); ++line) lines[line] = line < 16 ? &isa(line) : &ioapic_.line(line);
        test_device_ = std::make_unique<devices::platform::TestDevice>(parts.bus, lines);
    }

    u64 low = 0, high = 0;
    for (const auto& region : parts.memory.regions()) {
        if (region->read_only()) continue;
        (region->base().value < kHighRamBase ? low : high) += region->size();
    }
    rtc_.set_memory_sizes(low, high);
    fw_cfg_.set_value<u64>(FwCfg::kRamSize, low + high);
    fw_cfg_.set_value<u16>(FwCfg::kCpus, static_cast<u16>(parts.cpus));
    fw_cfg_.set_value<u16>(FwCfg::kMaxCpus, static_cast<u16>(parts.cpus));
}

void Board::flush_serials() {
    for (auto& uart : uarts_) uart->flush();
}

PciWindows Board::windows(const memory::GuestMemory& memory) {
    u64 high_end = kHighRamBase;
    for (const auto& region : memory.regions()) high_end = std::max(high_end, region->end().value);
    const u64 base64 = pci_window64_base(high_end);
    return {kPciWindow32Base, kPciWindow32End, base64, base64 + kPciWindow64Size};
}

std::vector<state::Stateful*> Board::stateful() {
    std::vector<state::Stateful*> all{&parts_.pic, &ioapic_,       &hpet_,          &pit_,        &rtc_,     &i8042_,
                                      &acpi_pm_,   &system_ports_, &debug_console_, &pvpanic_, &fw_cfg_};
    if (debug_exit_) all.push_back(debug_exit_.get());
    if (test_device_) all.push_back(test_device_.get());
    for (auto& uart : uarts_) all.push_back(uart.get());
    for (auto* function : pci_.functions()) all.push_back(function);
    return all;
}

Result<> Board::reset() {
    for (state::Stateful* object : stateful()) {
        auto* device = dynamic_cast<bus::Device*>(object);
        std::unique_lock<std::mutex> lock;
        if (device) lock = std::unique_lock(device->mutex());
        object->reset();
    }
    return assign_pci_resources(pci_, windows(parts_.memory));
}

}  // namespace vezha::machine
