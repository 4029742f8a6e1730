// SPDX-License-Identifier: Apache-2.0
#include <x86intrin.h>

#include <cstring>

#include "arch/x86/registers.h"
#include "base/log.h"
#include "engine/kvm/vcpu.h"
#include "engine/kvm/vm.h"

/// Between KVM's structures and x86::CpuState.
namespace vezha::engine::kvm {

namespace {

constexpr const char* kLog = "kvm";

x86::Segment from_kvm(const kvm_segment& k) {
    x86::Segment s;
    s.selector = k.selector;
    s.base = k.base;
    s.limit = k.limit;
    s.attributes = static_cast<u16>((k.type & 15) | (k.s & 1) << 4 | (k.dpl & 3) << 5 | ((k.present & !k.unusable) & 1) << 7 |
                                    (k.avl & 1) << 12 | (k.l & 1) << 13 | (k.db & 1) << 14 | (k.g & 1) << 15);
    return s;
}

kvm_segment to_kvm(const x86::Segment& s) {
    kvm_segment k{};
    k.selector = s.selector;
    k.base = s.base;
    k.limit = s.limit;
    k.type = s.attributes & 15;
    k.s = s.attributes >> 4 & 1;
    k.dpl = s.attributes >> 5 & 3;
    k.present = s.attributes >> 7 & 1;
    k.avl = s.attributes >> 12 & 1;
    k.l = s.attributes >> 13 & 1;
    k.db = s.attributes >> 14 & 1;
    k.g = s.attributes >> 15 & 1;
    k.unusable = !k.present;
    return k;
}

struct SegmentField {
    x86::SegmentIndex index;
    kvm_segment kvm_sregs::* field;
};
constexpr SegmentField kSegmentFields[] = {{x86::kEs, &kvm_sregs::es}, {x86::kCs, &kvm_sregs::cs}, {x86::kSs, &kvm_sregs::ss},
                                           {x86::kDs, &kvm_sregs::ds}, {x86::kFs, &kvm_sregs::fs}, {x86::kGs, &kvm_sregs::gs}};

constexpr __u64 kvm_regs::* kGprFields[16] = {
    &kvm_regs::rax, &kvm_regs::rcx, &kvm_regs::rdx, &kvm_regs::rbx, &kvm_regs::rsp, &kvm_regs::rbp, &kvm_regs::rsi, &kvm_regs::rdi,
    &kvm_regs::r8,  &kvm_regs::r9,  &kvm_regs::r10, &kvm_regs::r11, &kvm_regs::r12, &kvm_regs::r13, &kvm_regs::r14, &kvm_regs::r15};

struct MpPair {
    x86::MpState ours;
    u32 kvm;
};
constexpr MpPair kMpStates[] = {{x86::MpState::Runnable, KVM_MP_STATE_RUNNABLE},
                                {x86::MpState::Uninitialized, KVM_MP_STATE_UNINITIALIZED},
                                {x86::MpState::InitReceived, KVM_MP_STATE_INIT_RECEIVED},
                                {x86::MpState::Halted, KVM_MP_STATE_HALTED},
                                // KVM waits for the SIPI in the state after INIT.
                                {x86::MpState::WaitForSipi, KVM_MP_STATE_INIT_RECEIVED}};

/// A list of MSRs in KVM's layout.
class MsrList {
  public:
    explicit MsrList(usize capacity) : storage_((sizeof(kvm_msrs) + capacity * sizeof(kvm_msr_entry)) / sizeof(u64) + 1) {}
    kvm_msrs* get() { return reinterpret_cast<kvm_msrs*>(storage_.data()); }
    void add(u32 index, u64 value) {
        kvm_msr_entry& e = get()->entries[get()->nmsrs++];
        e = {};
        e.index = index;
        e.data = value;
    }

  private:
    std::vector<u64> storage_;
};

}  // namespace

Result<u64> KvmVcpu::get_msr(u32 index) const {
    MsrList list(1);
    list.add(index, 0);
    if (kvm_ioctl(fd_.get(), KVM_GET_MSRS, list.get()) != 1) return fail(ErrorCode::Unsupported, "MSR {:#x}", index);
    return list.get()->entries[0].data;
}

Result<> KvmVcpu::put_msr(u32 index, u64 value) const {
    MsrList list(1);
    list.add(index, value);
    if (kvm_ioctl(fd_.get(), KVM_SET_MSRS, list.get()) != 1)
        return fail(ErrorCode::Unsupported, "MSR {:#x} cannot take {:#x}", index, value);
    return {};
}

Result<> KvmVcpu::find_savable_msrs(const x86::CpuModel& model) {
    msrs_.clear();
    for (u32 index : model.msrs)
        if (get_msr(index)) msrs_.push_back(index);
        else log_debug(kLog, "MSR {:#x} of model {} does not exist here", index, model.name);
    return {};
}

Result<> KvmVcpu::get_msrs(x86::CpuState& state) const {
    MsrList list(msrs_.size());
    for (u32 index : msrs_) list.add(index, 0);
    const int got = KVM_TRY(fd_.get(), KVM_GET_MSRS, list.get());
    if (static_cast<usize>(got) != msrs_.size()) return fail(ErrorCode::Io, "MSR {:#x} cannot be read", msrs_[static_cast<usize>(got)]);
    for (u32 i = 0; i < list.get()->nmsrs; ++i) state.set_msr(list.get()->entries[i].index, list.get()->entries[i].data);
    return {};
}

Result<> KvmVcpu::put_msrs(const x86::CpuState& state) const {
    MsrList list(state.msrs.size());
    for (const x86::MsrValue& m : state.msrs) list.add(m.index, m.value);
    const int put = KVM_TRY(fd_.get(), KVM_SET_MSRS, list.get());
    for (usize i = static_cast<usize>(put); i < state.msrs.size(); ++i) {
        const x86::MsrValue& m = state.msrs[i];
        // KVM stops at the first that it refuses; the rest goes one by one. What this host lacks must have been unused.
        if (auto r = put_msr(m.index, m.value); !r && m.value != 0) {
            auto now = get_msr(m.index);
            if (!now || *now != m.value) return r;
        }
    }
    return {};
}

Result<u64> KvmVcpu::tsc_offset() const {
    u64 offset = 0;
    kvm_device_attr attribute{};
    attribute.group = KVM_VCPU_TSC_CTRL;
    attribute.attr = KVM_VCPU_TSC_OFFSET;
    attribute.addr = reinterpret_cast<u64>(&offset);
    KVM_TRY(fd_.get(), KVM_GET_DEVICE_ATTR, &attribute);
    return offset;
}

Result<> KvmVcpu::set_tsc_offset(u64 offset) const {
    kvm_device_attr attribute{};
    attribute.group = KVM_VCPU_TSC_CTRL;
    attribute.attr = KVM_VCPU_TSC_OFFSET;
    attribute.addr = reinterpret_cast<u64>(&offset);
    KVM_TRY(fd_.get(), KVM_SET_DEVICE_ATTR, &attribute);
    return {};
}

void KvmVcpu::rewind_tsc(u64 ticks) {
    auto offset = tsc_offset();
    const u64 deadline = get_msr(x86::msr::kTscDeadline).value_or(0);
    if (!offset || !set_tsc_offset(*offset - ticks)) {
        log_debug(kLog, "vCPU {}: this host cannot move the TSC back; it jumps over the pause", index_);
        return;
    }
    // The alarm was armed in host time.
    if (deadline && !put_msr(x86::msr::kTscDeadline, deadline)) log_debug(kLog, "vCPU {}: TSC deadline not re-armed", index_);
}

void KvmVcpu::announce_pause() {
    kvm_ioctl(fd_.get(), KVM_KVMCLOCK_CTRL, 0UL);  // fails harmlessly for a guest without kvmclock
}

Result<x86::CpuState> KvmVcpu::save() {
    const int fd = fd_.get();
    x86::CpuState state;
    kvm_mp_state mp{};  // first: it makes KVM accept events that are on their way (INIT, SIPI)
    KVM_TRY(fd, KVM_GET_MP_STATE, &mp);
    state.mp_state = x86::MpState::Runnable;
    for (const MpPair& pair : kMpStates)
        if (pair.kvm == mp.mp_state) {
            state.mp_state = pair.ours;
            break;
        }
    if (mp.mp_state == KVM_MP_STATE_SIPI_RECEIVED) state.mp_state = x86::MpState::InitReceived;

    kvm_regs regs{};
    KVM_TRY(fd, KVM_GET_REGS, &regs);
    for (usize i = 0; i < 16; ++i) state.gpr[i] = regs.*kGprFields[i];
    state.rip = regs.rip;
    state.rflags = regs.rflags;

    kvm_sregs sregs{};
    KVM_TRY(fd, KVM_GET_SREGS, &sregs);
    for (const SegmentField& f : kSegmentFields) state.segment[f.index] = from_kvm(sregs.*f.field);
    state.tr = from_kvm(sregs.tr);
    state.ldtr = from_kvm(sregs.ldt);
    state.gdtr = {sregs.gdt.base, sregs.gdt.limit};
    state.idtr = {sregs.idt.base, sregs.idt.limit};
    state.cr0 = sregs.cr0;
    state.cr2 = sregs.cr2;
    state.cr3 = sregs.cr3;
    state.cr4 = sregs.cr4;
    state.cr8 = sregs.cr8;
    state.efer = sregs.efer;
    state.apic_base = sregs.apic_base;

    kvm_debugregs debug{};
    KVM_TRY(fd, KVM_GET_DEBUGREGS, &debug);
    for (usize i = 0; i < 4; ++i) state.dr[i] = debug.db[i];
    state.dr6 = debug.dr6;
    state.dr7 = debug.dr7;

    KVM_TRY(fd, KVM_GET_XSAVE, state.xsave.bytes.data());
    kvm_xcrs xcrs{};
    if (kvm_ioctl(fd, KVM_GET_XCRS, &xcrs) == 0)
        for (u32 i = 0; i < xcrs.nr_xcrs && i < KVM_MAX_XCRS; ++i)
            if (xcrs.xcrs[i].xcr == 0) state.xcr0 = xcrs.xcrs[i].value;

    static_assert(sizeof(kvm_lapic_state) == sizeof(x86::LapicState));
    KVM_TRY(fd, KVM_GET_LAPIC, reinterpret_cast<kvm_lapic_state*>(state.lapic.registers.data()));

    kvm_vcpu_events events{};
    KVM_TRY(fd, KVM_GET_VCPU_EVENTS, &events);
    x86::PendingEvents& e = state.events;
    e.exception_pending = events.exception.injected || events.exception.pending;
    e.exception_vector = events.exception.nr;
    e.exception_has_error_code = events.exception.has_error_code;
    e.exception_error_code = events.exception.error_code;
    e.interrupt_injected = events.interrupt.injected && !events.interrupt.soft;
    e.interrupt_vector = events.interrupt.nr;
    e.nmi_pending = events.nmi.pending || events.nmi.injected || nmi_.load();
    e.nmi_masked = events.nmi.masked && !events.nmi.injected;
    e.sti_shadow = events.interrupt.shadow & KVM_X86_SHADOW_INT_STI;
    e.mov_ss_shadow = events.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS;
    if (events.flags & KVM_VCPUEVENT_VALID_SMM) {
        e.in_smm = events.smi.smm;
        e.smi_pending = events.smi.pending;
    }

    TRY(get_msrs(state));
    state.tsc_deadline = get_msr(x86::msr::kTscDeadline).value_or(0);
    // While paused the guest's TSC stands still, though KVM's goes on.
    auto offset = vm_.paused_at_tsc() ? tsc_offset() : Result<u64>(fail(ErrorCode::Unsupported, "running"));
    state.tsc = offset ? vm_.paused_at_tsc() + *offset : TRY(get_msr(x86::msr::kTsc));
    state.kvm_clock_ns = TRY(vm_.clock_ns());
    return state;
}

Result<> KvmVcpu::load(const x86::CpuState& state) {
    const int fd = fd_.get();
    kvm_sregs sregs{};
    KVM_TRY(fd, KVM_GET_SREGS, &sregs);
    for (const SegmentField& f : kSegmentFields) sregs.*f.field = to_kvm(state.segment[f.index]);
    sregs.tr = to_kvm(state.tr);
    sregs.ldt = to_kvm(state.ldtr);
    sregs.gdt.base = state.gdtr.base;
    sregs.gdt.limit = state.gdtr.limit;
    sregs.idt.base = state.idtr.base;
    sregs.idt.limit = state.idtr.limit;
    sregs.cr0 = state.cr0;
    sregs.cr2 = state.cr2;
    sregs.cr3 = state.cr3;
    sregs.cr4 = state.cr4;
    sregs.cr8 = state.cr8;
    sregs.efer = state.efer;
    sregs.apic_base = state.apic_base;
    std::memset(sregs.interrupt_bitmap, 0, sizeof sregs.interrupt_bitmap);  // by vcpu_events below
    KVM_TRY(fd, KVM_SET_SREGS, &sregs);

    kvm_regs regs{};
    for (usize i = 0; i < 16; ++i) regs.*kGprFields[i] = state.gpr[i];
    regs.rip = state.rip;
    regs.rflags = state.rflags;
    KVM_TRY(fd, KVM_SET_REGS, &regs);

    KVM_TRY(fd, KVM_SET_XSAVE, const_cast<u8*>(state.xsave.bytes.data()));
    kvm_xcrs xcrs{};
    xcrs.nr_xcrs = 1;
    xcrs.xcrs[0].value = state.xcr0;
    if (kvm_ioctl(fd, KVM_SET_XCRS, &xcrs) < 0 && state.xcr0 != 1) return fail_errno(errno, "XCR0 {:#x}", state.xcr0);

    kvm_lapic_state lapic{};
    std::memcpy(lapic.regs, state.lapic.registers.data(), sizeof lapic.regs);
    // CR8 and TPR[7:4] are one register (SDM vol. 3A, 11.8.6); the field for CR8 wins.
    if (u8 tpr = static_cast<u8>(lapic.regs[x86::lapic::kTpr]); tpr >> 4 != state.cr8)
        lapic.regs[x86::lapic::kTpr] = static_cast<char>((state.cr8 & 15) << 4);
    KVM_TRY(fd, KVM_SET_LAPIC, &lapic);

    // The TSC before the MSRs that depend on it. While paused it must read `tsc` at the moment of the pause.
    if (state.tsc != 0) {
        if (!vm_.paused_at_tsc() || !set_tsc_offset(state.tsc - vm_.paused_at_tsc())) TRY(put_msr(x86::msr::kTsc, state.tsc));
    }
    TRY(put_msrs(state));
    if (state.tsc_deadline != 0) TRY(put_msr(x86::msr::kTscDeadline, state.tsc_deadline));
    if (state.kvm_clock_ns != 0) vm_.set_clock_at_resume(state.kvm_clock_ns);

    kvm_debugregs debug{};
    for (usize i = 0; i < 4; ++i) debug.db[i] = state.dr[i];
    debug.dr6 = state.dr6;
    debug.dr7 = state.dr7;
    KVM_TRY(fd, KVM_SET_DEBUGREGS, &debug);

    kvm_vcpu_events events{};
    KVM_TRY(fd, KVM_GET_VCPU_EVENTS, &events);
    const bool knows_smm = events.flags & KVM_VCPUEVENT_VALID_SMM;
    events = {};
    const x86::PendingEvents& e = state.events;
    events.exception.injected = e.exception_pending;
    events.exception.nr = e.exception_vector;
    events.exception.has_error_code = e.exception_has_error_code;
    events.exception.error_code = e.exception_error_code;
    events.interrupt.injected = e.interrupt_injected;
    events.interrupt.nr = e.interrupt_vector;
    events.interrupt.shadow = static_cast<u8>((e.sti_shadow ? KVM_X86_SHADOW_INT_STI : 0) | (e.mov_ss_shadow ? KVM_X86_SHADOW_INT_MOV_SS : 0));
    events.nmi.pending = e.nmi_pending;
    events.nmi.masked = e.nmi_masked;
    events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
    if (knows_smm && vm_.capabilities().smm) {
        events.flags |= KVM_VCPUEVENT_VALID_SMM;
        events.smi.smm = e.in_smm;
        events.smi.pending = e.smi_pending;
    } else if (e.in_smm) {
        return fail(ErrorCode::Unsupported, "the saved processor is in system management mode, which this host's KVM lacks");
    }
    KVM_TRY(fd, KVM_SET_VCPU_EVENTS, &events);

    kvm_mp_state mp{KVM_MP_STATE_RUNNABLE};
    for (const MpPair& pair : kMpStates)
        if (pair.ours == state.mp_state) mp.mp_state = pair.kvm;
    KVM_TRY(fd, KVM_SET_MP_STATE, &mp);
    nmi_.store(false);
    ext_int_check_.store(true);
    return {};
}

}  // namespace vezha::engine::kvm
