// SPDX-License-Identifier: Apache-2.0
#include "tests/differential/native_runner.h"

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cerrno>
#include <csetjmp>
#include <csignal>
#include <cstring>
#include <memory>

namespace vezha::differential {

namespace {

/// At kSave. The assembler below knows the offsets.
struct SaveArea {
    u64 gpr[16];           // 0x00
    u64 flags;             // 0x80
    u64 entry;             // 0x88
    u64 host_rsp;          // 0x90
    u64 xcr0;              // 0x98
    u64 exit_address;      // 0xa0
    u64 pad[11];
    alignas(64) u8 xsave[4096];  // 0x100
};
static_assert(offsetof(SaveArea, xsave) == 0x100);

SaveArea& save_area() { return *reinterpret_cast<SaveArea*>(kSave); }

sigjmp_buf g_back;
Outcome* g_outcome = nullptr;
constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
alignas(64) u8 g_stack[64 * 1024];
struct sigaction g_old[std::size(kSignals)];

}  // namespace

// Enters the case with the registers of the save area; comes back through vezha_native_exit.
extern "C" void vezha_native_enter();
extern "C" void vezha_native_exit();
asm(R"(
.text
.globl vezha_native_enter
vezha_native_enter:
    push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15
    mov %rsp, 0x30000090
    mov 0x30000098, %eax
    xor %edx, %edx
    xrstor64 0x30000100
    mov $0x30000080, %esp
    popfq
    mov 0x30000000, %rax; mov 0x30000008, %rcx; mov 0x30000010, %rdx; mov 0x30000018, %rbx
    mov 0x30000020, %rsp; mov 0x30000028, %rbp; mov 0x30000030, %rsi; mov 0x30000038, %rdi
    mov 0x30000040, %r8; mov 0x30000048, %r9; mov 0x30000050, %r10; mov 0x30000058, %r11
    mov 0x30000060, %r12; mov 0x30000068, %r13; mov 0x30000070, %r14; mov 0x30000078, %r15
    jmp *0x30000088
.globl vezha_native_exit
vezha_native_exit:
    mov %rax, 0x30000000; mov %rcx, 0x30000008; mov %rdx, 0x30000010; mov %rbx, 0x30000018
    mov %rsp, 0x30000020; mov %rbp, 0x30000028; mov %rsi, 0x30000030; mov %rdi, 0x30000038
    mov %r8, 0x30000040; mov %r9, 0x30000048; mov %r10, 0x30000050; mov %r11, 0x30000058
    mov %r12, 0x30000060; mov %r13, 0x30000068; mov %r14, 0x30000070; mov %r15, 0x30000078
    mov $0x30000088, %esp
    pushfq
    cld
    mov 0x30000090, %rsp
    mov 0x30000098, %eax
    xor %edx, %edx
    xsave64 0x30000100
    pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx
    ret
)");

namespace {

void reset_host_fpu() {
    const u32 mxcsr = 0x1f80;
    asm volatile("fninit; ldmxcsr %0" ::"m"(mxcsr));
}

void on_signal(int, siginfo_t*, void* context) {
    reset_host_fpu();
    const auto& uc = *static_cast<ucontext_t*>(context);
    const auto& g = uc.uc_mcontext.gregs;
    Outcome& out = *g_outcome;
    constexpr int kOrder[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    for (unsigned i = 0; i < 16; ++i) out.state.gpr[i] = static_cast<u64>(g[kOrder[i]]);
    out.state.rip = static_cast<u64>(g[REG_RIP]);
    out.state.flags = static_cast<u64>(g[REG_EFL]);
    out.vector = static_cast<int>(g[REG_TRAPNO]);
    out.error_code = static_cast<u32>(g[REG_ERR]) & ~4u;  // the guest runs at CPL 0
    out.fault_address = static_cast<u64>(g[REG_CR2]);
    // The kernel puts an XSAVE image in standard format here; its software bytes at 464 give the size.
    u32 size = 512;
    const u8* fp = reinterpret_cast<const u8*>(uc.uc_mcontext.fpregs);
    u32 magic = 0;
    std::memcpy(&magic, fp + 464, 4);
    if (magic == 0x46505853) std::memcpy(&size, fp + 464 + 16, 4);
    out.state.xsave.bytes.fill(0);
    std::memcpy(out.state.xsave.bytes.data(), fp, size < x86::XsaveArea::kSize ? size : x86::XsaveArea::kSize);
    siglongjmp(g_back, 1);
}

Result<> map_at(u64 address, u64 size, int protection) {
    void* got = ::mmap(reinterpret_cast<void*>(address), size, protection,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_POPULATE, -1, 0);
    if (got == MAP_FAILED) return fail_errno(errno, "cannot map {:#x} for test cases", address);
    return {};
}

}  // namespace

Result<std::unique_ptr<NativeRunner>> NativeRunner::create(u64 xcr0) {
    TRY(map_at(kCode, kCodeSize + kPageSize, PROT_READ | PROT_WRITE | PROT_EXEC));
    TRY(map_at(kData, kDataSize, PROT_READ | PROT_WRITE));
    TRY(map_at(kReadOnly, kPageSize, PROT_READ));
    TRY(map_at(kSave, sizeof(SaveArea), PROT_READ | PROT_WRITE));
    save_area().xcr0 = xcr0;
    save_area().exit_address = reinterpret_cast<u64>(&vezha_native_exit);
    const u8 jump[] = {0xff, 0x24, 0x25, 0xa0, 0, 0, 0x30};  // jmp *kSave+0xa0
    std::memcpy(reinterpret_cast<void*>(kExit), jump, sizeof jump);

    return std::unique_ptr<NativeRunner>(new NativeRunner);
}

NativeRunner::~NativeRunner() {
    ::munmap(reinterpret_cast<void*>(kCode), kCodeSize + kPageSize);
    ::munmap(reinterpret_cast<void*>(kData), kDataSize + kPageSize);
    ::munmap(reinterpret_cast<void*>(kSave), sizeof(SaveArea));
}

Outcome NativeRunner::run(const Case& test) {
    Outcome outcome;
    g_outcome = &outcome;
    SaveArea& area = save_area();
    std::memcpy(area.gpr, test.start.gpr.data(), sizeof area.gpr);
    area.flags = (test.start.flags & kComparedFlags) | 0x202;
    area.entry = test.start.rip;
    std::memcpy(area.xsave, test.start.xsave.bytes.data(), sizeof area.xsave);
    std::memcpy(reinterpret_cast<void*>(kData), test.start.data.data(), kDataSize);
    std::memcpy(reinterpret_cast<void*>(test.start.rip), test.code.data(), test.code.size());
    // The engine has handlers and a signal stack of its own: ours are there only now.
    stack_t old_stack{}, stack{.ss_sp = g_stack, .ss_flags = 0, .ss_size = sizeof g_stack};
    ::sigaltstack(&stack, &old_stack);
    struct sigaction action {};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (usize i = 0; i < std::size(kSignals); ++i) ::sigaction(kSignals[i], &action, &g_old[i]);
    // sigsetjmp keeps neither the vector state nor the control words: reset_host_fpu() does.
    if (sigsetjmp(g_back, 0) == 0) {
        vezha_native_enter();
        reset_host_fpu();
        std::memcpy(outcome.state.gpr.data(), area.gpr, sizeof area.gpr);
        outcome.state.flags = area.flags;
        std::memcpy(outcome.state.xsave.bytes.data(), area.xsave, sizeof area.xsave);
    }
    for (usize i = 0; i < std::size(kSignals); ++i) ::sigaction(kSignals[i], &g_old[i], nullptr);
    ::sigaltstack(&old_stack, nullptr);
    std::memcpy(outcome.state.data.data(), reinterpret_cast<void*>(kData), kDataSize);
    return outcome;
}

}  // namespace vezha::differential
