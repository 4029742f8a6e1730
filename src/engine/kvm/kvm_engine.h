// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "engine/engine.h"

/// Guest code on Linux KVM (API 12, x86-64): local APICs in the kernel, everything else of the board in our process.
/// Source: Linux Documentation/virt/kvm/api.rst.
namespace vezha::engine::kvm {

/// Guest-physical pages that KVM needs on Intel hosts without unrestricted guest (identity map and TSS). In the hole
/// below 4 GiB: no memory or device may be there; firmware tables report them as reserved.
inline constexpr u64 kReservedBase = 0xfeff'c000;
inline constexpr u64 kReservedSize = 0x4000;

enum class DirtyTracking : u8 {
    Automatic,  ///< the ring for machines with much memory, where scanning a bitmap is slow, else the bitmap
    Bitmap,
    Ring,
};
struct Options {
    DirtyTracking dirty_tracking = DirtyTracking::Automatic;
};

/// Opens /dev/kvm and builds a VM with the wiring's memory in it.
/// @return NotFound, PermissionDenied, Busy, Unsupported with hints saying what to do on the host
Result<std::unique_ptr<Vm>> create(const VmWiring& wiring, const Options& options);
Result<std::unique_ptr<Vm>> create(const VmWiring& wiring);

/// What the host's KVM can do; makes and drops an empty VM.
Result<Capabilities> probe();

/// Runs a tiny 64-bit guest that does what operating systems do early (exceptions, cmpxchg16b, SSE, XSAVE); takes at
/// most about two seconds. Success means that real guests can be expected to work; the error is one line saying what failed.
Result<> self_test();

}  // namespace vezha::engine::kvm
