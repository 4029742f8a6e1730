// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <mutex>

#include "engine/dbt/thunks.h"

namespace vezha::engine::dbt {

class VcpuImpl;

/// A VM of the software engine: what its vCPUs share.
class VmImpl final : public Vm {
  public:
    static Result<std::unique_ptr<Vm>> create(const VmWiring& wiring);
    ~VmImpl() override;

    const Capabilities& capabilities() const override { return capabilities_; }
    Result<std::unique_ptr<Vcpu>> new_vcpu(u32 index, const x86::CpuModel& model) override;
    bus::MsiSink& msi() override { return *apics_; }
    void ext_int_changed() override { apics_->ext_int_changed(); }
    void set_ioapic_route(u32, const bus::MsiMessage&, bool, bool) override {}  // EOIs are reported by the trigger mode
    Result<> set_dirty_logging(bool on) override;
    Result<> collect_dirty() override;
    void paused() override { apics_->paused(); }
    void resumed() override { apics_->resumed(); }
    std::vector<std::pair<std::string, u64>> statistics() const override;

    CodeCache& cache() { return *cache_; }
    const Thunks& thunks() const { return thunks_; }
    const VmWiring& wiring() const { return wiring_; }
    ApicFabric& apics() { return *apics_; }

    /// Stops every other vCPU outside generated code. `self`: the vCPU of the calling thread, not counted as running, or
    /// null. Between the two calls nobody runs guest code; rip of all is exact.
    void begin_exclusive(VcpuImpl* self);
    void end_exclusive();
    /// For a vCPU that saw attention::kExclusive: waits until the others are done. It must not count as running.
    void wait_exclusive();
    void forget(VcpuImpl* vcpu);
    /// Shared state for one more vCPU; lives as long as the VM.
    GuestRun* new_run();
    const std::vector<VcpuImpl*>& vcpus() const { return vcpus_; }

  private:
    VmImpl(const VmWiring& wiring, Capabilities capabilities) : wiring_(wiring), capabilities_(std::move(capabilities)) {}

    VmWiring wiring_;
    Capabilities capabilities_;
    std::vector<GuestRun*> runs_;
    std::unique_ptr<CodeCache> cache_;
    Thunks thunks_;
    std::unique_ptr<ApicFabric> apics_;
    std::vector<VcpuImpl*> vcpus_;
    std::mutex exclusive_;
    VcpuImpl* exclusive_holder_ = nullptr;
};

}  // namespace vezha::engine::dbt
