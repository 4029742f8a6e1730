// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>

#include "arch/x86/cpu_state.h"
#include "arch/x86/cpuid.h"
#include "arch/x86/registers.h"
#include "engine/engine.h"

/// The software engine: binary translation of x86-64 on x86-64. See docs/engine-dbt.md.
namespace vezha::engine::dbt {

class ApicFabric;
class Lapic;
class VcpuImpl;
class VmImpl;

/// Why generated code must leave at the next block boundary; bits of Context::attention. Any thread may set them.
namespace attention {
inline constexpr u32 kInterrupt = 1 << 0;  ///< the local APIC or the PIC may have an interrupt
inline constexpr u32 kNmi = 1 << 1;
inline constexpr u32 kKick = 1 << 2;       ///< Vcpu::kick()
inline constexpr u32 kTlbFlush = 1 << 3;   ///< another thread changed what translations rely on
inline constexpr u32 kInit = 1 << 4, kSipi = 1 << 5;
inline constexpr u32 kExclusive = 1 << 6;  ///< another vCPU wants all others stopped
inline constexpr u32 kRecheck = 1 << 7;    ///< this vCPU changed IF, TPR or the like: look again
}  // namespace attention

/// An exception that an instruction raised; thrown away or delivered by deliver_exception().
struct Fault {
    bool pending = false;
    u8 vector = 0;
    bool has_error_code = false;
    u32 error_code = 0;
    u64 address = 0;  ///< CR2 for a page fault
};

/// The state of one vCPU that generated code and the engine's C++ share. GS points here while guest code runs. Belongs to
/// the vCPU's thread, but for `attention`. Outside generated code every member is architecturally exact at an instruction
/// boundary.
struct Context {
    // Hot for generated code: small offsets.
    std::array<u64, 16> gpr{};
    u64 rip = 0;               ///< offset in CS, as the guest sees it
    u64 flags = 2;             ///< the whole RFLAGS while outside generated code
    std::atomic<u32> attention{0};

    // Mode, derived from the registers below by update_mode(); part of a block's key.
    u8 cpl = 0;
    bool long_mode = false;    ///< EFER.LMA
    bool code64 = false, code32 = false;  ///< CS.L in long mode; CS.D otherwise

    std::array<x86::Segment, x86::kSegments> segment{};
    x86::Segment tr{}, ldtr{};
    x86::DescriptorTable gdtr{}, idtr{};
    u64 cr0 = 0, cr2 = 0, cr3 = 0, cr4 = 0, efer = 0, xcr0 = 1, xss = 0;
    std::array<u64, 4> pdpte{};  ///< PAE paging's page-directory-pointer entries, as loaded with CR3
    u8 physical_bits = 48;     ///< MAXPHYADDR of `cpuid`; set by note_cpuid()
    bool amd = false;          ///< the vendor that `cpuid` shows
    std::array<u64, 4> dr{};
    u64 dr6 = 0xffff0ff0, dr7 = 0x400;

    // MSRs with meaning to the engine.
    u64 star = 0, lstar = 0, cstar = 0, sfmask = 0, kernel_gs_base = 0;
    u64 sysenter_cs = 0, sysenter_esp = 0, sysenter_eip = 0;
    u64 pat = 0x0007'0406'0007'0406, tsc_aux = 0, tsc_adjust = 0, apic_base = 0, misc_enable = 1;
    u64 spec_ctrl = 0, kvm_wall_clock = 0, kvm_system_time = 0, kvm_poll_control = 1;
    /// Stored for the guest; memory types mean nothing here. Fixed ranges: 64K, 16K 80000, 16K A0000, 4K C0000...
    struct {
        std::array<u64, 16> variable{};
        std::array<u64, 11> fixed{};
        u64 default_type = 0;
    } mtrr;
    u64 tsc_offset = 0;        ///< guest TSC = host TSC + tsc_offset

    // Events (SDM vol. 3A, 6.7 and 6.8).
    bool sti_shadow = false, mov_ss_shadow = false;  ///< for the instruction that follows
    bool nmi_masked = false;   ///< until IRET
    u8 nmi_pending = 0;        ///< taken from the attention word, not yet delivered; two at most
    x86::MpState mp_state = x86::MpState::Runnable;
    Fault fault{};
    bool shutdown = false;     ///< triple fault

    Lapic* lapic = nullptr;
    VcpuImpl* vcpu = nullptr;
    VmImpl* vm = nullptr;
    memory::GuestMemory* memory = nullptr;
    bus::Bus* bus = nullptr;
    ApicFabric* apics = nullptr;
    x86::CpuidTable cpuid{};

    // The translator's own part.
    u64 mode_key = 0;           ///< of update_mode(): part of a block's key (see block_key.h)
    bool vector_parked = true;  ///< the guest's vector state is in `xsave`, not in the registers
    alignas(64) x86::XsaveArea xsave{};
    void* translator = nullptr;  ///< struct GuestRun: software TLB, jump cache, exits
};

}  // namespace vezha::engine::dbt
