// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine/dbt/dispatch.h"
#include "engine/dbt/vm.h"

namespace vezha::engine::dbt {

/// One processor of the software engine: its loop of events, translation and execution.
class VcpuImpl final : public Vcpu {
  public:
    static std::unique_ptr<VcpuImpl> create(VmImpl& vm, u32 index, const x86::CpuModel& model);
    ~VcpuImpl() override;

    Exit run() override;
    void kick() override { demand(attention::kKick); }
    void nmi() override { demand(attention::kNmi); }
    Error last_error() const override { return error_; }
    Result<x86::CpuState> save() override;
    Result<> load(const x86::CpuState& state) override;
    int thread_id() const override { return thread_id_.load(); }

    /// Sets attention bits, makes generated code notice, and wakes a sleeper. Any thread.
    void demand(u32 bits) { request_attention(run_->ctx, bits); }
    bool running() const { return running_.load(std::memory_order_seq_cst); }
    GuestRun& run_state() { return *run_; }
    const GuestRun& run_state() const { return *run_; }

  private:
    VcpuImpl(VmImpl& vm, GuestRun* run, const x86::CpuModel& model) : vm_(vm), run_(run), model_(model) {}
    void sleep();
    /// Attention bits. @return true if run() must return (kicked)
    bool attend();
    void handle(Next next);
    void translate_here(u64 mode);
    void system();
    void bounce();
    bool stop_at_breakpoint();
    void finish_instruction();
    void fail_here(std::string why);

    VmImpl& vm_;
    GuestRun* run_;  // the VmImpl's: alarms of the local APIC may come late
    x86::CpuModel model_;
    std::atomic<bool> running_{false};
    std::atomic<int> thread_id_{0};
    Error error_{ErrorCode::Internal, "no error"};
    bool failed_ = false;
    u64 watch_hits_ = 0;  ///< data breakpoints that the instruction in progress hits: DR6 bits
};

}  // namespace vezha::engine::dbt
