// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <vector>

#include "engine/kvm/host.h"
#include "engine/kvm/kvm_engine.h"

namespace vezha::engine::kvm {

class KvmVcpu;

/// The VM's file descriptor: memory slots, interrupt routes, doorbells, dirty log, clocks.
class KvmVm final : public Vm, private bus::MsiSink, private bus::DoorbellListener {
  public:
    static Result<std::unique_ptr<KvmVm>> create(Host host, const VmWiring& wiring, const Options& options);
    ~KvmVm() override;

    const Capabilities& capabilities() const override { return capabilities_; }
    Result<std::unique_ptr<Vcpu>> new_vcpu(u32 index, const x86::CpuModel& model) override;
    bus::MsiSink& msi() override { return *this; }
    void ext_int_changed() override;
    void set_ioapic_route(u32 pin, const bus::MsiMessage& message, bool level, bool masked) override;
    Result<> set_dirty_logging(bool on) override;
    Result<> collect_dirty() override;
    void paused() override;
    void resumed() override;
    std::vector<std::pair<std::string, u64>> statistics() const override;

    int fd() const { return fd_.get(); }
    const VmWiring& wiring() const { return wiring_; }
    const Host& host() const { return host_; }
    u32 dirty_ring_entries() const { return ring_entries_; }
    void remove_vcpu(KvmVcpu* vcpu);
    /// The host's TSC at which guest time stands still, or 0 while it runs.
    u64 paused_at_tsc() const { return paused_at_tsc_; }
    /// The kvmclock in nanoseconds, as of the pause if there is one.
    Result<u64> clock_ns() const;
    /// Sets the kvmclock at the next resumed() (state restored).
    void set_clock_at_resume(u64 ns) { paused_clock_ns_ = ns; }

  private:
    class Route;
    static constexpr u32 kIoapicPins = 24;
    // A region larger than this in all makes DirtyTracking::Automatic choose the ring.
    static constexpr u64 kRingThreshold = 16 * kGiB;
    static constexpr u32 kRingEntries = 16384;

    KvmVm(Host host, UniqueFd fd, const VmWiring& wiring, Capabilities capabilities)
        : host_(std::move(host)), fd_(std::move(fd)), wiring_(wiring), capabilities_(std::move(capabilities)) {}
    Result<> initialize(const Options& options);
    Result<> install_msr_filter();
    Result<> sync_memory_slots();
    Result<> set_slot(u32 slot, memory::Region& region, bool log);
    Result<> collect_bitmap();
    void collect_rings();

    void send(const bus::MsiMessage& message) override;
    Result<std::unique_ptr<bus::MsiRoute>> new_route() override;
    void doorbell_added(const bus::Doorbell& doorbell) override { change_doorbell(doorbell, 0); }
    void doorbell_removed(const bus::Doorbell& doorbell) override { change_doorbell(doorbell, KVM_IOEVENTFD_FLAG_DEASSIGN); }
    void change_doorbell(const bus::Doorbell& doorbell, u32 flags);
    /// Sends the whole table to the kernel.
    void commit_routes_locked();

    Host host_;
    UniqueFd fd_;
    VmWiring wiring_;
    Capabilities capabilities_;

    std::mutex routes_mutex_;  // innermost
    std::map<u32, bus::MsiMessage> routes_;  // GSI -> message; 0-23 are IOAPIC pins
    std::vector<bool> gsi_used_;

    std::mutex memory_mutex_;  // slots and dirty logs
    std::vector<memory::Region*> slots_;
    bool logging_ = false;
    bool manual_clear_ = false;
    u32 ring_entries_ = 0;

    mutable std::mutex vcpus_mutex_;
    std::vector<KvmVcpu*> vcpus_;  // by creation
    std::atomic<KvmVcpu*> pic_target_{nullptr};  // vCPU 0 takes the PIC's output; it outlives the board's last call

    u64 paused_at_tsc_ = 0;
    u64 paused_clock_ns_ = 0;  // 0: leave the clock alone
    friend class Route;
    friend class KvmVcpu;
};

}  // namespace vezha::engine::kvm
