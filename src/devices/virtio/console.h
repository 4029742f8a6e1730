// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "chardev/chardev.h"
#include "devices/virtio/pci_device.h"

namespace vezha::devices::virtio {

struct ConsolePort {
    std::string name;                     ///< "org.example.agent": /dev/virtio-ports/NAME in the guest
    chardev::Chardev* chardev = nullptr;  ///< outlives the device
    bool console = false;                 ///< hvc terminal rather than a plain channel
};

struct ConsoleOptions {
    EventLoop* loop = nullptr;
    std::vector<ConsolePort> ports;  ///< port 0 is the console that a driver without multiport sees
    u16 columns = 0, rows = 0;       ///< 0: unknown
};

/// Virtio console with several ports. Source: virtio 1.2, 5.3.
///
/// Input goes from the character device's thread straight into the guest's buffers; what does not fit stays with the
/// character device. Output leaves on the device's loop.
class VirtioConsole final : public PciDevice {
  public:
    static constexpr usize kMaxPorts = 30;

    static Result<std::unique_ptr<VirtioConsole>> create(const Wiring& wiring, ConsoleOptions options);
    ~VirtioConsole() override;

    /// The terminal window has another size. Any thread.
    void resize(u16 columns, u16 rows);
    /// True while the guest has the port open. Any thread.
    bool guest_open(usize port) const { return ports_[port]->guest_open.load(); }

  protected:
    void on_queue(u16 index) override;
    void on_driver_ready() override;
    void on_reset() override;
    void on_config_written(u32 offset, u32 size) override;
    void save_device(state::Section& out) const override;
    Result<> load_device(const state::Section& in, u32 saved_version) override;

  private:
    struct Message {
        u32 port;
        u16 event, value;
        std::string text;  // after the header: a name, a size
    };
    struct Port {
        chardev::Chardev* chardev;
        bool console;
        std::atomic<bool> guest_open{false}, host_open{true};
        std::atomic<bool> refused{false};  // input waits at the character device
        std::mutex input_mutex;            // the receive queue's popper
        Chain input;
    };
    VirtioConsole(const Wiring& wiring, ConsoleOptions options);
    static u16 receive_queue(usize port) { return static_cast<u16>(port == 0 ? 0 : 2 + 2 * port); }
    usize take_input(usize port, std::span<const u8> bytes);
    void connection_changed(usize port, bool connected);
    void transmit(usize port, u16 index);
    void read_control();
    void handle(u32 port, u16 event, u16 value);
    void send(Message message);
    void send_resize();
    void write_control();

    const ConsoleOptions options_;
    std::vector<std::unique_ptr<Port>> ports_;
    Chain chain_;  // loop

    std::mutex control_mutex_;  // guards what follows
    std::vector<Message> outgoing_;  // to the driver, waiting for buffers
    Chain control_;
};

}  // namespace vezha::devices::virtio
