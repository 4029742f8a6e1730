// SPDX-License-Identifier: Apache-2.0
#include "engine/kvm/host.h"

#include <fcntl.h>

#include <memory>

#include "engine/kvm/kvm_engine.h"

namespace vezha::engine::kvm {

namespace {

struct Needed {
    unsigned cap;
    const char* name;
};
constexpr Needed kNeeded[] = {
    {KVM_CAP_USER_MEMORY, "user memory"},       {KVM_CAP_EXT_CPUID, "CPUID control"},
    {KVM_CAP_MP_STATE, "MP state"},             {KVM_CAP_IRQ_ROUTING, "interrupt routing"},
    {KVM_CAP_IRQFD, "irqfd"},                   {KVM_CAP_IOEVENTFD, "ioeventfd"},
    {KVM_CAP_SIGNAL_MSI, "MSI"},                {KVM_CAP_SPLIT_IRQCHIP, "split irqchip"},
    {KVM_CAP_VCPU_EVENTS, "vCPU events"},       {KVM_CAP_DEBUGREGS, "debug registers"},
    {KVM_CAP_XSAVE, "XSAVE"},                   {KVM_CAP_XCRS, "XCR0"},
    {KVM_CAP_READONLY_MEM, "read-only memory"}, {KVM_CAP_IMMEDIATE_EXIT, "immediate exit"},
    {KVM_CAP_X2APIC_API, "x2APIC"},             {KVM_CAP_ADJUST_CLOCK, "clock adjustment"},
};

Result<x86::CpuidTable> supported_cpuid(int fd) {
    constexpr u32 kEntries = 256;
    const usize bytes = sizeof(kvm_cpuid2) + kEntries * sizeof(kvm_cpuid_entry2);
    auto storage = std::make_unique<u64[]>(bytes / sizeof(u64) + 1);
    auto* list = reinterpret_cast<kvm_cpuid2*>(storage.get());
    list->nent = kEntries;
    KVM_TRY(fd, KVM_GET_SUPPORTED_CPUID, list);
    x86::CpuidTable table;
    for (u32 i = 0; i < list->nent; ++i) {
        const kvm_cpuid_entry2& e = list->entries[i];
        table.set({e.function, e.index, (e.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0, {e.eax, e.ebx, e.ecx, e.edx}});
    }
    return table;
}

}  // namespace

Result<Host> Host::open() {
    const int fd = ::open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        Error error = errno_error(errno, "/dev/kvm");
        if (errno == ENOENT || errno == ENODEV || errno == ENXIO)
            return Failure(std::move(error).with_hint(
                "load the module kvm_intel or kvm_amd and enable virtualization in the host's firmware, or use --engine dbt"));
        if (errno == EACCES || errno == EPERM)
            return Failure(std::move(error).with_hint("add yourself to the group kvm (sudo usermod -aG kvm $USER) and log in again"));
        if (errno == EBUSY)
            return Failure(std::move(error).with_hint("another hypervisor holds the processor's virtualization; stop it first"));
        return Failure(std::move(error));
    }
    UniqueFd owned(fd);
    const int version = kvm_ioctl(fd, KVM_GET_API_VERSION, 0UL);
    if (version != KVM_API_VERSION)
        return Result<Host>(fail(ErrorCode::Unsupported, "/dev/kvm speaks API {}, not {}", version, KVM_API_VERSION))
            .hint("use Linux 5.10 or newer");
    const int run_size = KVM_TRY(fd, KVM_GET_VCPU_MMAP_SIZE, 0UL);
    Host host(std::move(owned), static_cast<usize>(run_size));
    for (const Needed& needed : kNeeded)
        if (host.extension(needed.cap) <= 0)
            return Result<Host>(fail(ErrorCode::Unsupported, "the host's KVM lacks {} (capability {})", needed.name, needed.cap))
                .hint("use Linux 5.10 or newer");
    return host;
}

Result<UniqueFd> Host::create_vm() const {
    const int fd = kvm_ioctl(fd_.get(), KVM_CREATE_VM, 0UL);
    if (fd >= 0) return UniqueFd(fd);
    Error error = errno_error(errno, "cannot create a VM");
    if (errno == EBUSY)
        return Failure(std::move(error).with_hint("another hypervisor holds the processor's virtualization; stop it first"));
    return Failure(std::move(error));
}

Result<Capabilities> Host::capabilities() const {
    Capabilities caps;
    caps.name = "kvm";
    caps.cpuid = TRY(supported_cpuid(fd()));
    if (x86::CpuidLeaf* one = caps.cpuid.find(1)) {
        // KVM offers these by capability rather than in its table.
        one->value.ecx |= 1u << 21;  // x2APIC
        if (extension(KVM_CAP_TSC_DEADLINE_TIMER) > 0) one->value.ecx |= 1u << 24;
    }
    // Our MSI path understands extended destination IDs (KVM_FEATURE_MSI_EXT_DEST_ID): more than 255 vCPUs without an IOMMU.
    if (x86::CpuidLeaf* features = caps.cpuid.find(0x4000'0001)) features->value.eax |= 1u << 15;
    const x86::CpuidRegisters xsave = caps.cpuid.query(0xd, 0);
    caps.xcr0 = (u64{xsave.edx} << 32 | xsave.eax) | 3;
    const u32 address_sizes = caps.cpuid.query(0x8000'0008, 0).eax;
    if (address_sizes & 0xff) caps.physical_address_bits = static_cast<u8>(address_sizes & 0xff);
    const int max = extension(KVM_CAP_MAX_VCPUS);
    caps.max_vcpus = static_cast<u32>(max > 0 ? max : std::max(extension(KVM_CAP_NR_VCPUS), 4));
    caps.dirty_ring = extension(KVM_CAP_DIRTY_LOG_RING) > 0;
    caps.msr_filter = extension(KVM_CAP_X86_USER_SPACE_MSR) > 0 && extension(KVM_CAP_X86_MSR_FILTER) > 0;
    caps.smm = extension(KVM_CAP_X86_SMM) > 0;
    caps.in_kernel_doorbells = true;

    // The TSC rate is a vCPU's property.
    const UniqueFd vm = TRY(create_vm());
    const UniqueFd vcpu(KVM_TRY(vm.get(), KVM_CREATE_VCPU, 0UL));
    const int khz = kvm_ioctl(vcpu.get(), KVM_GET_TSC_KHZ, 0UL);
    caps.tsc_hz = khz > 0 ? static_cast<u64>(khz) * 1000 : 0;
    return caps;
}

Result<Capabilities> probe() {
    const Host host = TRY(Host::open());
    return host.capabilities();
}

}  // namespace vezha::engine::kvm
