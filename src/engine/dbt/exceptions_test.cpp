// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/exceptions.h"

#include "engine/dbt/control_registers.h"
#include "engine/dbt/segments.h"
#include "engine/dbt/system_fixture.h"

namespace vezha::engine::dbt {
namespace {

using namespace x86;
using Exceptions = SystemFixture;

TEST_F(Exceptions, PageFaultFromUserModeSwitchesStacks) {
    long_mode(3);
    gate(kPageFault, 0x1234'5678'9abc, kInterruptGate);
    ctx.fault = {.pending = true, .vector = kPageFault, .has_error_code = true, .error_code = 6, .address = 0xdead};
    deliver_fault(ctx);
    EXPECT_EQ(ctx.rip, 0x1234'5678'9abcu);
    EXPECT_EQ(ctx.cpl, 0);
    EXPECT_EQ(ctx.cr2, 0xdeadu);
    EXPECT_EQ(ctx.segment[kCs].selector, kCode);
    EXPECT_EQ(ctx.segment[kSs].selector, 0);
    EXPECT_EQ(ctx.gpr[kRsp], kStack - 48);
    EXPECT_EQ(peek(kStack - 48), 6u);
    EXPECT_EQ(peek(kStack - 40), 0x5000u);
    EXPECT_EQ(peek(kStack - 32), kUserCode);
    EXPECT_EQ(peek(kStack - 24), 0x202u | rflags::kRf);
    EXPECT_EQ(peek(kStack - 16), 0x7008u);
    EXPECT_EQ(peek(kStack - 8), kUserData);
    EXPECT_FALSE(ctx.flags & rflags::kIf);

    ctx.gpr[kRsp] += 8;
    interrupt_return(ctx, 8);
    EXPECT_EQ(ctx.cpl, 3);
    EXPECT_EQ(ctx.rip, 0x5000u);
    EXPECT_EQ(ctx.gpr[kRsp], 0x7008u);
    EXPECT_EQ(ctx.segment[kSs].selector, kUserData);
    EXPECT_TRUE(ctx.flags & rflags::kIf);
}

TEST_F(Exceptions, SameRingAlignsTheStackAndIstReplacesIt) {
    long_mode(0);
    gate(kInvalidOpcode, 0x6000, kTrapGate);
    ctx.fault = {.pending = true, .vector = kInvalidOpcode};
    deliver_fault(ctx);
    EXPECT_EQ(ctx.gpr[kRsp], 0x7000u - 40);
    EXPECT_EQ(peek(0x7000 - 16), 0x7008u);
    EXPECT_TRUE(ctx.flags & rflags::kIf);
    gate(kNmi, 0x6100, kInterruptGate, 0, 1);
    deliver_external(ctx, kNmi, EventKind::External);
    EXPECT_EQ(ctx.gpr[kRsp], kStack + 0x1000 - 40);
}

TEST_F(Exceptions, FaultsDuringDeliveryBecomeDoubleAndTripleFaults) {
    long_mode(0);
    gate(kDoubleFault, 0x6000, kInterruptGate);
    ctx.fault = {.pending = true, .vector = kPageFault, .has_error_code = true};
    deliver_fault(ctx);  // vector 14 has no gate: #GP, so #DF
    EXPECT_EQ(ctx.rip, 0x6000u);
    EXPECT_EQ(peek(ctx.gpr[kRsp]), 0u);
    EXPECT_FALSE(ctx.shutdown);
    poke(kIdt + 16 * kDoubleFault, 0);
    ctx.fault = {.pending = true, .vector = kPageFault, .has_error_code = true};
    deliver_fault(ctx);
    EXPECT_TRUE(ctx.shutdown);
}

TEST_F(Exceptions, SoftwareInterruptsNeedTheGatesPrivilege) {
    long_mode(3);
    gate(0x80, 0x6000, kInterruptGate);
    try {
        deliver_event(ctx, {.vector = 0x80, .kind = EventKind::SoftwareInterrupt}, 0x5002);
        FAIL();
    } catch (const GuestFault& f) {
        EXPECT_EQ(f.fault.vector, kGeneralProtection);
        EXPECT_EQ(f.fault.error_code, 0x80u * 8 + 2);
    }
    gate(0x80, 0x6000, kInterruptGate, 3);
    deliver_event(ctx, {.vector = 0x80, .kind = EventKind::SoftwareInterrupt}, 0x5002);
    EXPECT_EQ(peek(kStack - 40), 0x5002u);
}

TEST_F(Exceptions, RealModeUsesTheVectorTable) {
    ctx.idtr = {0, 0x3ff};
    set_real_segment(ctx, kCs, 0x100);
    set_real_segment(ctx, kSs, 0x200);
    ctx.rip = 0x42;
    ctx.gpr[kRsp] = 0xaaaa'0100;
    ctx.flags = 0x202;
    ASSERT_TRUE(memory.write_object({4 * 0x21}, u32{0x0300'0010}));
    deliver_event(ctx, {.vector = 0x21, .kind = EventKind::SoftwareInterrupt}, 0x44);
    EXPECT_EQ(ctx.segment[kCs].base, 0x3000u);
    EXPECT_EQ(ctx.rip, 0x10u);
    EXPECT_EQ(ctx.gpr[kRsp], 0xaaaa'00fau);
    EXPECT_FALSE(ctx.flags & rflags::kIf);
    interrupt_return(ctx, 2);
    EXPECT_EQ(ctx.rip, 0x44u);
    EXPECT_EQ(ctx.segment[kCs].selector, 0x100);
    EXPECT_TRUE(ctx.flags & rflags::kIf);
}

TEST_F(Exceptions, InterruptsWaitForIfAndShadows) {
    long_mode(0);
    gate(0x40, 0x6000, kInterruptGate);
    ctx.lapic->mmio_write(lapic::kSpurious, 0x1ff);
    ctx.flags &= ~rflags::kIf;
    ctx.lapic->post({.vector = 0x40});
    EXPECT_TRUE(ctx.attention & attention::kInterrupt);
    EXPECT_FALSE(service_events(ctx));
    ctx.flags |= rflags::kIf;
    ctx.sti_shadow = true;
    EXPECT_FALSE(service_events(ctx));
    EXPECT_TRUE(ctx.attention & attention::kRecheck);
    ctx.sti_shadow = false;
    ctx.mp_state = MpState::Halted;
    EXPECT_TRUE(has_deliverable_event(ctx));
    EXPECT_TRUE(service_events(ctx));
    EXPECT_EQ(ctx.mp_state, MpState::Runnable);
    EXPECT_EQ(ctx.rip, 0x6000u);
    EXPECT_FALSE(service_events(ctx));
}

TEST_F(Exceptions, NmiIsMaskedUntilIret) {
    long_mode(0);
    gate(kNmi, 0x6000, kInterruptGate);
    ctx.lapic->post({.delivery = InterruptMessage::Nmi});
    EXPECT_TRUE(service_events(ctx));
    ctx.lapic->post({.delivery = InterruptMessage::Nmi});
    EXPECT_FALSE(service_events(ctx));
    interrupt_return(ctx, 8);
    EXPECT_TRUE(service_events(ctx));
}

TEST_F(Exceptions, ApplicationProcessorStartsBySipi) {
    Context& ap = *contexts[1];
    EXPECT_EQ(ap.mp_state, MpState::Uninitialized);
    EXPECT_FALSE(has_deliverable_event(ap));
    ctx.lapic->mmio_write(lapic::kIcrHigh, 1u << 24);
    ctx.lapic->mmio_write(lapic::kIcrLow, 0xc500);
    EXPECT_TRUE(service_events(ap));
    EXPECT_EQ(ap.mp_state, MpState::WaitForSipi);
    ctx.lapic->mmio_write(lapic::kIcrLow, 0x4612);
    EXPECT_TRUE(has_deliverable_event(ap));
    EXPECT_TRUE(service_events(ap));
    EXPECT_EQ(ap.mp_state, MpState::Runnable);
    EXPECT_EQ(ap.segment[kCs].base + ap.rip, 0x12000u);
}

TEST_F(Exceptions, SegmentLoadsCheckPrivilegeAndType) {
    long_mode(3);
    auto error = [this](u16 selector, SegmentIndex index) -> int {
        try {
            load_segment(ctx, index, selector);
            return -1;
        } catch (const GuestFault& f) {
            return f.fault.vector << 16 | static_cast<int>(f.fault.error_code);
        }
    };
    EXPECT_EQ(error(kUserData, kDs), -1);
    EXPECT_EQ(error(kData, kDs), kGeneralProtection << 16 | kData);
    EXPECT_EQ(error(0, kSs), kGeneralProtection << 16);
    EXPECT_EQ(error(0, kEs), -1);
    EXPECT_EQ(error(0x1000, kEs), kGeneralProtection << 16 | 0x1000);
    poke(kGdt + 32, 0x00cf'7300'0000'ffff);  // not present
    EXPECT_EQ(error(kUserData, kEs), kSegmentNotPresent << 16 | (kUserData & ~3));
    EXPECT_EQ(error(kUserData, kSs), kStackFault << 16 | (kUserData & ~3));
}

TEST_F(Exceptions, PagingTurnsLongModeOn) {
    long_mode(0);
    ctx.cr0 = cr0::kPe | cr0::kEt;
    ctx.efer = efer::kLme;
    ctx.segment[kCs].attributes = 0xc09b;
    write_cr0(ctx, cr0::kPe | cr0::kPg | cr0::kEt);
    EXPECT_TRUE(ctx.efer & efer::kLma);
    EXPECT_THROW(write_cr4(ctx, 0), GuestFault);
    EXPECT_THROW(write_cr4(ctx, cr4::kPae | cr4::kLa57), GuestFault);
    EXPECT_THROW(write_cr0(ctx, cr0::kPg), GuestFault);
    write_cr0(ctx, cr0::kPe);
    EXPECT_FALSE(ctx.efer & efer::kLma);
}

}  // namespace
}  // namespace vezha::engine::dbt
