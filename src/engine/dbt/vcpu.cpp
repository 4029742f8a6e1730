// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/vcpu.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "base/check.h"
#include "base/log.h"
#include "engine/dbt/breakpoints.h"
#include "engine/dbt/signals.h"
#include "engine/dbt/slow_access.h"
#include "engine/dbt/trace.h"
#include "engine/dbt/translate.h"

namespace vezha::engine::dbt {

namespace {
constexpr u64 kDr6SingleStep = 1 << 14;
}

std::unique_ptr<VcpuImpl> VcpuImpl::create(VmImpl& vm, u32 index, const x86::CpuModel& model) {
    GuestRun* run = vm.new_run();
    auto vcpu = std::unique_ptr<VcpuImpl>(new VcpuImpl(vm, run, model));
    Context& ctx = run->ctx;
    ctx.vcpu = vcpu.get();
    ctx.vm = &vm;
    ctx.memory = &vm.wiring().memory;
    ctx.bus = &vm.wiring().bus;
    ctx.apics = &vm.apics();
    ctx.translator = run;
    ctx.cpuid = model.for_vcpu(index);
    note_cpuid(ctx);
    run->code_base = vm.cache().base();
    run->cache = &vm.cache();
    run->thunks = const_cast<Thunks*>(&vm.thunks());
    reset_tlb(*run);
    for (auto& jumps : run->jumps) jumps.target[0] = reinterpret_cast<u64>(vm.thunks().jump_miss);
    vm.apics().add(ctx, index);
    return vcpu;
}

VcpuImpl::~VcpuImpl() { vm_.forget(this); }

void request_attention(Context& ctx, u32 bits) {
    GuestRun& run = run_of(ctx);
    run.maybe_pending.store(true, std::memory_order_seq_cst);
    const u32 before = ctx.attention.fetch_or(bits, std::memory_order_seq_cst);
    run.jump_index_mask.store(0, std::memory_order_seq_cst);
    if ((before & bits) == bits) return;
    { const std::lock_guard lock(run.sleep_mutex); }
    run.wake.notify_one();
}

void VcpuImpl::sleep() {
    Context& ctx = run_->ctx;
    std::unique_lock lock(run_->sleep_mutex);
    // Whoever sets a bit afterwards takes the mutex first. Bits that cannot wake this state are taken by service_events().
    run_->wake.wait(lock, [&] { return ctx.attention.load(std::memory_order_seq_cst) & ~(ctx.nmi_masked ? attention::kNmi : 0u); });
}

bool VcpuImpl::attend() {
    Context& ctx = run_->ctx;
    const u32 bits = ctx.attention.load(std::memory_order_seq_cst);
    if (bits & attention::kExclusive) vm_.wait_exclusive();
    if (bits & attention::kTlbFlush) {
        ctx.attention.fetch_and(~attention::kTlbFlush);
        flush_tlb(ctx, FlushScope::All);
    }
    if (bits & attention::kKick) {
        ctx.attention.fetch_and(~attention::kKick);
        return true;
    }
    if (bits & ~(attention::kExclusive | attention::kTlbFlush | attention::kKick)) {
        park_vector_state(ctx);
        // Cleared before looking, as whoever posts an interrupt sets it first.
        run_->maybe_pending.store(false, std::memory_order_seq_cst);
        const bool open = (ctx.flags & x86::rflags::kIf) && !ctx.sti_shadow && !ctx.mov_ss_shadow;
        if (service_events(ctx) || !open) run_->maybe_pending.store(true, std::memory_order_seq_cst);
    }
    return false;
}

Exit VcpuImpl::run() {
    GuestRun& run = *run_;
    Context& ctx = run.ctx;
    const GuestThread thread(run);
    thread_id_ = static_cast<int>(::syscall(SYS_gettid));
    for (;;) {
        if (ctx.attention.load(std::memory_order_relaxed) && attend()) break;
        if (ctx.shutdown) {
            park_vector_state(ctx);
            return Exit::Shutdown;
        }
        if (failed_) {
            park_vector_state(ctx);
            failed_ = false;
            return Exit::Error;
        }
        if (ctx.mp_state != x86::MpState::Runnable) {
            park_vector_state(ctx);
            sleep();
            continue;
        }
        if (breakpoints_enabled(ctx)) [[unlikely]] {
            if (stop_at_breakpoint()) continue;
        }
        running_.store(true, std::memory_order_seq_cst);
        const Next next = dispatch(run, vm_.thunks());
        if (next == Next::Bounce) {
            bounce();
            running_.store(false, std::memory_order_release);
            continue;
        }
        running_.store(false, std::memory_order_release);
        handle(next);
    }
    park_vector_state(ctx);
    return Exit::Kicked;
}

void VcpuImpl::handle(Next next) {
    Context& ctx = run_->ctx;
    switch (next) {
    case Next::Attention: case Next::Bounce: break;
    case Next::Translate:
        park_vector_state(ctx);
        translate_here(block_mode(ctx));
        break;
    case Next::System:
        system();
        break;
    case Next::Fault:
        park_vector_state(ctx);
        ctx.sti_shadow = ctx.mov_ss_shadow = false;
        deliver_fault(ctx);
        break;
    case Next::Stepped: finish_instruction(); break;
    case Next::Yield: ::sched_yield(); break;
    }
}

/// While the guest has breakpoints: before each instruction. @return true if an instruction breakpoint was delivered
bool VcpuImpl::stop_at_breakpoint() {
    Context& ctx = run_->ctx;
    park_vector_state(ctx);
    const BreakpointHits hits = breakpoint_hits(ctx);
    watch_hits_ |= hits.after;
    if (!hits.before || ctx.mov_ss_shadow) return false;
    ctx.sti_shadow = false;
    ctx.flags |= x86::rflags::kRf;  // in the pushed image, so that IRET goes on past it
    ctx.fault = debug_fault(hits.before);
    deliver_fault(ctx);
    return true;
}

/// After a single-instruction block: shadows last one instruction, TF traps after it (SDM vol. 3B, 18.3.1.4).
void VcpuImpl::finish_instruction() {
    Context& ctx = run_->ctx;
    ctx.sti_shadow = ctx.mov_ss_shadow = false;
    const u64 hits = std::exchange(watch_hits_, 0) | (ctx.flags & x86::rflags::kTf ? kDr6SingleStep : 0);
    ctx.flags &= ~x86::rflags::kRf;
    if (hits) {
        park_vector_state(ctx);
        ctx.fault = debug_fault(hits);
        deliver_fault(ctx);
    }
}

void VcpuImpl::system() {
    GuestRun& run = *run_;
    Context& ctx = run.ctx;
    const SystemSite& site = *run.exit_site;
    const Instruction& insn = site.instruction;
    ++run.count_system;
    const u64 next = insn.rip + insn.info.length;
    const auto step_past = [&] { ctx.rip = ctx.code64 ? next : ctx.code32 ? next & 0xffff'ffff : next & 0xffff'ffff; };
    if (site.kind == SiteKind::Pause) {
        step_past();
        return finish_instruction();
    }
    park_vector_state(ctx);
    run.maybe_pending.store(true, std::memory_order_relaxed);  // TPR, EOI and the like may have changed
    const bool traced = ctx.flags & x86::rflags::kTf;
    ctx.sti_shadow = ctx.mov_ss_shadow = false;
    Outcome outcome = Outcome::Jumped;
    switch (site.kind) {
    case SiteKind::Raise:
        ctx.fault = site.fault;
        outcome = Outcome::Fault;
        break;
    case SiteKind::System: outcome = execute_system(ctx, insn); break;
    default:
        if (!execute_slowly(run, site)) outcome = Outcome::Fault;
        break;
    }
    switch (outcome) {
    case Outcome::Next: step_past(); break;
    case Outcome::Fault:
        ctx.fault.pending = true;
        deliver_fault(ctx);
        return;
    case Outcome::Jumped: case Outcome::Repeat: break;
    }
    // MOV SS puts its own trap off; it is then lost in that of the next instruction.
    // What enters a handler clears TF and takes no trap; POPF and IRET that clear it still take the one they owe.
    const ZydisMnemonic m = insn.info.mnemonic;
    const bool clears_late = m == ZYDIS_MNEMONIC_POPF || m == ZYDIS_MNEMONIC_POPFD || m == ZYDIS_MNEMONIC_POPFQ ||
                             m == ZYDIS_MNEMONIC_IRET || m == ZYDIS_MNEMONIC_IRETD || m == ZYDIS_MNEMONIC_IRETQ;
    u64 hits = traced && ((ctx.flags & x86::rflags::kTf) || clears_late) ? kDr6SingleStep : 0;
    if (!ctx.mov_ss_shadow) hits |= std::exchange(watch_hits_, 0);
    if (hits && !ctx.mov_ss_shadow) {
        ctx.fault = debug_fault(hits);
        deliver_fault(ctx);
    }
}

/// Runs the instruction at rip with its accesses in C++. Counts as running.
void VcpuImpl::bounce() {
    GuestRun& run = *run_;
    Context& ctx = run.ctx;
    const bool exclusive = run.exit_locked && vm_.vcpus().size() > 1;
    run.exit_locked = false;
    if (exclusive) {
        running_.store(false, std::memory_order_seq_cst);
        vm_.begin_exclusive(this);
        running_.store(true, std::memory_order_seq_cst);
    }
    const u64 mode = (ctx.mode_key | key::kBounce);
    const u64 linear = ctx.code64 ? ctx.rip : (ctx.rip + ctx.segment[x86::kCs].base) & 0xffff'ffff;
    Next after = Next::Fault;
    if (GuestRun::Exec* page = exec_page(run, linear)) {
        Block* block = run.cache->find(page->gpa | (linear & 0xfff), ctx.rip, mode);
        bool usable = block;
        if (block && block->second_page) {
            GuestRun::Exec* second = exec_page(run, (linear | 0xfff) + 1);
            usable = second && second->gpa == block->second_page;
        }
        if (!usable) {
            // Translate it as the loop does, then come back for it.
            if (exclusive) vm_.end_exclusive();
            running_.store(false, std::memory_order_seq_cst);
            park_vector_state(ctx);
            return translate_here(mode);
        }
        run.maybe_pending.store(true, std::memory_order_relaxed);  // the local APIC's registers may be written
        execute(run, vm_.thunks(), block->entry);
        after = run.exit_reason == ExitReason::Fault ? Next::Fault
                : run.exit_reason == ExitReason::System ? Next::System : Next::Stepped;
    }
    if (exclusive) vm_.end_exclusive();
    running_.store(false, std::memory_order_release);
    if (after == Next::Stepped && !(block_mode(ctx) & key::kSingle)) return;
    handle(after);
}

void VcpuImpl::translate_here(u64 mode) {
    GuestRun& run = *run_;
    Context& ctx = run.ctx;
    CodeCache& cache = vm_.cache();
    const u64 linear = ctx.code64 ? ctx.rip : (ctx.rip + ctx.segment[x86::kCs].base) & 0xffff'ffff;
    GuestRun::Exec* exec = exec_page(run, linear);
    if (!exec) return handle(Next::Fault);
    const u64 page_gpa = exec->gpa, offset = linear & 0xfff;
    u8* const page_host = exec->host;
    const bool global = exec->global;
    BlockSource source{.gpa = page_gpa | offset, .rip = ctx.rip, .mode = mode, .bytes = {page_host + offset, 4096 - offset}};

    if (cache.nearly_full()) {
        vm_.begin_exclusive(this);
        {
            const std::lock_guard lock(cache.mutex());
            cache.flush();
        }
        for (VcpuImpl* vcpu : vm_.vcpus()) clear_all_jumps(vcpu->run_state());
        vm_.end_exclusive();
    }
    const auto protect = [&](u64 gpa, const u8* host) {
        bool writable;
        {
            const std::lock_guard lock(cache.mutex());
            writable = cache.mark_code(gpa);
        }
        if (!writable) return;
        vm_.begin_exclusive(this);
        for (VcpuImpl* vcpu : vm_.vcpus()) drop_write_entries(vcpu->run_state(), host);
        vm_.end_exclusive();
    };
    protect(page_gpa, page_host);
    std::unique_lock lock(cache.mutex());
    Block* block = nullptr;
    u8 crossing[32];
    for (int attempt = 0; attempt < 2; ++attempt) {
        if (!cache.page_has_code(source.gpa)) cache.mark_code(source.gpa);
        if (cache.nearly_full()) return;  // others filled it: come back
        const TranslateStatus status = translate(cache, vm_.thunks(), source, block);
        if (status == TranslateStatus::Done) break;
        lock.unlock();
        GuestRun::Exec* second = exec_page(run, (linear | 0xfff) + 1);
        if (!second) {
            // The fetch of the second half faults; rip stays at the instruction.
            return handle(Next::Fault);
        }
        const u64 second_gpa = second->gpa;
        protect(second_gpa, second->host);
        const usize first = 4096 - offset;
        std::memcpy(crossing, page_host + offset, first);
        std::memcpy(crossing + first, second->host, 15);
        source.second_gpa = second_gpa;
        source.crossing = {crossing, 15};
        lock.lock();
    }
    if (!block) return;
    block->global = global;
    cache.publish(block);
    if (trace_enabled()) trace_block(*block, source.crossing.empty() ? source.bytes : source.crossing);
}

void VcpuImpl::fail_here(std::string why) {
    error_ = Error(ErrorCode::Internal, std::move(why));
    failed_ = true;
}

// ----------------------------------------------------------------------------------------------------- save and load

Result<x86::CpuState> VcpuImpl::save() { return to_cpu_state(run_->ctx); }

Result<> VcpuImpl::load(const x86::CpuState& state) {
    TRY(from_cpu_state(run_->ctx, state));
    reset_tlb(*run_);
    return {};
}

}  // namespace vezha::engine::dbt
