// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "devices/virtio/net_filter.h"
#include "devices/virtio/pci_device.h"
#include "net/backend.h"

namespace vezha::devices::virtio {

struct NetOptions {
    net::MacAddress mac{};
    std::vector<EventLoop*> pair_loops;  ///< one per queue pair; at most the back end's queue_pairs()
    u16 queue_size = 256;
    u16 mtu = 0;                         ///< 0: not told to the guest
    u32 speed_mbit = 10'000;
    bool link_up = true;
};

/// Virtio network device. Queue pair i is served on pair_loops[i], the control queue on the first.
/// Source: virtio 1.2, 5.1.
class VirtioNet final : public PciDevice {
  public:
    static Result<std::unique_ptr<VirtioNet>> create(const Wiring& wiring, net::Backend& backend, NetOptions options);
    ~VirtioNet() override;

    /// Plugs or pulls the cable. Any thread.
    void set_link(bool up);
    bool link_up() const { return link_up_.load(std::memory_order_acquire); }
    /// Asks the guest to make itself known on its network (after migration). Any thread.
    void announce();
    net::MacAddress mac() const { return device_config<net::MacAddress>(0); }

  protected:
    void on_queue(u16 index) override;
    void on_driver_ready() override;
    void on_reset() override;
    void save_device(state::Section& out) const override;
    Result<> load_device(const state::Section& in, u32 saved_version) override;

  private:
    struct Pair {
        EventLoop* loop = nullptr;
        std::unique_ptr<net::BackendQueue> backend;  // loop
        Chain transmit;                              // loop
        std::mutex receive_mutex;        // the receive queue; held by whichever back-end queue delivers into it
        std::vector<Chain> received;     // of the packet at hand
        std::vector<iovec> pieces;
    };
    VirtioNet(const Wiring& wiring, net::Backend& backend, NetOptions options);
    void receive(u16 source);
    bool deliver(u16 source, Pair& target, u16 index, usize size);
    void transmit(u16 pair);
    void control();
    u8 handle_command(std::span<const iovec> data);
    u8 set_mac_tables(std::span<const iovec> data);
    Result<> apply_offloads(u64 guest_offloads);
    u16 control_index() const;
    u16 target_of(u16 source) const { return source % active_pairs_.load(std::memory_order_acquire); }

    net::Backend& backend_;
    const NetOptions options_;
    std::vector<std::unique_ptr<Pair>> pairs_;
    NetFilter filter_;
    Chain control_chain_;  // loop of pair 0
    std::atomic<u16> active_pairs_{1};
    std::atomic<bool> link_up_{true};
    u64 guest_offloads_ = 0;  // what the driver now takes; loop of pair 0, or nothing runs
    std::optional<u64> restored_offloads_;
};

}  // namespace vezha::devices::virtio
