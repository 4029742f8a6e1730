// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/vm.h"

#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <new>

#include "base/check.h"
#include "base/log.h"
#include "engine/dbt/dbt_engine.h"
#include "engine/dbt/vcpu.h"

namespace vezha::engine::dbt {

Capabilities probe() {
    Capabilities c;
    c.name = "dbt";
    c.cpuid = supported_cpuid();
    c.xcr0 = supported_xcr0();
    c.tsc_hz = host_tsc_hz();
    c.max_vcpus = 255;
    c.physical_address_bits = 40;
    return c;
}

Result<std::unique_ptr<Vm>> create(const VmWiring& wiring) { return VmImpl::create(wiring); }

Result<std::unique_ptr<Vm>> VmImpl::create(const VmWiring& wiring) {
    if (!__builtin_cpu_supports("bmi2") || !__builtin_cpu_supports("avx"))
        return fail(ErrorCode::Unsupported, "the software engine needs a processor with AVX and BMI2 (x86-64-v3)");
    auto vm = std::unique_ptr<VmImpl>(new VmImpl(wiring, probe()));
    u64 top = 0;
    for (const auto& region : wiring.memory.regions()) top = std::max(top, region->end().value);
    vm->cache_ = TRY(CodeCache::create(top));
    vm->thunks_ = Thunks::emit(*vm->cache_);
    vm->apics_ = new_apic_fabric(wiring);
    wiring.memory.set_write_observer([](void* cache, u64 gpa, u64 size) { static_cast<CodeCache*>(cache)->invalidate(gpa, size); },
                                     vm->cache_.get());
    return std::unique_ptr<Vm>(std::move(vm));
}

VmImpl::~VmImpl() {
    std::string counters;
    for (const auto& [name, value] : statistics()) counters += fmt::format(" {} {}", name, value);
    log_info("dbt", "counters:{}", counters);
    wiring_.memory.set_write_observer(nullptr, nullptr);
    apics_.reset();  // no alarm comes any more
    for (GuestRun* run : runs_) {
        run->~GuestRun();
        ::munmap(run, sizeof(GuestRun));
    }
}

GuestRun* VmImpl::new_run() {
    // Mostly tables that stay untouched.
    void* at = ::mmap(nullptr, sizeof(GuestRun), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(at != MAP_FAILED);
    runs_.push_back(new (at) GuestRun);
    return runs_.back();
}

Result<std::unique_ptr<Vcpu>> VmImpl::new_vcpu(u32 index, const x86::CpuModel& model) {
    auto vcpu = VcpuImpl::create(*this, index, model);
    const std::lock_guard lock(exclusive_);
    vcpus_.push_back(vcpu.get());
    return std::unique_ptr<Vcpu>(std::move(vcpu));
}

void VmImpl::forget(VcpuImpl* vcpu) {
    const std::lock_guard lock(exclusive_);
    std::erase(vcpus_, vcpu);
}

void VmImpl::begin_exclusive(VcpuImpl* self) {
    exclusive_.lock();
    exclusive_holder_ = self;
    for (VcpuImpl* vcpu : vcpus_)
        if (vcpu != self) vcpu->demand(attention::kExclusive);
    for (VcpuImpl* vcpu : vcpus_)
        while (vcpu != self && vcpu->running()) ::sched_yield();
}

void VmImpl::end_exclusive() {
    for (VcpuImpl* vcpu : vcpus_)
        if (vcpu != exclusive_holder_) vcpu->run_state().ctx.attention.fetch_and(~attention::kExclusive);
    exclusive_holder_ = nullptr;
    exclusive_.unlock();
}

void VmImpl::wait_exclusive() { const std::lock_guard lock(exclusive_); }

Result<> VmImpl::set_dirty_logging(bool) {
    // Pages already writable would escape the log.
    return collect_dirty();
}

Result<> VmImpl::collect_dirty() {
    begin_exclusive(nullptr);
    for (VcpuImpl* vcpu : vcpus_) drop_write_entries(vcpu->run_state(), nullptr);
    end_exclusive();
    return {};
}

std::vector<std::pair<std::string, u64>> VmImpl::statistics() const {
    std::vector<std::pair<std::string, u64>> out{{"translated_blocks", cache_->blocks()},
                                                 {"translated_bytes", cache_->bytes()},
                                                 {"invalidated_blocks", cache_->invalidations()},
                                                 {"cache_flushes", cache_->flushes()}};
    u64 entries = 0, lookups = 0, fills = 0, bounces = 0, system = 0, flushes = 0, strings = 0, parks = 0;
    for (const GuestRun* run : runs_) {
        const GuestRun& r = *run;
        entries += r.count_entries, lookups += r.count_lookups, fills += r.count_tlb_fills, bounces += r.count_bounces;
        system += r.count_system, flushes += r.count_flushes, strings += r.count_string, parks += r.count_parks;
    }
    out.insert(out.end(), {{"entries", entries}, {"lookups", lookups}, {"tlb_fills", fills}, {"slow_accesses", bounces},
                           {"system_instructions", system}, {"tlb_flushes", flushes}, {"string_instructions", strings},
                           {"vector_state_saves", parks}});
    return out;
}

}  // namespace vezha::engine::dbt
