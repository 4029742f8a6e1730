// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine/dbt/context.h"

/// The parts of KVM's paravirtual interface that the software engine offers, so that Linux uses them: clock, kick and
/// IPI hypercalls. Source: Linux Documentation/virt/kvm/x86/{cpuid,msr,hypercalls}.rst.
namespace vezha::engine::dbt {

namespace kvm_feature {
inline constexpr u32 kNopIoDelay = 1, kClockSource2 = 3, kPvUnhalt = 7, kSendIpi = 11, kPollControl = 12,
                     kClockStable = 24;
}

/// Leaves 0x40000000 and 0x40000001.
void add_paravirtual_cpuid(x86::CpuidTable& table);

bool read_paravirtual_msr(Context& ctx, u32 index, u64& value);
bool write_paravirtual_msr(Context& ctx, u32 index, u64 value);
/// Sets the register without writing the structure in guest memory again.
bool restore_wall_clock(Context& ctx, u64 value);
/// Writes the vCPU's clock page if it has one: after the TSC was moved.
void update_clock_page(Context& ctx);
/// Nanoseconds of the paravirtual clock: since the VM's TSC was zero.
u64 paravirtual_clock_ns(const Context& ctx);

/// VMCALL and VMMCALL: number in RAX, arguments in RBX, RCX, RDX, RSI; answer in RAX.
void hypercall(Context& ctx);

}  // namespace vezha::engine::dbt
