// SPDX-License-Identifier: Apache-2.0
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>

#include "arch/x86/registers.h"
#include "engine/kvm/kvm_engine.h"

// The guest: 64-bit code, position-independent, entered with RSP at a stack, RDI at a scratch page and an IDT at RSI.
// Each step writes its number to port 0xf5 before it tries; port 0xf4 ends. Private symbols.
asm(R"(
    .pushsection .rodata
    .balign 16
    .globl vezha_kvm_self_test_guest
    .globl vezha_kvm_self_test_guest_end
    .hidden vezha_kvm_self_test_guest
    .hidden vezha_kvm_self_test_guest_end
    .macro vezha_step number
    movb $\number, %al
    outb %al, $0xf5
    .endm
vezha_kvm_self_test_guest:
    vezha_step 1
    movl $1, (%rdi)
    cmpl $1, (%rdi)
    jne 9f
    vezha_step 2
    leaq 1f(%rip), %rbx
    ud2
1:  vezha_step 3
    leaq 1f(%rip), %rbx
    int3
1:  vezha_step 4
    movq $0, (%rdi)
    movq $0, 8(%rdi)
    xorl %eax, %eax
    xorl %edx, %edx
    xorl %ecx, %ecx
    movl $5, %ebx
    lock cmpxchg16b (%rdi)
    jnz 9f
    cmpq $5, (%rdi)
    jne 9f
    vezha_step 5
    movl $3, %eax
    cvtsi2sd %eax, %xmm0
    mulsd %xmm0, %xmm0
    cvttsd2si %xmm0, %eax
    cmpl $9, %eax
    jne 9f
    fninit
    fld1
    fstpl (%rdi)
    vezha_step 6
    fxsave 0x200(%rdi)
    fxrstor 0x200(%rdi)
    vezha_step 7
    movl $1, %eax
    cpuid
    btl $26, %ecx
    jnc 2f
    movq %cr4, %rax
    btsq $18, %rax
    movq %rax, %cr4
    movl $3, %eax
    xorl %edx, %edx
    xsave 0x400(%rdi)
    xrstor 0x400(%rdi)
2:  movb $0, %al
    outb %al, $0xf4
9:  movb $1, %al
    outb %al, $0xf4
8:  jmp 8b
    .balign 16
    /* the handler of #UD and #BP: goes on at RBX by IRET */
vezha_kvm_self_test_handler:
    movq %rbx, (%rsp)
    iretq
vezha_kvm_self_test_guest_end:
    .purgem vezha_step
    .popsection
)");
extern "C" const vezha::u8 vezha_kvm_self_test_guest[], vezha_kvm_self_test_guest_end[];

namespace vezha::engine::kvm {

namespace {

constexpr u64 kCode = 0x1000, kIdt = 0x2000, kGdt = 0x3000, kPageTables = 0x4000, kScratch = 0x8000, kStackTop = 0xf000;
constexpr u64 kRam = 0x10000, kTimeLimitMs = 2000;

constexpr const char* kStepNames[] = {"start a 64-bit guest", "run simple instructions", "deliver an exception (#UD)",
                                      "deliver int3",         "run cmpxchg16b",          "run SSE and x87 arithmetic",
                                      "run fxsave/fxrstor",   "run xsave/xrstor"};

/// Ports 0xf4 (end, 0 is success) and 0xf5 (step).
class Ports final : public bus::Device {
  public:
    u64 read(u32, u64, unsigned) override { return 0; }
    void write(u32, u64 offset, unsigned, u64 value) override {
        if (offset == 1) step = std::min<usize>(value, std::size(kStepNames) - 1);
        else {
            passed = value == 0;
            ended = true;
            vcpu->kick();
        }
    }
    usize step = 0;
    bool ended = false, passed = false;
    Vcpu* vcpu = nullptr;
};

class NoClock final : public bus::Clock {
  public:
    u64 now_ns() const override { return 0; }
    std::unique_ptr<bus::Timer> new_timer(std::function<void()>) override { return nullptr; }
};

Result<> write_image(memory::GuestMemory& memory) {
    const usize size = static_cast<usize>(vezha_kvm_self_test_guest_end - vezha_kvm_self_test_guest);
    TRY(memory.load({kCode}, {vezha_kvm_self_test_guest, size}));
    // The handler is the last 16-byte-aligned piece.
    const u64 handler = kCode + align_down(size - 1, 16);
    for (u64 vector : {u64{x86::kInvalidOpcode}, u64{x86::kBreakpoint}}) {
        TRY(memory.write_object({kIdt + vector * 16}, handler | u64{0x8} << 16 | u64{0x8e00} << 32));
        TRY(memory.write_object({kIdt + vector * 16 + 8}, u64{0}));
    }
    TRY(memory.write_object({kGdt + 8}, u64{0x00af'9b00'0000'ffff}));
    TRY(memory.write_object({kGdt + 16}, u64{0x00cf'9300'0000'ffff}));
    // The first 2 MiB, one to one.
    TRY(memory.write_object({kPageTables}, kPageTables + 0x1000 + 3));
    TRY(memory.write_object({kPageTables + 0x1000}, kPageTables + 0x2000 + 3));
    TRY(memory.write_object({kPageTables + 0x2000}, u64{0x83}));
    return {};
}

x86::CpuState entry_state() {
    x86::CpuState s = x86::reset_state(true, 0);
    s.segment.fill(x86::flat_data());
    for (auto& segment : s.segment) segment.selector = 0x10;
    s.segment[x86::kCs] = x86::flat_code64();
    s.segment[x86::kCs].selector = 8;
    s.gdtr = {kGdt, 23};
    s.idtr = {kIdt, 0xfff};
    s.rip = kCode;
    s.gpr[x86::kRsp] = kStackTop;
    s.gpr[x86::kRdi] = kScratch;
    s.cr0 = x86::cr0::kPe | x86::cr0::kPg | x86::cr0::kNe | x86::cr0::kMp | x86::cr0::kEt | x86::cr0::kWp;
    s.cr3 = kPageTables;
    s.cr4 = x86::cr4::kPae | x86::cr4::kOsfxsr | x86::cr4::kOsxmmexcpt;
    s.efer = x86::efer::kLme | x86::efer::kLma;
    return s;
}

}  // namespace

Result<> self_test() {
    memory::GuestMemory memory({.huge_pages = false});
    TRY(memory.add_region("self-test", {0}, kRam));
    TRY(write_image(memory));
    bus::Bus bus;
    NoClock clock;
    Ports ports;
    auto mapping = TRY(bus.map(bus::Space::Pio, 0xf4, 2, ports, 0, "self-test"));
    auto vm = TRY(create({.memory = memory, .bus = bus, .clock = clock}));
    const Capabilities& caps = vm->capabilities();
    const x86::CpuModel model = TRY(x86::make_cpu_model("host", caps.cpuid, caps.xcr0, caps.tsc_hz, 1));
    auto vcpu = TRY(vm->new_vcpu(0, model));
    TRY(vcpu->load(entry_state()));
    ports.vcpu = vcpu.get();

    std::mutex mutex;
    std::condition_variable finished;
    bool done = false;
    std::thread watchdog([&] {
        std::unique_lock lock(mutex);
        if (!finished.wait_for(lock, std::chrono::milliseconds(kTimeLimitMs), [&] { return done; })) vcpu->kick();
    });
    const Exit exit = vcpu->run();
    {
        std::lock_guard lock(mutex);
        done = true;
    }
    finished.notify_one();
    watchdog.join();

    if (ports.ended && ports.passed) return {};
    std::string_view why = "gives a wrong result";
    if (exit == Exit::Error) why = "hardware virtualization is missing behind /dev/kvm";
    else if (exit == Exit::Shutdown) why = "the guest died of a triple fault";
    else if (!ports.ended) why = "the guest hangs";
    return Result<>(fail(ErrorCode::Unsupported, "the host's KVM cannot {}: {}", kStepNames[ports.step], why))
        .hint("use --engine dbt, or a host with Intel VT-x or AMD-V (nested virtualization inside a VM)");
}

}  // namespace vezha::engine::kvm
