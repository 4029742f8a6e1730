// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/types.h"

/// Architectural register bits and numbers. Source: SDM vol. 3A chapters 2, 4, 11; vol. 4 (MSRs).
namespace vezha::x86 {

namespace rflags {
inline constexpr u64 kCf = 1 << 0, kFixed = 1 << 1, kPf = 1 << 2, kAf = 1 << 4, kZf = 1 << 6, kSf = 1 << 7, kTf = 1 << 8,
                     kIf = 1 << 9, kDf = 1 << 10, kOf = 1 << 11, kIopl = 3 << 12, kNt = 1 << 14, kRf = 1 << 16,
                     kVm = 1 << 17, kAc = 1 << 18, kVif = 1 << 19, kVip = 1 << 20, kId = 1 << 21;
inline constexpr u64 kArithmetic = kCf | kPf | kAf | kZf | kSf | kOf;
}  // namespace rflags

namespace cr0 {
inline constexpr u64 kPe = 1 << 0, kMp = 1 << 1, kEm = 1 << 2, kTs = 1 << 3, kEt = 1 << 4, kNe = 1 << 5, kWp = 1 << 16,
                     kAm = 1 << 18, kNw = 1 << 29, kCd = 1 << 30, kPg = u64{1} << 31;
}
namespace cr4 {
inline constexpr u64 kVme = 1 << 0, kPvi = 1 << 1, kTsd = 1 << 2, kDe = 1 << 3, kPse = 1 << 4, kPae = 1 << 5, kMce = 1 << 6,
                     kPge = 1 << 7, kPce = 1 << 8, kOsfxsr = 1 << 9, kOsxmmexcpt = 1 << 10, kUmip = 1 << 11,
                     kLa57 = 1 << 12, kVmxe = 1 << 13, kFsgsbase = 1 << 16, kPcide = 1 << 17, kOsxsave = 1 << 18,
                     kSmep = 1 << 20, kSmap = 1 << 21, kPke = 1 << 22;
}
namespace efer {
inline constexpr u64 kSce = 1 << 0, kLme = 1 << 8, kLma = 1 << 10, kNxe = 1 << 11;
}
namespace apic_base {
inline constexpr u64 kBsp = 1 << 8, kX2apic = 1 << 10, kEnable = 1 << 11;
}

namespace msr {
inline constexpr u32 kTsc = 0x10, kApicBase = 0x1b, kFeatureControl = 0x3a, kTscAdjust = 0x3b, kSpecCtrl = 0x48,
                     kPredCmd = 0x49, kBiosSign = 0x8b, kMtrrCap = 0xfe, kArchCapabilities = 0x10a, kSysenterCs = 0x174,
                     kSysenterEsp = 0x175, kSysenterEip = 0x176, kMcgCap = 0x179, kMcgStatus = 0x17a,
                     kMiscEnable = 0x1a0, kMtrrPhysBase0 = 0x200, kMtrrFix64k = 0x250, kMtrrFix16k80000 = 0x258,
                     kMtrrFix16kA0000 = 0x259, kMtrrFix4kC0000 = 0x268, kPat = 0x277, kMtrrDefType = 0x2ff,
                     kTscDeadline = 0x6e0, kX2apicBase = 0x800, kXss = 0xda0, kEfer = 0xc0000080, kStar = 0xc0000081,
                     kLstar = 0xc0000082, kCstar = 0xc0000083, kSfmask = 0xc0000084, kFsBase = 0xc0000100,
                     kGsBase = 0xc0000101, kKernelGsBase = 0xc0000102, kTscAux = 0xc0000103;
// KVM paravirtual interface (Linux Documentation/virt/kvm/x86/msr.rst).
inline constexpr u32 kKvmWallClock = 0x4b564d00, kKvmSystemTime = 0x4b564d01, kKvmAsyncPf = 0x4b564d02,
                     kKvmStealTime = 0x4b564d03, kKvmPvEoi = 0x4b564d04, kKvmPollControl = 0x4b564d05;
}  // namespace msr

/// Offsets of local APIC registers in the xAPIC page; x2APIC MSR = 0x800 + offset / 16. SDM vol. 3A, table 11-1.
namespace lapic {
inline constexpr u32 kId = 0x20, kVersion = 0x30, kTpr = 0x80, kApr = 0x90, kPpr = 0xa0, kEoi = 0xb0, kLdr = 0xd0,
                     kDfr = 0xe0, kSpurious = 0xf0, kIsr = 0x100, kTmr = 0x180, kIrr = 0x200, kEsr = 0x280,
                     kLvtCmci = 0x2f0, kIcrLow = 0x300, kIcrHigh = 0x310, kLvtTimer = 0x320, kLvtThermal = 0x330,
                     kLvtPerf = 0x340, kLvtLint0 = 0x350, kLvtLint1 = 0x360, kLvtError = 0x370,
                     kTimerInitial = 0x380, kTimerCurrent = 0x390, kTimerDivide = 0x3e0, kSelfIpi = 0x3f0;
inline constexpr u64 kDefaultBase = 0xfee0'0000;
}  // namespace lapic

enum Exception : u8 {
    kDivideError = 0, kDebug = 1, kNmi = 2, kBreakpoint = 3, kOverflow = 4, kBound = 5, kInvalidOpcode = 6,
    kDeviceNotAvailable = 7, kDoubleFault = 8, kInvalidTss = 10, kSegmentNotPresent = 11, kStackFault = 12,
    kGeneralProtection = 13, kPageFault = 14, kX87Error = 16, kAlignmentCheck = 17, kMachineCheck = 18, kSimdError = 19,
};

namespace page_fault {
inline constexpr u32 kPresent = 1, kWrite = 2, kUser = 4, kReserved = 8, kFetch = 16;
}
namespace pte {
inline constexpr u64 kPresent = 1, kWritable = 2, kUser = 4, kPwt = 8, kPcd = 16, kAccessed = 32, kDirty = 64, kLarge = 128,
                     kGlobal = 256, kNx = u64{1} << 63, kAddress = 0x000f'ffff'ffff'f000;
}

}  // namespace vezha::x86
