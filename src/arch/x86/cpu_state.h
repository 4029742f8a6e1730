// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <string_view>
#include <vector>

#include "base/types.h"

namespace vezha::x86 {

enum Gpr : u8 { kRax, kRcx, kRdx, kRbx, kRsp, kRbp, kRsi, kRdi, kR8, kR9, kR10, kR11, kR12, kR13, kR14, kR15 };
enum SegmentIndex : u8 { kEs, kCs, kSs, kDs, kFs, kGs, kSegments };

/// A segment register with its hidden part. `attributes` is the descriptor's access byte in bits 0-7 (type 0-3, S 4,
/// DPL 5-6, P 7) and AVL, L, D/B, G in bits 12-15, as in bits 40-55 of a descriptor (SDM vol. 3A, 3.4.5).
struct Segment {
    u16 selector = 0;
    u16 attributes = 0;
    u32 limit = 0;  ///< in bytes, granularity applied
    u64 base = 0;

    static constexpr u16 kPresent = 1 << 7, kCodeOrData = 1 << 4, kLong = 1 << 13, kDefault32 = 1 << 14, kGranular = 1 << 15;
    bool present() const { return attributes & kPresent; }
    unsigned type() const { return attributes & 15; }
    unsigned dpl() const { return (attributes >> 5) & 3; }
    bool long_mode() const { return attributes & kLong; }
    bool default32() const { return attributes & kDefault32; }
    /// Loaded with a null selector: KVM's "unusable".
    bool unusable() const { return !present(); }
};

struct DescriptorTable {
    u64 base = 0;
    u16 limit = 0;
};

struct MsrValue {
    u32 index = 0;
    u64 value = 0;
};

enum class MpState : u8 { Runnable, Uninitialized, InitReceived, Halted, WaitForSipi };

/// Events that were recognised and not yet delivered (SDM vol. 3A, chapter 6).
struct PendingEvents {
    bool exception_pending = false;
    bool exception_has_error_code = false;
    u8 exception_vector = 0;
    u32 exception_error_code = 0;
    u64 exception_payload = 0;  ///< CR2 or DR6 that the exception will set
    bool exception_has_payload = false;
    bool interrupt_injected = false;  ///< an external interrupt was acknowledged and awaits delivery
    u8 interrupt_vector = 0;
    bool nmi_pending = false;
    bool nmi_masked = false;  ///< until IRET
    bool sti_shadow = false, mov_ss_shadow = false;
    bool smi_pending = false, in_smm = false;
};

/// The local APIC's registers at their architectural offsets (16-byte stride), as KVM_GET_LAPIC lays them out, xAPIC
/// ID format unless x2APIC mode is on (then the ID register holds the 32-bit ID).
struct LapicState {
    std::array<u8, 1024> registers{};
};

/// Standard (non-compacted) XSAVE image with legacy area and header (SDM vol. 1, 13.4). Big enough for AVX-512 + PKRU.
struct XsaveArea {
    static constexpr usize kSize = 4096;
    alignas(64) std::array<u8, kSize> bytes{};
};

/// The canonical architectural state of one processor. Both engines load and store it.
struct CpuState {
    std::array<u64, 16> gpr{};
    u64 rip = 0;
    u64 rflags = 2;
    std::array<Segment, kSegments> segment{};
    Segment tr{}, ldtr{};
    DescriptorTable gdtr{}, idtr{};
    u64 cr0 = 0, cr2 = 0, cr3 = 0, cr4 = 0, cr8 = 0;
    u64 efer = 0;
    u64 xcr0 = 1;
    std::array<u64, 4> dr{};
    u64 dr6 = 0xffff0ff0, dr7 = 0x400;
    u64 apic_base = 0xfee00900;
    u64 tsc = 0;
    u64 tsc_deadline = 0;
    /// The machine's paravirtual clock (kvmclock) in ns when this was saved; 0: not known. The same on every vCPU.
    u64 kvm_clock_ns = 0;
    /// Other MSRs that the CPU model lists (SYSENTER, STAR..., PAT, MTRR, KVM paravirtual, ...).
    std::vector<MsrValue> msrs;
    XsaveArea xsave{};
    LapicState lapic{};
    MpState mp_state = MpState::Runnable;
    PendingEvents events{};

    u64* find_msr(u32 index) {
        for (auto& msr : msrs)
            if (msr.index == index) return &msr.value;
        return nullptr;
    }
    void set_msr(u32 index, u64 value) {
        if (u64* existing = find_msr(index)) *existing = value;
        else msrs.push_back({index, value});
    }
};

/// State after RESET (SDM vol. 3A, table 10-1): real mode at f000:fff0. Application processors wait for SIPI.
CpuState reset_state(bool bootstrap_processor, u32 apic_id);

/// Convenience for loaders and tests.
Segment real_mode_segment(u16 selector);
Segment flat_code64();
Segment flat_code32();
Segment flat_data();

}  // namespace vezha::x86
