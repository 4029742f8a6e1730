// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "engine/dbt/lapic.h"
#include "engine/dbt/system_interface.h"

namespace vezha::engine::dbt {

/// All local APICs of a VM: routes messages to them. send() on any thread; the set of APICs is fixed before the first run.
class LocalApics final : public ApicFabric {
  public:
    explicit LocalApics(const VmWiring& wiring);
    ~LocalApics() override;

    void send(const bus::MsiMessage& message) override;
    Result<std::unique_ptr<bus::MsiRoute>> new_route() override;
    void add(Context& ctx, u32 index) override;
    void ext_int_changed() override;
    u64 mmio_read(Context& ctx, u32 offset, unsigned size) override;
    void mmio_write(Context& ctx, u32 offset, unsigned size, u64 value) override;
    void save(Context& ctx, x86::LapicState& out) override;
    void load(Context& ctx, const x86::LapicState& in) override;
    void paused() override;
    void resumed() override;

    void deliver(const InterruptMessage& message, Lapic* except = nullptr);
    Lapic* find(u32 apic_id) const;
    bus::ExtIntSource* ext_int() const { return wiring_.ext_int; }
    u64 tsc_hz() const { return outside_.tsc_hz; }
    u64 now_ns() const { return wiring_.clock.now_ns(); }
    /// Host TSC to VM TSC (the guest's TSC with TSC_ADJUST zero), the same on all vCPUs.
    u64 tsc_offset() const { return tsc_offset_.load(std::memory_order_relaxed); }
    /// After loading a vCPU's state: its TSC should read `tsc` now. Values close to the VM's are taken as the same clock.
    void adopt_tsc(Context& ctx, u64 tsc);
    /// The guest's TSC, standing still while the VM is paused.
    u64 saved_tsc(const Context& ctx) const;

  private:
    VmWiring wiring_;
    Lapic::Outside outside_;
    std::vector<std::unique_ptr<Lapic>> apics_;
    std::atomic<u32> rotation_{0};
    std::atomic<u64> tsc_offset_;
    bool tsc_adopted_ = false;
    u64 paused_at_ = 0;  // host TSC; 0: running
};

inline LocalApics& local_apics(const Context& ctx) { return static_cast<LocalApics&>(*ctx.apics); }

}  // namespace vezha::engine::dbt
