// SPDX-License-Identifier: Apache-2.0
#include "engine/kvm/vcpu.h"

#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "arch/x86/registers.h"
#include "base/log.h"
#include "engine/kvm/vm.h"

namespace vezha::engine::kvm {

namespace {

constexpr const char* kLog = "kvm";

/// Its only effect is that KVM_RUN returns with EINTR.
int kick_signal() { return SIGRTMIN + 1; }

void install_kick_handler() {
    static const bool installed = [] {
        struct sigaction action{};
        action.sa_handler = [](int) {};
        return ::sigaction(kick_signal(), &action, nullptr) == 0;
    }();
    (void)installed;
}

void unblock_kick_signal() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, kick_signal());
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

u64 load_le(const u8* bytes, unsigned size) {
    u64 value = 0;
    std::memcpy(&value, bytes, size);
    return value;
}

}  // namespace

Result<std::unique_ptr<KvmVcpu>> KvmVcpu::create(KvmVm& vm, u32 index, const x86::CpuModel& model) {
    const int fd = kvm_ioctl(vm.fd(), KVM_CREATE_VCPU, static_cast<unsigned long>(index));
    if (fd < 0) {
        Error error = errno_error(errno, "KVM_CREATE_VCPU");
        return Failure(std::move(error).with_hint(
            fmt::format("this host's KVM runs at most {} vCPUs", vm.capabilities().max_vcpus)));
    }
    std::unique_ptr<KvmVcpu> vcpu(new KvmVcpu(vm, index, UniqueFd(fd)));
    TRY(vcpu->initialize(model));
    return vcpu;
}

Result<> KvmVcpu::initialize(const x86::CpuModel& model) {
    install_kick_handler();
    void* page = ::mmap(nullptr, vm_.host().run_size(), PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
    if (page == MAP_FAILED) return fail_errno(errno, "cannot map kvm_run");
    run_ = static_cast<kvm_run*>(page);
    if (const u32 entries = vm_.dirty_ring_entries()) {
        void* ring = ::mmap(nullptr, entries * sizeof(kvm_dirty_gfn), PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(),
                            static_cast<off_t>(KVM_DIRTY_LOG_PAGE_OFFSET * kPageSize));
        if (ring == MAP_FAILED) return fail_errno(errno, "cannot map the dirty ring");
        ring_ = static_cast<kvm_dirty_gfn*>(ring);
        ring_entries_ = entries;
    }

    const x86::CpuidTable table = model.for_vcpu(index_);
    const usize bytes = sizeof(kvm_cpuid2) + table.leaves().size() * sizeof(kvm_cpuid_entry2);
    std::vector<u64> storage(bytes / sizeof(u64) + 1);
    auto* list = reinterpret_cast<kvm_cpuid2*>(storage.data());
    list->nent = static_cast<u32>(table.leaves().size());
    for (usize i = 0; i < table.leaves().size(); ++i) {
        const x86::CpuidLeaf& leaf = table.leaves()[i];
        kvm_cpuid_entry2& entry = list->entries[i];
        entry = {};
        entry.function = leaf.leaf;
        entry.index = leaf.subleaf;
        entry.flags = leaf.has_subleaves ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0u;
        entry.eax = leaf.value.eax;
        entry.ebx = leaf.value.ebx;
        entry.ecx = leaf.value.ecx;
        entry.edx = leaf.value.edx;
    }
    KVM_TRY(fd_.get(), KVM_SET_CPUID2, list);
    TRY(find_savable_msrs(model));
    if (x86::CpuidRegisters one = model.cpuid.query(1, 0); one.edx & (1u << 14)) {
        // Machine checks without banks: the registers exist and nothing is ever reported.
        const u64 capability = 0;
        kvm_ioctl(fd_.get(), KVM_X86_SETUP_MCE, &capability);
    }
    return {};
}

KvmVcpu::~KvmVcpu() {
    vm_.remove_vcpu(this);
    if (ring_) ::munmap(ring_, ring_entries_ * sizeof(kvm_dirty_gfn));
    if (run_) ::munmap(run_, vm_.host().run_size());
}

// A flag is raised first, then immediate_exit: run() clears immediate_exit first, then takes the flags. So no flag is
// lost, whichever way the two interleave; the signal is for a thread that is in the guest already.
void KvmVcpu::interrupt_run() {
    // Once is enough: whoever set it sends the signal. (Real-time signals queue: a storm would drown the thread.)
    if (__atomic_exchange_n(&run_->immediate_exit, 1, __ATOMIC_SEQ_CST) != 0) return;
    const int thread = running_on_.load(std::memory_order_seq_cst);
    if (thread != 0 && thread != ::gettid()) ::tgkill(::getpid(), thread, kick_signal());
}

void KvmVcpu::kick() {
    kicked_.store(true, std::memory_order_seq_cst);
    interrupt_run();
}

void KvmVcpu::nmi() {
    nmi_.store(true, std::memory_order_seq_cst);
    interrupt_run();
}

void KvmVcpu::ext_int_changed() {
    // A device access on this very thread: the loop looks before it enters again.
    if (ext_int_check_.exchange(true, std::memory_order_seq_cst)) return;
    if (running_on_.load(std::memory_order_relaxed) != ::gettid()) interrupt_run();
}

void KvmVcpu::inject_external_interrupt() {
    bus::ExtIntSource* source = vm_.wiring().ext_int;
    ext_int_injected_ = false;
    if (!source || index_ != 0) return;
    if (ext_int_check_.load(std::memory_order_relaxed) && ext_int_check_.exchange(false)) ext_int_pending_ = source->pending();
    if (!ext_int_pending_) {
        run_->request_interrupt_window = 0;
        return;
    }
    if (run_->ready_for_interrupt_injection) {
        kvm_interrupt interrupt{source->acknowledge()};
        if (kvm_ioctl(fd_.get(), KVM_INTERRUPT, &interrupt) < 0)
            LOG_GUEST_ERROR(kLog, "vector {} of the PIC was lost (errno {})", interrupt.irq, errno);
        ext_int_injected_ = true;
        run_->ready_for_interrupt_injection = 0;
        ext_int_pending_ = source->pending();
    }
    run_->request_interrupt_window = ext_int_pending_;
}

// KVM keeps a vector given by KVM_INTERRUPT where no ioctl can save it until the next entry. When a kick came in between,
// enter once more with a signal pending: the vector moves to the vCPU's events and no instruction runs.
void KvmVcpu::settle_injection() {
    sigset_t kick, old;
    sigemptyset(&kick);
    sigaddset(&kick, kick_signal());
    pthread_sigmask(SIG_BLOCK, &kick, &old);
    sigset_t inside = old;
    sigdelset(&inside, kick_signal());
    constexpr u32 kSetBytes = 8;  // the kernel's sigset_t
    alignas(kvm_signal_mask) u8 storage[sizeof(kvm_signal_mask) + kSetBytes] = {};
    auto* mask = reinterpret_cast<kvm_signal_mask*>(storage);
    mask->len = kSetBytes;
    std::memcpy(mask->sigset, &inside, kSetBytes);
    if (kvm_ioctl(fd_.get(), KVM_SET_SIGNAL_MASK, mask) == 0) {
        // Twice: the first entry may only end a HLT.
        for (int i = 0; i < 2; ++i) {
            ::tgkill(::getpid(), ::gettid(), kick_signal());
            [[maybe_unused]] const int ignored = ::ioctl(fd_.get(), KVM_RUN, 0UL);
        }
        kvm_ioctl(fd_.get(), KVM_SET_SIGNAL_MASK, static_cast<void*>(nullptr));
    }
    timespec none{};
    ::sigtimedwait(&kick, nullptr, &none);
    pthread_sigmask(SIG_SETMASK, &old, nullptr);
    ext_int_injected_ = false;
}

Exit KvmVcpu::run() {
    const int self = ::gettid();
    thread_id_.store(self, std::memory_order_relaxed);
    unblock_kick_signal();
    running_on_.store(self, std::memory_order_seq_cst);
    struct Leave {
        std::atomic<int>& running_on;
        ~Leave() { running_on.store(0, std::memory_order_seq_cst); }
    } leave{running_on_};

    const int fd = fd_.get();
    for (;;) {
        inject_external_interrupt();
        const int r = ::ioctl(fd, KVM_RUN, 0UL);
        if (r < 0) {
            const int error = errno;
            if (error == EINTR) {
                count(KVM_EXIT_INTR);
                __atomic_store_n(&run_->immediate_exit, 0, __ATOMIC_SEQ_CST);
                if (nmi_.exchange(false)) kvm_ioctl(fd, KVM_NMI, 0UL);
                if (kicked_.exchange(false)) {
                    if (ext_int_injected_) settle_injection();
                    return Exit::Kicked;
                }
                continue;
            }
            if (error == EAGAIN) continue;  // a SIPI arrived
            if (error == EFAULT) return stop(describe("the guest touched memory that the host cannot give (EFAULT)"));
            return stop(describe(errno_error(error, "KVM_RUN").message()));
        }
        count(run_->exit_reason);
        switch (run_->exit_reason) {
            case KVM_EXIT_IO: handle_pio(); break;
            case KVM_EXIT_MMIO: handle_mmio(); break;
            case KVM_EXIT_IRQ_WINDOW_OPEN:
            case KVM_EXIT_INTR:
            case KVM_EXIT_HLT: break;
            case KVM_EXIT_IOAPIC_EOI:
                if (vm_.wiring().eoi) vm_.wiring().eoi(run_->eoi.vector);
                break;
            case KVM_EXIT_X86_RDMSR: refuse_msr(false); break;
            case KVM_EXIT_X86_WRMSR: refuse_msr(true); break;
            case KVM_EXIT_DIRTY_RING_FULL: {
                std::lock_guard lock(vm_.memory_mutex_);
                vm_.collect_rings();
                break;
            }
            case KVM_EXIT_SHUTDOWN: return Exit::Shutdown;
            case KVM_EXIT_SYSTEM_EVENT:
                return run_->system_event.type == KVM_SYSTEM_EVENT_SHUTDOWN ? Exit::Shutdown : Exit::Reset;
            case KVM_EXIT_DEBUG: return Exit::DebugStop;
            case KVM_EXIT_FAIL_ENTRY:
                return stop(describe(fmt::format("the processor refused to enter the guest (hardware reason {:#x})",
                                                 run_->fail_entry.hardware_entry_failure_reason)));
            case KVM_EXIT_INTERNAL_ERROR: return stop(describe_internal_error());
            default: return stop(describe(fmt::format("unexpected KVM exit {}", run_->exit_reason)));
        }
    }
}

void KvmVcpu::handle_pio() {
    const auto& io = run_->io;
    u8* data = reinterpret_cast<u8*>(run_) + io.data_offset;
    bus::Bus& bus = vm_.wiring().bus;
    // A string instruction comes as several elements.
    for (u32 i = 0; i < io.count; ++i, data += io.size) {
        if (io.direction == KVM_EXIT_IO_OUT) {
            bus.write(bus::Space::Pio, io.port, io.size, load_le(data, io.size));
        } else {
            const u64 value = bus.read(bus::Space::Pio, io.port, io.size);
            std::memcpy(data, &value, io.size);
        }
    }
}

void KvmVcpu::handle_mmio() {
    auto& mmio = run_->mmio;
    bus::Bus& bus = vm_.wiring().bus;
    // KVM splits at page ends, so that any length from 1 to 8 occurs; devices see powers of two.
    for (u32 done = 0; done < mmio.len;) {
        const u32 left = std::min<u32>(mmio.len, 8) - done;
        const u32 size = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        if (mmio.is_write) {
            bus.write(bus::Space::Mmio, mmio.phys_addr + done, size, load_le(mmio.data + done, size));
        } else {
            const u64 value = bus.read(bus::Space::Mmio, mmio.phys_addr + done, size);
            std::memcpy(mmio.data + done, &value, size);
        }
        done += size;
    }
}

void KvmVcpu::refuse_msr(bool write) {
    if (write) LOG_GUEST_ERROR(kLog, "vCPU {} wrote {:#x} to MSR {:#x}, which does not exist: #GP", index_, run_->msr.data, run_->msr.index);
    else LOG_GUEST_ERROR(kLog, "vCPU {} read MSR {:#x}, which does not exist: #GP", index_, run_->msr.index);
    run_->msr.error = 1;
}

Exit KvmVcpu::stop(Error error) {
    last_error_ = std::move(error);
    return Exit::Error;
}

Error KvmVcpu::describe_internal_error() const {
    const auto& internal = run_->internal;
    switch (internal.suberror) {
        case KVM_INTERNAL_ERROR_EMULATION:
            return describe("KVM cannot emulate the instruction at RIP")
                .with_hint("hardware virtualization is missing or limited on this host; use --engine dbt");
        case KVM_INTERNAL_ERROR_SIMUL_EX: return describe("KVM met an exception while delivering another");
        case KVM_INTERNAL_ERROR_DELIVERY_EV: return describe("KVM could not deliver an event");
        case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: return describe("the processor left the guest for a reason unknown to KVM");
        default: return describe(fmt::format("KVM internal error {}", u32{internal.suberror}));
    }
}

Error KvmVcpu::describe(std::string what) const {
    kvm_regs r{};
    kvm_sregs s{};
    if (kvm_ioctl(fd_.get(), KVM_GET_REGS, &r) < 0 || kvm_ioctl(fd_.get(), KVM_GET_SREGS, &s) < 0)
        return Error(ErrorCode::Io, fmt::format("vCPU {}: {}", index_, what));
    std::string code;
    for (u64 i = 0; i < 16; ++i) {
        kvm_translation t{};
        t.linear_address = s.cs.base + r.rip + i;
        u8 byte = 0;
        if (kvm_ioctl(fd_.get(), KVM_TRANSLATE, &t) < 0 || !t.valid ||
            !vm_.wiring().memory.read({t.physical_address}, {&byte, 1}))
            break;
        code += fmt::format(" {:02x}", byte);
    }
    return Error(ErrorCode::Io,
                 fmt::format("vCPU {}: {}\n"
                             "  rip {:x}:{:016x} rflags {:x} cr0 {:x} cr2 {:x} cr3 {:x} cr4 {:x} efer {:x}\n"
                             "  rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}\n"
                             "  rsi {:016x} rdi {:016x} rbp {:016x} rsp {:016x}\n"
                             "  r8  {:016x} r9  {:016x} r10 {:016x} r11 {:016x}\n"
                             "  r12 {:016x} r13 {:016x} r14 {:016x} r15 {:016x}\n"
                             "  code{}",
                             index_, what, u32{s.cs.selector}, u64{r.rip}, u64{r.rflags}, u64{s.cr0}, u64{s.cr2},
                             u64{s.cr3}, u64{s.cr4}, u64{s.efer}, u64{r.rax}, u64{r.rbx}, u64{r.rcx}, u64{r.rdx},
                             u64{r.rsi}, u64{r.rdi}, u64{r.rbp}, u64{r.rsp}, u64{r.r8}, u64{r.r9}, u64{r.r10}, u64{r.r11},
                             u64{r.r12}, u64{r.r13}, u64{r.r14}, u64{r.r15}, code.empty() ? " (not readable)" : code));
}

}  // namespace vezha::engine::kvm
