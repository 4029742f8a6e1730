// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/signals.h"

#include <asm/prctl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include "base/check.h"

namespace vezha::engine::dbt {

namespace {

constexpr usize kSignalStack = 64 * kKiB;
constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
thread_local GuestRun* current = nullptr;
struct sigaction previous[65];

/// Host index in gregs of each guest register.
constexpr int kGreg[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                           REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

/// A trap raised by a translated instruction itself is the guest's: DIV, unmasked floating point, misaligned MOVAPS, #UD.
void handler(int signal, siginfo_t* info, void* opaque) {
    auto& context = *static_cast<ucontext_t*>(opaque);
    auto& g = context.uc_mcontext.gregs;
    const u8* host = reinterpret_cast<const u8*>(g[REG_RIP]);
    GuestRun* run = current;
    const Block* block = run && host >= run->code_base && host < run->code_base + CodeCache::kSize ? run->cache->block_at(host) : nullptr;
    const unsigned trap = static_cast<unsigned>(g[REG_TRAPNO]);
    if (!block || trap == x86::kPageFault) {
        // Not the guest's: let the default action tell.
        const auto& old = previous[signal];
        if (old.sa_flags & SA_SIGINFO && old.sa_sigaction) return old.sa_sigaction(signal, info, opaque);
        if (!(old.sa_flags & SA_SIGINFO) && old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN) return old.sa_handler(signal);
        ::signal(signal, SIG_DFL);
        return;
    }
    Context& ctx = run->ctx;
    for (int r = 0; r < 16; ++r)
        if (r != block->scratch[0] && r != block->scratch[1]) ctx.gpr[static_cast<usize>(r)] = static_cast<u64>(g[kGreg[r]]);
    run->host_flags = static_cast<u64>(g[REG_EFL]);
    const u32 offset = static_cast<u32>(host - block->entry);
    auto found = std::upper_bound(block->origins.begin(), block->origins.end(), offset,
                                  [](u32 o, const Block::Origin& origin) { return o < origin.offset; });
    ctx.rip = block->rip + (found == block->origins.begin() ? 0 : (found - 1)->rip_delta);
    const bool has_code = trap == x86::kGeneralProtection || trap == x86::kAlignmentCheck || trap == x86::kStackFault;
    ctx.fault = {.pending = true, .vector = static_cast<u8>(trap), .has_error_code = has_code};
    run->exit_reason = ExitReason::Fault;
    run->exit_link = 0;
    const auto& thunks = *static_cast<const Thunks*>(run->thunks);
    g[REG_RIP] = reinterpret_cast<greg_t>(thunks.leave_signal);
    g[REG_EFL] &= ~static_cast<greg_t>(x86::rflags::kDf | x86::rflags::kTf);
}

/// Makes our handler the process's, over whatever another part installed meanwhile, which gets what is not ours.
void install() {
    static std::mutex mutex;
    const std::lock_guard lock(mutex);
    for (const int signal : kSignals) {
        struct sigaction action {}, old {};
        CHECK(::sigaction(signal, nullptr, &old) == 0);
        if ((old.sa_flags & SA_SIGINFO) && old.sa_sigaction == handler) continue;
        previous[signal] = old;
        action.sa_sigaction = handler;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigemptyset(&action.sa_mask);
        CHECK(::sigaction(signal, &action, nullptr) == 0);
    }
}

}  // namespace

GuestThread::GuestThread(GuestRun& run) {
    install();
    stack_ = ::mmap(nullptr, kSignalStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(stack_ != MAP_FAILED);
    // Disarmed while a handler runs, so that the kernel never takes the guest's RSP for a position on this stack.
    stack_t stack{.ss_sp = stack_, .ss_flags = static_cast<int>(1u << 31), .ss_size = kSignalStack};
    CHECK(::sigaltstack(&stack, &old_stack_) == 0);
    sigset_t mask, old;
    sigfillset(&mask);
    for (const int signal : kSignals) sigdelset(&mask, signal);
    CHECK(pthread_sigmask(SIG_SETMASK, &mask, &old) == 0);
    std::memcpy(&old_mask_, &old, sizeof old_mask_);
    CHECK(::syscall(SYS_arch_prctl, ARCH_GET_GS, &old_gs_) == 0);
    CHECK(::syscall(SYS_arch_prctl, ARCH_SET_GS, &run) == 0);
    old_run_ = current;
    current = &run;
}

GuestThread::~GuestThread() {
    current = old_run_;
    CHECK(::syscall(SYS_arch_prctl, ARCH_SET_GS, old_gs_) == 0);
    sigset_t old;
    sigemptyset(&old);
    std::memcpy(&old, &old_mask_, sizeof old_mask_);
    pthread_sigmask(SIG_SETMASK, &old, nullptr);
    ::sigaltstack(&old_stack_, nullptr);
    ::munmap(stack_, kSignalStack);
}

}  // namespace vezha::engine::dbt
