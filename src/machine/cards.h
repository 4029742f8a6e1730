// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "base/event_loop.h"
#include "bus/bus.h"
#include "bus/clock.h"
#include "chardev/chardev.h"
#include "devices/pci/pci_bus.h"
#include "machine/config/vm_config.h"
#include "machine/vm_control.h"
#include "memory/guest_memory.h"

namespace vezha::machine {

/// The cards in the board's slots (disks, network, entropy, console, balloon), their host back ends, and the I/O threads
/// that serve them.
class Cards {
  public:
    struct Parts {
        const VmConfig& config;
        EventLoop& main_loop;
        memory::GuestMemory& memory;
        bus::Bus& bus;
        bus::MsiSink& msi;
        devices::pci::PciBus& pci;
        std::vector<std::pair<std::string, chardev::Chardev*>> consoles;  ///< name and other end of virtio console ports
        std::function<void(u64 actual)> balloon_changed;                  ///< any thread
    };
    /// @return what the host says about a disk or network, naming the flag
    static Result<std::unique_ptr<Cards>> create(const Parts& parts);
    ~Cards();

    /// Returns when no request is in flight and none will start. vCPUs parked.
    void pause();
    void resume();

    std::vector<DiskInfo> disks() const;
    Result<u64> balloon_actual() const;
    Result<> set_balloon_target(u64 bytes);

  private:
    struct State;
    explicit Cards(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace vezha::machine
