// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <functional>
#include <optional>

#include "devices/virtio/pci_device.h"

namespace vezha::devices::virtio {

struct BalloonOptions {
    EventLoop* loop = nullptr;
    bool deflate_on_oom = true;       ///< the guest may take pages back rather than kill a process
    bool free_page_reporting = true;  ///< the guest tells of pages that it freed
};

/// What the guest says about its memory; bytes unless named otherwise. virtio 1.2, 5.5.6.4
struct BalloonStatistics {
    static constexpr usize kTags = 10;
    enum Tag : u8 { SwapIn, SwapOut, MajorFaults, MinorFaults, Free, Total, Available, Caches, HugePagesAllocated, HugePagesFailed };
    std::array<std::optional<u64>, kTags> values;
    u64 updated_ns = 0;  ///< CLOCK_REALTIME of the last report; 0: none yet
};

/// Memory balloon. Pages in it, and pages reported free, go back to the host. Source: virtio 1.2, 5.5.
class VirtioBalloon final : public PciDevice {
  public:
    static Result<std::unique_ptr<VirtioBalloon>> create(const Wiring& wiring, BalloonOptions options);
    ~VirtioBalloon() override;

    /// Asks the guest to keep `bytes` of memory for itself; the balloon takes the rest. Any thread.
    void set_target(u64 bytes);
    u64 target() const;
    /// What the guest has now: RAM less the balloon. Any thread.
    u64 actual() const;
    /// Called on a vCPU's thread when actual() changed. Set before the guest runs.
    void set_on_change(std::function<void(u64 actual)> callback) { on_change_ = std::move(callback); }

    /// Asks for statistics every so often; 0: never. Any thread.
    void set_statistics_interval(u32 seconds);
    u32 statistics_interval() const { return interval_s_.load(); }
    BalloonStatistics statistics() const;
    /// Bytes given back by free page reports so far. Any thread.
    u64 reported_bytes() const { return reported_.load(); }

  protected:
    void on_queue(u16 index) override;
    void on_driver_ready() override;
    void on_reset() override;
    void on_config_written(u32 offset, u32 size) override;
    void save_device(state::Section& out) const override;
    Result<> load_device(const state::Section& in, u32 saved_version) override;

  private:
    VirtioBalloon(const Wiring& wiring, BalloonOptions options);
    void inflate();
    void discard_pages(std::vector<u32>& pages);
    void deflate();
    void read_statistics();
    void ask_for_statistics();
    void report(u16 index);

    const BalloonOptions options_;
    Chain chain_;  // loop
    std::unique_ptr<EventLoop::Timer> timer_;
    std::atomic<u32> interval_s_{0};
    std::atomic<u64> reported_{0};
    std::function<void(u64)> on_change_;
    mutable std::mutex statistics_mutex_;
    BalloonStatistics statistics_;
};

}  // namespace vezha::devices::virtio
