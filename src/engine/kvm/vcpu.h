// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <atomic>

#include "engine/kvm/host.h"

namespace vezha::engine::kvm {

class KvmVm;

/// One vCPU's file descriptor and the loop around KVM_RUN.
class KvmVcpu final : public Vcpu {
  public:
    static Result<std::unique_ptr<KvmVcpu>> create(KvmVm& vm, u32 index, const x86::CpuModel& model);
    ~KvmVcpu() override;

    Exit run() override;
    void kick() override;
    void nmi() override;
    Error last_error() const override { return last_error_; }
    Result<x86::CpuState> save() override;
    Result<> load(const x86::CpuState& state) override;
    int thread_id() const override { return thread_id_.load(std::memory_order_relaxed); }

    /// The PIC's output may have changed: look again before the next entry. Any thread.
    void ext_int_changed();
    /// Moves the guest's TSC back by `ticks` (time that passed while paused).
    void rewind_tsc(u64 ticks);
    /// Tells the guest's watchdogs that it was not running (KVM_KVMCLOCK_CTRL). While not in run().
    void announce_pause();
    u64 exit_count(usize reason) const { return exits_[reason].load(std::memory_order_relaxed); }
    /// Takes what this vCPU's dirty ring holds. Caller holds the VM's memory mutex.
    template <class Mark>
    bool harvest_ring(Mark&& mark);

    static constexpr usize kExitReasons = 48;

  private:
    KvmVcpu(KvmVm& vm, u32 index, UniqueFd fd) : vm_(vm), index_(index), fd_(std::move(fd)) {}
    Result<> initialize(const x86::CpuModel& model);
    void interrupt_run();
    void inject_external_interrupt();
    void settle_injection();
    void handle_pio();
    void handle_mmio();
    void refuse_msr(bool write);
    Exit stop(Error error);
    Error describe(std::string what) const;
    Error describe_internal_error() const;
    void count(u32 reason) {
        // Only this thread writes: no locked instruction is needed.
        auto& counter = exits_[std::min<usize>(reason, kExitReasons - 1)];
        counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    }

    // state.cpp
    Result<> get_msrs(x86::CpuState& state) const;
    Result<> put_msrs(const x86::CpuState& state) const;
    Result<u64> get_msr(u32 index) const;
    Result<> put_msr(u32 index, u64 value) const;
    Result<u64> tsc_offset() const;
    Result<> set_tsc_offset(u64 offset) const;
    Result<> find_savable_msrs(const x86::CpuModel& model);

    KvmVm& vm_;
    u32 index_;
    UniqueFd fd_;
    kvm_run* run_ = nullptr;
    kvm_dirty_gfn* ring_ = nullptr;
    u32 ring_entries_ = 0;
    u32 ring_next_ = 0;
    std::vector<u32> msrs_;

    std::atomic<bool> kicked_{false};
    std::atomic<bool> nmi_{false};
    std::atomic<bool> ext_int_check_{true};
    bool ext_int_pending_ = false;   // run() thread
    bool ext_int_injected_ = false;  // for the present KVM_RUN; run() thread
    std::atomic<int> thread_id_{0};
    std::atomic<int> running_on_{0};  // thread inside run(), or 0
    std::array<std::atomic<u64>, kExitReasons> exits_{};
    Error last_error_{ErrorCode::Internal, "no error"};
    friend class KvmVm;
};

template <class Mark>
bool KvmVcpu::harvest_ring(Mark&& mark) {
    if (!ring_) return false;
    bool any = false;
    for (;;) {
        kvm_dirty_gfn& entry = ring_[ring_next_ % ring_entries_];
        if (!(__atomic_load_n(&entry.flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY)) return any;
        mark(entry.slot & 0xffff, entry.offset);
        __atomic_store_n(&entry.flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
        ++ring_next_;
        any = true;
    }
}

}  // namespace vezha::engine::kvm
