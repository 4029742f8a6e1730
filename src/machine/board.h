// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "bus/bus.h"
#include "bus/clock.h"
#include "chardev/chardev.h"
#include "devices/pci/host_bridge.h"
#include "devices/pci/lpc.h"
#include "devices/pci/pci_bus.h"
#include "devices/pci/root_port.h"
#include "devices/pci/smbus.h"
#include "devices/platform/acpi_pm.h"
#include "devices/platform/debug_ports.h"
#include "devices/platform/fw_cfg.h"
#include "devices/platform/hpet.h"
#include "devices/platform/i8042.h"
#include "devices/platform/ioapic.h"
#include "devices/platform/irq_lines.h"
#include "devices/platform/pic.h"
#include "devices/platform/pit.h"
#include "devices/platform/platform_events.h"
#include "devices/platform/rtc.h"
#include "devices/platform/system_ports.h"
#include "devices/platform/test_device.h"
#include "devices/platform/uart.h"
#include "engine/engine.h"
#include "machine/pci_setup.h"

namespace vezha::machine {

/// The Q35/ICH9 board without its cards: interrupt controllers, timers, ports, PCI root, and the wires between them.
class Board {
  public:
    struct Parts {
        memory::GuestMemory& memory;
        bus::Bus& bus;
        bus::Clock& clock;
        engine::Vm& vm;
        devices::platform::Pic& pic;  ///< made before the engine, which takes its INTR
        devices::platform::PlatformEvents& events;
        std::vector<chardev::Chardev*> serials;  ///< the other ends of COM1 to COM4
        u32 cpus = 1;
        bool test_devices = false;  ///< exit port and test device
    };
    explicit Board(const Parts& parts);

    devices::platform::IoApic& ioapic() { return ioapic_; }
    devices::platform::AcpiPm& acpi_pm() { return acpi_pm_; }
    devices::platform::FwCfg& fw_cfg() { return fw_cfg_; }
    devices::pci::PciBus& pci() { return pci_; }
    void flush_serials();

    /// All back to power-on state, PCI addresses assigned. vCPUs parked.
    Result<> reset();
    /// Everything that has state, for saving and reset.
    std::vector<state::Stateful*> stateful();
    static PciWindows windows(const memory::GuestMemory& memory);

  private:
    /// An ISA interrupt: wired to the PIC and to the I/O APIC.
    struct IsaLine {
        IsaLine(devices::platform::Pic& pic, devices::platform::IoApic& ioapic, unsigned irq)
            : pic_input(pic.line(irq)), isa(pic_input.input()), pirq(pic_input.input()),
              both({&isa, &ioapic.line(irq == 0 ? 2 : irq)}) {}
        devices::platform::WiredOr pic_input;           // shared by the ISA device and PCI routing
        devices::platform::WiredOr::Input isa, pirq;
        devices::platform::FanOut both;
    };
    bus::IrqLine& isa(unsigned irq) { return isa_[irq]->both; }
    std::array<std::unique_ptr<IsaLine>, 16> make_isa_lines();

    Parts parts_;
    devices::platform::IoApic ioapic_;
    std::array<std::unique_ptr<IsaLine>, 16> isa_;
    devices::platform::Hpet hpet_;
    devices::platform::Pit pit_;
    devices::platform::Rtc rtc_;
    devices::platform::I8042 i8042_;
    devices::platform::AcpiPm acpi_pm_;
    devices::platform::SystemPorts system_ports_;
    devices::platform::DebugConsole debug_console_;
    std::unique_ptr<devices::platform::DebugExit> debug_exit_;
    std::unique_ptr<devices::platform::TestDevice> test_device_;
    devices::platform::PvPanic pvpanic_;
    devices::platform::FwCfg fw_cfg_;
    std::vector<std::unique_ptr<devices::platform::Uart>> uarts_;
    devices::pci::PirqRouter pirq_;
    devices::pci::PciBus pci_;
    devices::pci::HostBridge host_bridge_;
    devices::pci::Lpc lpc_;
    devices::pci::Smbus smbus_;
    std::vector<std::unique_ptr<devices::pci::RootPort>> root_ports_;
};

}  // namespace vezha::machine
