// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/msr.h"

#include "engine/dbt/lapic.h"
#include "engine/dbt/paging.h"
#include "engine/dbt/paravirtual.h"
#include "engine/dbt/system_interface.h"
#include "engine/dbt/tsc.h"

namespace vezha::engine::dbt {

using namespace x86;

namespace {

constexpr u64 kMtrrCapabilities = 0x508;  // 8 variable ranges, fixed ranges, write combining
constexpr u64 kMicrocode = u64{1} << 32;

// AMD's that Linux reads without asking CPUID (they exist on every K8 and later).
constexpr u32 kSysCfg = 0xc0010010, kHwcr = 0xc0010015, kTseg = 0xc0010112, kNbCfg = 0xc001001f,
              kIntPending = 0xc0010055, kDeCfg = 0xc0011029, kOsvwLength = 0xc0010140, kOsvwStatus = 0xc0010141,
              kVmCr = 0xc0010114;

/// The four counters that every AMD processor has: here they stand at zero and can only be switched off.
constexpr bool is_k7_counter(u32 index) { return index >= 0xc0010000 && index < 0xc0010008; }

bool amd(const Context& ctx) { return ctx.amd; }
bool shows(Context& ctx, u32 leaf, u32 CpuidRegisters::*member, unsigned bit) {
    return ctx.cpuid.query(leaf, 0).*member >> bit & 1;
}

constexpr bool memory_type(u64 type) { return type == 0 || type == 1 || (type >= 4 && type <= 6); }
bool pat_valid(u64 value) {
    for (unsigned i = 0; i < 64; i += 8)
        if (const u64 type = value >> i & 0xff; !memory_type(type) && type != 7) return false;
    return true;
}

u64* mtrr_slot(Context& ctx, u32 index) {
    auto& m = ctx.mtrr;
    if (index >= msr::kMtrrPhysBase0 && index < msr::kMtrrPhysBase0 + 16) return &m.variable[index - msr::kMtrrPhysBase0];
    if (index == msr::kMtrrFix64k) return &m.fixed[0];
    if (index == msr::kMtrrFix16k80000) return &m.fixed[1];
    if (index == msr::kMtrrFix16kA0000) return &m.fixed[2];
    if (index >= msr::kMtrrFix4kC0000 && index < msr::kMtrrFix4kC0000 + 8) return &m.fixed[3 + index - msr::kMtrrFix4kC0000];
    if (index == msr::kMtrrDefType) return &m.default_type;
    return nullptr;
}

bool mtrr_valid(const Context& ctx, u32 index, u64 value) {
    if (index == msr::kMtrrDefType) return !(value & ~u64{0xcff}) && memory_type(value & 0xff);
    if (index < msr::kMtrrFix64k) {
        const u64 beyond = ~((u64{1} << ctx.physical_bits) - 1);
        if (index & 1) return !(value & (beyond | 0x7ff));
        return !(value & (beyond | 0xf00)) && memory_type(value & 0xff);
    }
    for (unsigned i = 0; i < 64; i += 8)
        if (!memory_type(value >> i & 0xff)) return false;
    return true;
}

constexpr u64 kMiscEnableFixed = (1 << 11) | (1 << 12);  // no BTS, no PEBS
// Fast strings, thermal control, performance counters, SpeedStep, MONITOR, CPUID limit, xTPR, XD disable.
constexpr u64 kMiscEnableWritable = 1 | (1 << 3) | (1 << 7) | (1 << 16) | (1 << 18) | (1 << 22) | (1 << 23) | (u64{1} << 34);

}  // namespace

bool read_msr(Context& ctx, u32 index, u64& value) {
    value = 0;
    switch (index) {
        case 0x0:  // IA32_P5_MC_ADDR, TYPE
        case 0x1: return true;
        case msr::kTsc: value = guest_tsc(ctx); return true;
        case msr::kTscAdjust: value = ctx.tsc_adjust; return shows(ctx, 7, &CpuidRegisters::ebx, 1);
        case msr::kApicBase: value = ctx.apic_base; return true;
        case msr::kBiosSign: value = kMicrocode; return true;
        case msr::kMtrrCap: value = kMtrrCapabilities; return true;
        case msr::kSysenterCs: value = ctx.sysenter_cs; return true;
        case msr::kSysenterEsp: value = ctx.sysenter_esp; return true;
        case msr::kSysenterEip: value = ctx.sysenter_eip; return true;
        case msr::kMcgCap:
        case msr::kMcgStatus: return true;  // machine check architecture without banks
        case msr::kMiscEnable:
            value = ctx.misc_enable | kMiscEnableFixed;  // on AMD too, as under KVM
            return true;
        case msr::kPat: value = ctx.pat; return true;
        case msr::kTscDeadline: value = ctx.lapic->tsc_deadline(); return shows(ctx, 1, &CpuidRegisters::ecx, 24);
        case msr::kXss: value = ctx.xss; return ctx.cpuid.query(0xd, 1).eax & 8;
        case msr::kEfer: value = ctx.efer; return true;
        case msr::kStar: value = ctx.star; return true;
        case msr::kLstar: value = ctx.lstar; return true;
        case msr::kCstar: value = ctx.cstar; return true;
        case msr::kSfmask: value = ctx.sfmask; return true;
        case msr::kFsBase: value = ctx.segment[kFs].base; return true;
        case msr::kGsBase: value = ctx.segment[kGs].base; return true;
        case msr::kKernelGsBase: value = ctx.kernel_gs_base; return true;
        case msr::kTscAux:
            value = ctx.tsc_aux;
            return shows(ctx, 0x80000001, &CpuidRegisters::edx, 27) || shows(ctx, 7, &CpuidRegisters::ecx, 22);
        case msr::kSpecCtrl:
            value = ctx.spec_ctrl;
            return shows(ctx, 7, &CpuidRegisters::edx, 26) || shows(ctx, 0x80000008, &CpuidRegisters::ebx, 14);
        case msr::kArchCapabilities: return shows(ctx, 7, &CpuidRegisters::edx, 29);
        case kHwcr: value = 1 << 24; return amd(ctx);  // the TSC counts at the P0 frequency
        case kSysCfg:
        case kTseg:
        case kNbCfg:
        case kIntPending:
        case kVmCr:
        case kOsvwLength:
        case kOsvwStatus: return amd(ctx);
        case kDeCfg: value = 2; return amd(ctx);  // LFENCE is serialising, as it is on this host's family
        default: break;
    }
    if (is_k7_counter(index)) return amd(ctx);
    if (const u64* slot = mtrr_slot(ctx, index)) {
        value = *slot;
        return true;
    }
    if (index >= msr::kX2apicBase && index < msr::kX2apicBase + 0x100) return ctx.lapic->msr_read(index, value);
    return read_paravirtual_msr(ctx, index, value);
}

bool write_msr(Context& ctx, u32 index, u64 value) {
    switch (index) {
        case 0x0:
        case 0x1: return true;
        case msr::kTsc: set_guest_tsc(ctx, value); return true;
        case msr::kTscAdjust:
            if (!shows(ctx, 7, &CpuidRegisters::ebx, 1)) return false;
            set_tsc_adjust(ctx, value);
            update_clock_page(ctx);
            return true;
        case msr::kApicBase: return ctx.lapic->write_base(value);
        case msr::kBiosSign: return true;  // written as zero before CPUID, to read the revision
        case 0x79: return !amd(ctx);       // IA32_BIOS_UPDT_TRIG
        case 0xc0010020: return amd(ctx);  // PATCH_LOADER: accepted, nothing changes
        case msr::kSysenterCs: ctx.sysenter_cs = static_cast<u32>(value); return true;
        case msr::kSysenterEsp:
            if (!is_canonical(value)) return false;
            ctx.sysenter_esp = value;
            return true;
        case msr::kSysenterEip:
            if (!is_canonical(value)) return false;
            ctx.sysenter_eip = value;
            return true;
        case msr::kMcgStatus: return value == 0;
        case msr::kMiscEnable:
            ctx.misc_enable = (ctx.misc_enable & ~kMiscEnableWritable) | (value & kMiscEnableWritable);
            return true;
        case msr::kPat:
            if (!pat_valid(value)) return false;
            ctx.pat = value;
            return true;
        case msr::kTscDeadline:
            if (!shows(ctx, 1, &CpuidRegisters::ecx, 24)) return false;
            ctx.lapic->set_tsc_deadline(value);
            return true;
        case msr::kXss: return (ctx.cpuid.query(0xd, 1).eax & 8) && value == 0;
        case msr::kEfer: {
            u64 allowed = efer::kSce | efer::kLme | efer::kLma;
            if (shows(ctx, 0x80000001, &CpuidRegisters::edx, 20)) allowed |= efer::kNxe;
            if (shows(ctx, 0x80000001, &CpuidRegisters::edx, 25)) allowed |= 1 << 14;  // FFXSR
            if (value & ~allowed) return false;
            if ((ctx.cr0 & cr0::kPg) && ((value ^ ctx.efer) & efer::kLme)) return false;
            const u64 old = ctx.efer;
            ctx.efer = (value & ~efer::kLma) | (old & efer::kLma);
            update_mode(ctx);
            if ((old ^ ctx.efer) & efer::kNxe) flush_tlb(ctx, FlushScope::All);
            return true;
        }
        case msr::kStar: ctx.star = value; return true;
        case msr::kLstar:
            if (!is_canonical(value)) return false;
            ctx.lstar = value;
            return true;
        case msr::kCstar:
            if (!is_canonical(value)) return false;
            ctx.cstar = value;
            return true;
        case msr::kSfmask:
            if (value >> 32) return false;
            ctx.sfmask = value;
            return true;
        case msr::kFsBase:
            if (!is_canonical(value)) return false;
            ctx.segment[kFs].base = value;
            update_mode(ctx);
            return true;
        case msr::kGsBase:
            if (!is_canonical(value)) return false;
            ctx.segment[kGs].base = value;
            update_mode(ctx);
            return true;
        case msr::kKernelGsBase:
            if (!is_canonical(value)) return false;
            ctx.kernel_gs_base = value;
            return true;
        case msr::kTscAux:
            if (!shows(ctx, 0x80000001, &CpuidRegisters::edx, 27) && !shows(ctx, 7, &CpuidRegisters::ecx, 22)) return false;
            if (value >> 32) return false;
            ctx.tsc_aux = value;
            return true;
        case msr::kSpecCtrl:
            // Nothing of the guest runs at a different host privilege: the bits are kept and mean nothing here.
            if (!shows(ctx, 7, &CpuidRegisters::edx, 26) && !shows(ctx, 0x80000008, &CpuidRegisters::ebx, 14)) return false;
            if (value & ~u64{7}) return false;
            ctx.spec_ctrl = value;
            return true;
        case msr::kPredCmd:
            return (shows(ctx, 7, &CpuidRegisters::edx, 26) || shows(ctx, 0x80000008, &CpuidRegisters::ebx, 12)) &&
                   !(value & ~u64{1});
        case kSysCfg:
        case kHwcr:
        case kNbCfg:
        case kIntPending:
        case kDeCfg:
        case kVmCr: return amd(ctx);
        default: break;
    }
    if (is_k7_counter(index)) return amd(ctx) && value == 0;
    if (u64* slot = mtrr_slot(ctx, index)) {
        if (!mtrr_valid(ctx, index, value)) return false;
        *slot = value;
        return true;
    }
    if (index >= msr::kX2apicBase && index < msr::kX2apicBase + 0x100) return ctx.lapic->msr_write(index, value);
    return write_paravirtual_msr(ctx, index, value);
}

std::span<const u32> saved_msrs() {
    static constexpr u32 kSaved[] = {
        msr::kTscAdjust, msr::kSysenterCs, msr::kSysenterEsp, msr::kSysenterEip, msr::kMiscEnable, msr::kPat, msr::kStar,
        msr::kLstar, msr::kCstar, msr::kSfmask, msr::kKernelGsBase, msr::kTscAux, msr::kSpecCtrl, msr::kXss,
        0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207, 0x208, 0x209, 0x20a, 0x20b, 0x20c, 0x20d, 0x20e, 0x20f,
        0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f, msr::kMtrrDefType,
        msr::kKvmWallClock, msr::kKvmSystemTime, msr::kKvmPollControl,
    };
    return kSaved;
}

bool get_msr(Context& ctx, u32 index, u64& value) {
    if (index == msr::kTscAdjust) {
        value = ctx.tsc_adjust;
        return true;
    }
    return read_msr(ctx, index, value);
}

bool set_msr(Context& ctx, u32 index, u64 value) {
    switch (index) {
        case msr::kTscAdjust: set_tsc_adjust(ctx, value); return true;
        case msr::kApicBase: ctx.apic_base = value; return true;
        case msr::kEfer: ctx.efer = value; return true;
        case msr::kTsc: set_guest_tsc(ctx, value); return true;
        case msr::kMiscEnable: ctx.misc_enable = value; return true;
        case msr::kKvmWallClock: return restore_wall_clock(ctx, value);
        default: return write_msr(ctx, index, value);
    }
}

}  // namespace vezha::engine::dbt
