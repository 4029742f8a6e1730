// SPDX-License-Identifier: Apache-2.0
#include "arch/x86/cpu_state.h"

#include <gtest/gtest.h>

namespace vezha::x86 {
namespace {

TEST(CpuState, ResetStartsAtTheResetVector) {
    CpuState s = reset_state(true, 0);
    EXPECT_EQ(s.segment[kCs].base + s.rip, 0xffff'fff0u);
    EXPECT_EQ(s.mp_state, MpState::Runnable);
    EXPECT_EQ(reset_state(false, 3).mp_state, MpState::Uninitialized);
    EXPECT_EQ(reset_state(false, 3).lapic.registers[0x23], 3);
}

}  // namespace
}  // namespace vezha::x86
