// SPDX-License-Identifier: Apache-2.0
#include "arch/x86/cpu_state.h"

#include <cstring>

#include "arch/x86/registers.h"

namespace vezha::x86 {

Segment real_mode_segment(u16 selector) { return {selector, 0x93, 0xffff, u64{selector} << 4}; }
Segment flat_code64() { return {0x10, 0xa09b, 0xffff'ffff, 0}; }
Segment flat_code32() { return {0x10, 0xc09b, 0xffff'ffff, 0}; }
Segment flat_data() { return {0x18, 0xc093, 0xffff'ffff, 0}; }

CpuState reset_state(bool bootstrap_processor, u32 apic_id) {
    CpuState s;
    for (auto& segment : s.segment) segment = real_mode_segment(0);
    s.segment[kCs] = {0xf000, 0x9b, 0xffff, 0xffff'0000};
    s.tr = {0, 0x8b, 0xffff, 0};
    s.ldtr = {0, 0x82, 0xffff, 0};
    s.gdtr = {0, 0xffff};
    s.idtr = {0, 0xffff};
    s.rip = 0xfff0;
    s.cr0 = cr0::kEt | cr0::kNw | cr0::kCd;
    s.apic_base = 0xfee0'0000 | apic_base::kEnable | (bootstrap_processor ? apic_base::kBsp : 0);
    s.mp_state = bootstrap_processor ? MpState::Runnable : MpState::Uninitialized;
    s.set_msr(msr::kPat, 0x0007'0406'0007'0406);
    // FCW 0x37f, FTW empty (abridged: 0), MXCSR 0x1f80; XSTATE_BV zero means initial values otherwise.
    const u16 fcw = 0x37f;
    const u32 mxcsr = 0x1f80;
    std::memcpy(s.xsave.bytes.data(), &fcw, sizeof fcw);
    std::memcpy(s.xsave.bytes.data() + 24, &mxcsr, sizeof mxcsr);
    // LAPIC: ID, version 0x14 with 6 LVT entries, spurious vector 0xff, DFR all ones, LVTs masked.
    auto put = [&s](usize offset, u32 value) { std::memcpy(s.lapic.registers.data() + offset, &value, sizeof value); };
    put(lapic::kId, apic_id << 24);
    put(lapic::kVersion, 0x0005'0014);
    put(lapic::kSpurious, 0xff);
    put(lapic::kDfr, 0xffff'ffff);
    for (usize lvt = lapic::kLvtTimer; lvt <= lapic::kLvtError; lvt += 0x10) put(lvt, 0x1'0000);
    return s;
}

}  // namespace vezha::x86
