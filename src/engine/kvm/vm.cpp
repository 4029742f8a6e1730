// SPDX-License-Identifier: Apache-2.0
#include "engine/kvm/vm.h"

#include <x86intrin.h>

#include <algorithm>

#include "base/log.h"
#include "engine/kvm/vcpu.h"

namespace vezha::engine::kvm {

namespace {
constexpr const char* kLog = "kvm";

/// KVM wants destination bits 8-31 in the high address half. A guest without interrupt remapping passes bits 8-14 in
/// address bits 5-11 (KVM_FEATURE_MSI_EXT_DEST_ID).
std::pair<u32, u32> kvm_msi_address(u64 address) {
    u32 low = static_cast<u32>(address), high = static_cast<u32>(address >> 32);
    const u32 extended = low >> 5 & 0x7f;
    if (extended && !high) {
        low &= ~0xfe0u;
        high = extended << 8;
    }
    return {low, high};
}

constexpr const char* kExitNames[] = {
    "unknown", "exception", "pio", "hypercall", "debug", "hlt", "mmio", "interrupt_window", "shutdown", "fail_entry",
    "signal", "set_tpr", "tpr_access", "s390_sieic", "s390_reset", "dcr", "nmi", "internal_error", "osi", "papr",
    "s390_ucontrol", "watchdog", "s390_tsch", "epr", "system_event", "s390_stsi", "ioapic_eoi", "hyperv", "arm_nisv",
    "rdmsr", "wrmsr", "dirty_ring_full", "reset_hold", "bus_lock", "xen", "riscv_sbi", "riscv_csr", "notify"};
}  // namespace

Result<std::unique_ptr<KvmVm>> KvmVm::create(Host host, const VmWiring& wiring, const Options& options) {
    Capabilities capabilities = TRY(host.capabilities());
    UniqueFd fd = TRY(host.create_vm());
    std::unique_ptr<KvmVm> vm(new KvmVm(std::move(host), std::move(fd), wiring, std::move(capabilities)));
    TRY(vm->initialize(options).context("cannot set up the VM"));
    return vm;
}

Result<> KvmVm::initialize(const Options& options) {
    const u64 identity = kReservedBase;
    KVM_TRY(fd(), KVM_SET_IDENTITY_MAP_ADDR, &identity);
    KVM_TRY(fd(), KVM_SET_TSS_ADDR, static_cast<unsigned long>(kReservedBase + kPageSize));
    auto enable = [this](u32 cap, u64 argument) {
        kvm_enable_cap request{};
        request.cap = cap;
        request.args[0] = argument;
        return kvm_ioctl(fd(), KVM_ENABLE_CAP, &request);
    };
    if (enable(KVM_CAP_SPLIT_IRQCHIP, kIoapicPins) < 0) return fail_errno(errno, "KVM_CAP_SPLIT_IRQCHIP");
    if (enable(KVM_CAP_X2APIC_API, KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK) < 0)
        return fail_errno(errno, "KVM_CAP_X2APIC_API");
    if (capabilities_.msr_filter) TRY(install_msr_filter());

    const bool want_ring = options.dirty_tracking == DirtyTracking::Ring ||
                           (options.dirty_tracking == DirtyTracking::Automatic && wiring_.memory.ram_size() > kRingThreshold);
    if (want_ring && capabilities_.dirty_ring) {
        const u64 most = static_cast<u64>(host_.extension(KVM_CAP_DIRTY_LOG_RING)) / sizeof(kvm_dirty_gfn);
        const u32 entries = static_cast<u32>(std::min<u64>(kRingEntries, most));
        if (enable(KVM_CAP_DIRTY_LOG_RING, entries * sizeof(kvm_dirty_gfn)) == 0) ring_entries_ = entries;
        else log_warning(kLog, "no dirty ring ({}); using the bitmap", errno);
    }
    if (want_ring && ring_entries_ == 0 && options.dirty_tracking == DirtyTracking::Ring)
        return fail(ErrorCode::Unsupported, "the host's KVM has no dirty ring");
    // Without the initially-set variant: a first collection that reports everything would be no log at all.
    if (ring_entries_ == 0 && host_.extension(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) > 0)
        manual_clear_ = enable(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE) == 0;

    TRY(sync_memory_slots());
    gsi_used_.assign(kIoapicPins, true);
    wiring_.bus.set_doorbell_listener(this);
    return {};
}

KvmVm::~KvmVm() { wiring_.bus.set_doorbell_listener(nullptr); }

Result<> KvmVm::install_msr_filter() {
    // Accesses that KVM does not know come to us, for the log; we answer #GP as the architecture says.
    kvm_enable_cap request{};
    request.cap = KVM_CAP_X86_USER_SPACE_MSR;
    request.args[0] = KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER;
    KVM_TRY(fd(), KVM_ENABLE_CAP, &request);
    // Nested virtualization has state that CpuState does not carry: its MSRs do not exist for our guests.
    static u8 none[8] = {};
    kvm_msr_filter filter{};
    filter.flags = KVM_MSR_FILTER_DEFAULT_ALLOW;
    filter.ranges[0] = {KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE, 20, 0x480, none};        // VMX capabilities
    filter.ranges[1] = {KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE, 1, 0xc001'0117, none};  // SVM host save area
    KVM_TRY(fd(), KVM_X86_SET_MSR_FILTER, &filter);
    return {};
}

// --- memory ---

Result<> KvmVm::set_slot(u32 slot, memory::Region& region, bool log) {
    kvm_userspace_memory_region r{};
    r.slot = slot;
    r.flags = (region.read_only() ? KVM_MEM_READONLY : 0u) | (log ? KVM_MEM_LOG_DIRTY_PAGES : 0u);
    r.guest_phys_addr = region.base().value;
    r.memory_size = region.size();
    r.userspace_addr = reinterpret_cast<u64>(region.host());
    if (kvm_ioctl(fd(), KVM_SET_USER_MEMORY_REGION, &r) < 0)
        return fail_errno(errno, "memory '{}' at {:#x} ({:#x} bytes)", region.name(), region.base().value, region.size());
    return {};
}

Result<> KvmVm::sync_memory_slots() {
    std::lock_guard lock(memory_mutex_);
    for (const auto& region : wiring_.memory.regions()) {
        if (std::find(slots_.begin(), slots_.end(), region.get()) != slots_.end()) continue;
        if (region->base().value < kReservedBase + kReservedSize && kReservedBase < region->end().value)
            return fail(ErrorCode::InvalidArgument, "memory '{}' covers {:#x}, which KVM needs", region->name(), kReservedBase);
        TRY(set_slot(static_cast<u32>(slots_.size()), *region, logging_ && !region->read_only()));
        slots_.push_back(region.get());
    }
    return {};
}

Result<> KvmVm::set_dirty_logging(bool on) {
    std::lock_guard lock(memory_mutex_);
    if (on == logging_) return {};
    for (u32 slot = 0; slot < slots_.size(); ++slot)
        if (!slots_[slot]->read_only()) TRY(set_slot(slot, *slots_[slot], on));
    logging_ = on;
    return {};
}

Result<> KvmVm::collect_dirty() {
    std::lock_guard lock(memory_mutex_);
    if (!logging_) return {};
    if (ring_entries_ == 0) return collect_bitmap();
    collect_rings();
    return {};
}

Result<> KvmVm::collect_bitmap() {
    std::vector<u64> bits;
    for (u32 slot = 0; slot < slots_.size(); ++slot) {
        memory::Region& region = *slots_[slot];
        if (region.read_only()) continue;
        const u64 pages = region.size() / kPageSize;
        bits.assign(static_cast<usize>((pages + 63) / 64), 0);
        kvm_dirty_log get{};
        get.slot = slot;
        get.dirty_bitmap = bits.data();
        KVM_TRY(fd(), KVM_GET_DIRTY_LOG, &get);
        if (std::all_of(bits.begin(), bits.end(), [](u64 word) { return word == 0; })) continue;
        if (manual_clear_) {
            // Write-protect again before the pages are read by whoever takes the bitmap.
            kvm_clear_dirty_log clear{};
            clear.slot = slot;
            clear.num_pages = static_cast<u32>(pages);
            clear.dirty_bitmap = bits.data();
            KVM_TRY(fd(), KVM_CLEAR_DIRTY_LOG, &clear);
        }
        region.dirty().merge(bits.data(), bits.size());
    }
    return {};
}

void KvmVm::collect_rings() {
    bool any = false;
    std::lock_guard lock(vcpus_mutex_);
    for (KvmVcpu* vcpu : vcpus_)
        any |= vcpu->harvest_ring([this](u32 slot, u64 page) {
            if (slot < slots_.size()) slots_[slot]->dirty().mark(page * kPageSize, kPageSize);
        });
    if (any) kvm_ioctl(fd(), KVM_RESET_DIRTY_RINGS, 0UL);
}

// --- vCPUs ---

Result<std::unique_ptr<Vcpu>> KvmVm::new_vcpu(u32 index, const x86::CpuModel& model) {
    TRY(sync_memory_slots());
    std::unique_ptr<KvmVcpu> vcpu = TRY(KvmVcpu::create(*this, index, model).context(fmt::format("vCPU {}", index)));
    std::lock_guard lock(vcpus_mutex_);
    vcpus_.push_back(vcpu.get());
    if (index == 0) pic_target_.store(vcpu.get(), std::memory_order_release);
    return vcpu;
}

void KvmVm::remove_vcpu(KvmVcpu* vcpu) {
    std::lock_guard lock(vcpus_mutex_);
    std::erase(vcpus_, vcpu);
    KvmVcpu* gone = vcpu;
    pic_target_.compare_exchange_strong(gone, nullptr);
}

void KvmVm::ext_int_changed() {
    if (KvmVcpu* vcpu = pic_target_.load(std::memory_order_acquire)) vcpu->ext_int_changed();
}

std::vector<std::pair<std::string, u64>> KvmVm::statistics() const {
    std::vector<std::pair<std::string, u64>> out;
    std::lock_guard lock(vcpus_mutex_);
    u64 all = 0;
    for (usize reason = 0; reason < KvmVcpu::kExitReasons; ++reason) {
        u64 sum = 0;
        for (const KvmVcpu* vcpu : vcpus_) sum += vcpu->exit_count(reason);
        if (sum == 0) continue;
        all += sum;
        out.emplace_back(reason < std::size(kExitNames) ? fmt::format("exits.{}", kExitNames[reason])
                                                        : fmt::format("exits.reason_{}", reason),
                         sum);
    }
    out.emplace_back("exits", all);
    return out;
}

// --- interrupts ---

void KvmVm::send(const bus::MsiMessage& message) {
    kvm_msi msi{};
    std::tie(msi.address_lo, msi.address_hi) = kvm_msi_address(message.address);
    msi.data = message.data;
    // 0: no local APIC took it, as happens on hardware.
    if (kvm_ioctl(fd(), KVM_SIGNAL_MSI, &msi) < 0)
        LOG_GUEST_ERROR(kLog, "MSI {:#x} = {:#x} has no valid destination", message.address, message.data);
}

/// A message in KVM's routing table with an irqfd on it, once somebody wants the descriptor.
class KvmVm::Route final : public bus::MsiRoute {
  public:
    Route(KvmVm& vm, u32 gsi, EventFd event) : vm_(vm), gsi_(gsi), event_(std::move(event)) {}
    ~Route() override {
        std::lock_guard lock(vm_.routes_mutex_);
        if (attached_) attach(KVM_IRQFD_FLAG_DEASSIGN);
        if (vm_.routes_.erase(gsi_) > 0) vm_.commit_routes_locked();
        vm_.gsi_used_[gsi_] = false;
    }
    void set(const bus::MsiMessage& message) override {
        std::lock_guard lock(vm_.routes_mutex_);
        if (valid_ && message_ == message) return;
        message_ = message;
        valid_ = true;
        if (!attached_) return;
        vm_.routes_[gsi_] = message;
        vm_.commit_routes_locked();
    }
    void trigger() override {
        bus::MsiMessage message;
        {
            std::lock_guard lock(vm_.routes_mutex_);
            if (!valid_) return;
            message = message_;
        }
        vm_.send(message);
    }
    int event_fd() override {
        std::lock_guard lock(vm_.routes_mutex_);
        if (!attached_) {
            if (valid_) {
                vm_.routes_[gsi_] = message_;
                vm_.commit_routes_locked();
            }
            attached_ = attach(0);
        }
        return attached_ ? event_.fd() : -1;
    }

  private:
    bool attach(u32 flags) {
        kvm_irqfd request{};
        request.fd = static_cast<u32>(event_.fd());
        request.gsi = gsi_;
        request.flags = flags;
        return kvm_ioctl(vm_.fd(), KVM_IRQFD, &request) == 0;
    }
    KvmVm& vm_;
    const u32 gsi_;
    EventFd event_;
    bus::MsiMessage message_;
    bool valid_ = false, attached_ = false;
};

Result<std::unique_ptr<bus::MsiRoute>> KvmVm::new_route() {
    EventFd event = TRY(EventFd::create());
    std::lock_guard lock(routes_mutex_);
    const u32 most = static_cast<u32>(host_.extension(KVM_CAP_IRQ_ROUTING));
    auto free_gsi = std::find(gsi_used_.begin(), gsi_used_.end(), false);
    const u32 gsi = static_cast<u32>(free_gsi - gsi_used_.begin());
    if (gsi >= most) return fail(ErrorCode::NoSpace, "all {} interrupt routes of the host's KVM are in use", most);
    if (free_gsi == gsi_used_.end()) gsi_used_.push_back(true);
    else *free_gsi = true;
    return std::make_unique<Route>(*this, gsi, std::move(event));
}

void KvmVm::set_ioapic_route(u32 pin, const bus::MsiMessage& message, bool level, bool masked) {
    // A masked pin keeps its route: the EOI of what is being serviced must still be reported.
    if (pin >= kIoapicPins || masked) return;
    std::lock_guard lock(routes_mutex_);
    auto found = routes_.find(pin);
    if (!level) {
        if (found == routes_.end()) return;
        routes_.erase(found);
    } else {
        bus::MsiMessage tagged = message;
        tagged.data |= 1u << 15;  // trigger mode: level; KVM watches these vectors
        if (found != routes_.end() && found->second == tagged) return;
        routes_[pin] = tagged;
    }
    commit_routes_locked();
}

void KvmVm::commit_routes_locked() {
    const usize bytes = sizeof(kvm_irq_routing) + routes_.size() * sizeof(kvm_irq_routing_entry);
    std::vector<u64> storage(bytes / sizeof(u64) + 1);
    auto* table = reinterpret_cast<kvm_irq_routing*>(storage.data());
    table->nr = static_cast<u32>(routes_.size());
    kvm_irq_routing_entry* entry = table->entries;
    for (const auto& [gsi, message] : routes_) {
        *entry = {};
        entry->gsi = gsi;
        entry->type = KVM_IRQ_ROUTING_MSI;
        std::tie(entry->u.msi.address_lo, entry->u.msi.address_hi) = kvm_msi_address(message.address);
        entry->u.msi.data = message.data;
        ++entry;
    }
    if (kvm_ioctl(fd(), KVM_SET_GSI_ROUTING, table) < 0)
        LOG_GUEST_ERROR(kLog, "the kernel refused the interrupt routes (errno {})", errno);
}

void KvmVm::change_doorbell(const bus::Doorbell& doorbell, u32 flags) {
    kvm_ioeventfd request{};
    request.addr = doorbell.address;
    request.len = doorbell.size;
    request.fd = doorbell.event_fd;
    request.datamatch = doorbell.match.value_or(0);
    request.flags = flags | (doorbell.space == bus::Space::Pio ? KVM_IOEVENTFD_FLAG_PIO : 0u) |
                    (doorbell.match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0u);
    // If the kernel cannot (size "any" with a match, too many), the write exits and the bus rings the bell.
    if (kvm_ioctl(fd(), KVM_IOEVENTFD, &request) < 0 && flags == 0)
        log_debug(kLog, "no ioeventfd at {:#x} (errno {})", doorbell.address, errno);
}

// --- clocks ---

Result<u64> KvmVm::clock_ns() const {
    if (paused_at_tsc_ && paused_clock_ns_) return paused_clock_ns_;
    kvm_clock_data clock{};
    KVM_TRY(fd(), KVM_GET_CLOCK, &clock);
    return clock.clock;
}

void KvmVm::paused() {
    if (paused_at_tsc_) return;
    kvm_clock_data clock{};
    if (kvm_ioctl(fd(), KVM_GET_CLOCK, &clock) == 0) paused_clock_ns_ = clock.clock;
    paused_at_tsc_ = __rdtsc();
    std::lock_guard lock(vcpus_mutex_);
    for (KvmVcpu* vcpu : vcpus_) vcpu->announce_pause();
}

void KvmVm::resumed() {
    if (paused_clock_ns_) {
        kvm_clock_data clock{};
        clock.clock = paused_clock_ns_;
        if (kvm_ioctl(fd(), KVM_SET_CLOCK, &clock) < 0) log_warning(kLog, "cannot set the guest's clock (errno {})", errno);
        paused_clock_ns_ = 0;
    }
    if (!paused_at_tsc_) return;
    const u64 ticks = __rdtsc() - paused_at_tsc_;
    paused_at_tsc_ = 0;
    std::lock_guard lock(vcpus_mutex_);
    // The same distance on every vCPU: they stay synchronised.
    for (KvmVcpu* vcpu : vcpus_) vcpu->rewind_tsc(ticks);
}

// --- entry points ---

Result<std::unique_ptr<Vm>> create(const VmWiring& wiring, const Options& options) {
    Host host = TRY(Host::open());
    return TRY(KvmVm::create(std::move(host), wiring, options));
}
Result<std::unique_ptr<Vm>> create(const VmWiring& wiring) { return create(wiring, Options{}); }

}  // namespace vezha::engine::kvm
