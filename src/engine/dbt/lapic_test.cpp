// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/lapic.h"

#include "engine/dbt/msr.h"
#include "engine/dbt/paravirtual.h"
#include "engine/dbt/system_fixture.h"
#include "engine/dbt/tsc.h"

namespace vezha::engine::dbt {
namespace {

using namespace x86;

class LapicTest : public SystemFixture {
  protected:
    LapicTest() {
        for (auto& c : contexts) c->lapic->mmio_write(x86::lapic::kSpurious, 0x1ff);
    }
    Lapic& apic(u32 i) { return *contexts[i]->lapic; }
    bool requested(u32 i, u8 vector) { return apic(i).mmio_read(x86::lapic::kIrr + vector / 32 * 16) >> (vector & 31) & 1; }
    void take(u32 i) { apic(i).acknowledge(static_cast<u8>(apic(i).pending_vector())); }
};

TEST_F(LapicTest, PrioritiesAndEndOfInterrupt) {
    apic(0).post({.vector = 0x31});
    apic(0).post({.vector = 0x52});
    EXPECT_EQ(apic(0).pending_vector(), 0x52);
    take(0);
    EXPECT_EQ(apic(0).pending_vector(), -1) << "a lower class waits";
    apic(0).post({.vector = 0x5f});
    EXPECT_EQ(apic(0).pending_vector(), -1) << "the same class waits";
    apic(0).post({.vector = 0x60});
    EXPECT_EQ(apic(0).pending_vector(), 0x60);
    apic(0).mmio_write(x86::lapic::kEoi, 0);
    EXPECT_EQ(apic(0).pending_vector(), 0x60);
    take(0);
    apic(0).mmio_write(x86::lapic::kEoi, 0);
    apic(0).set_cr8(5);
    EXPECT_EQ(apic(0).pending_vector(), -1);
    apic(0).set_cr8(0);
    EXPECT_EQ(apic(0).pending_vector(), 0x5f);
    EXPECT_TRUE(completed.empty());
}

TEST_F(LapicTest, LevelInterruptsReportTheirEnd) {
    fabric->send({.address = 0xfee0'0000, .data = 0xc045});
    ASSERT_EQ(apic(0).pending_vector(), 0x45);
    take(0);
    apic(0).mmio_write(x86::lapic::kEoi, 0);
    EXPECT_EQ(completed, std::vector<u8>{0x45});
}

TEST_F(LapicTest, DestinationsAndShorthands) {
    fabric->send({.address = 0xfee0'1000, .data = 0x41});
    EXPECT_TRUE(requested(1, 0x41));
    EXPECT_FALSE(requested(0, 0x41));
    fabric->send({.address = 0xfeef'f000, .data = 0x42});
    EXPECT_TRUE(requested(0, 0x42) && requested(1, 0x42));
    apic(0).mmio_write(x86::lapic::kLdr, 1u << 24);
    apic(1).mmio_write(x86::lapic::kLdr, 2u << 24);
    fabric->send({.address = 0xfee0'2004, .data = 0x43});
    EXPECT_TRUE(requested(1, 0x43));
    EXPECT_FALSE(requested(0, 0x43));
    fabric->send({.address = 0xfee0'3004, .data = 0x144});  // lowest priority: one of both
    EXPECT_NE(requested(0, 0x44), requested(1, 0x44));
    apic(0).mmio_write(x86::lapic::kIcrLow, 3 << 18 | 0x50);
    EXPECT_TRUE(requested(1, 0x50));
    EXPECT_FALSE(requested(0, 0x50));
    apic(0).mmio_write(x86::lapic::kIcrLow, 1 << 18 | 0x51);
    EXPECT_TRUE(requested(0, 0x51));
}

TEST_F(LapicTest, X2apicModeAndItsTransitions) {
    const u64 base = 0xfee0'0900;
    EXPECT_FALSE(write_msr(ctx, msr::kApicBase, (base & ~u64{0x800}) | 0x400));
    u64 value = 0;
    EXPECT_FALSE(read_msr(ctx, 0x802, value)) << "not yet in x2APIC mode";
    for (auto& c : contexts) ASSERT_TRUE(write_msr(*c, msr::kApicBase, c->apic_base | 0x400));
    EXPECT_FALSE(write_msr(ctx, msr::kApicBase, base));
    ASSERT_TRUE(read_msr(*contexts[1], 0x802, value));
    EXPECT_EQ(value, 1u);
    ASSERT_TRUE(read_msr(*contexts[1], 0x80d, value));
    EXPECT_EQ(value, 2u);
    EXPECT_TRUE(write_msr(ctx, 0x830, u64{1} << 32 | 0x61));
    EXPECT_TRUE(requested(1, 0x61));
    EXPECT_TRUE(write_msr(ctx, 0x830, u64{2} << 32 | 1 << 11 | 0x62));
    EXPECT_TRUE(requested(1, 0x62));
    EXPECT_TRUE(write_msr(ctx, 0x83f, 0x63));
    EXPECT_TRUE(requested(0, 0x63));
    EXPECT_FALSE(write_msr(ctx, 0x802, 5));
    EXPECT_FALSE(write_msr(ctx, 0x80b, 1));
}

TEST_F(LapicTest, TimerOneShotAndPeriodic) {
    apic(0).mmio_write(x86::lapic::kTimerDivide, 0xb);
    apic(0).mmio_write(x86::lapic::kLvtTimer, 0x70);
    apic(0).mmio_write(x86::lapic::kTimerInitial, 1000);
    clock.advance(400);
    EXPECT_EQ(apic(0).mmio_read(x86::lapic::kTimerCurrent), 600u);
    EXPECT_FALSE(requested(0, 0x70));
    clock.advance(600);
    EXPECT_TRUE(requested(0, 0x70));
    EXPECT_EQ(apic(0).mmio_read(x86::lapic::kTimerCurrent), 0u);
    take(0);
    apic(0).mmio_write(x86::lapic::kEoi, 0);

    apic(0).mmio_write(x86::lapic::kLvtTimer, 1 << 17 | 0x71);
    apic(0).mmio_write(x86::lapic::kTimerInitial, 500);
    for (int i = 0; i < 3; ++i) {
        clock.advance(500);
        EXPECT_TRUE(requested(0, 0x71)) << i;
        take(0);
        apic(0).mmio_write(x86::lapic::kEoi, 0);
    }
}

TEST_F(LapicTest, TscDeadlineInThePastFiresAtOnce) {
    apic(0).mmio_write(x86::lapic::kLvtTimer, 2 << 17 | 0x72);
    EXPECT_TRUE(write_msr(ctx, msr::kTscDeadline, guest_tsc(ctx) + host_tsc_hz() * 3600));
    EXPECT_FALSE(requested(0, 0x72));
    u64 value = 0;
    EXPECT_TRUE(read_msr(ctx, msr::kTscDeadline, value));
    EXPECT_NE(value, 0u);
    EXPECT_TRUE(write_msr(ctx, msr::kTscDeadline, 1));
    EXPECT_TRUE(requested(0, 0x72));
    EXPECT_TRUE(read_msr(ctx, msr::kTscDeadline, value));
    EXPECT_EQ(value, 0u);
}

TEST_F(LapicTest, StateSurvivesSaveAndLoad) {
    long_mode(3);
    apic(0).post({.vector = 0x33});
    apic(0).mmio_write(x86::lapic::kTpr, 0x20);
    apic(0).mmio_write(x86::lapic::kTimerDivide, 0xb);
    apic(0).mmio_write(x86::lapic::kLvtTimer, 0x70);
    apic(0).mmio_write(x86::lapic::kTimerInitial, 1000);
    clock.advance(300);
    ASSERT_TRUE(write_msr(ctx, msr::kLstar, 0x1234));
    const CpuState saved = to_cpu_state(ctx);
    ctx.gpr = {};
    apic(0).reset();
    ASSERT_TRUE(from_cpu_state(ctx, saved));
    EXPECT_EQ(ctx.cpl, 3);
    EXPECT_EQ(ctx.lstar, 0x1234u);
    EXPECT_TRUE(requested(0, 0x33));
    EXPECT_EQ(ctx.lapic->cr8(), 2u);
    EXPECT_EQ(apic(0).mmio_read(x86::lapic::kTimerCurrent), 700u);
    clock.advance(700);
    EXPECT_TRUE(requested(0, 0x70));
    CpuState broken = saved;
    broken.cr0 &= ~cr0::kPe;
    EXPECT_FALSE(from_cpu_state(ctx, broken));
}

TEST_F(LapicTest, UnknownMsrsDoNotExist) {
    u64 value = 0;
    EXPECT_FALSE(read_msr(ctx, 0x12345, value));
    EXPECT_FALSE(write_msr(ctx, 0x12345, 0));
    EXPECT_FALSE(write_msr(ctx, msr::kLstar, u64{1} << 63));
    EXPECT_FALSE(write_msr(ctx, msr::kPat, 2));
    EXPECT_FALSE(write_msr(ctx, msr::kEfer, 1 << 1));
    EXPECT_TRUE(write_msr(ctx, msr::kTsc, 0));
    EXPECT_LT(guest_tsc(ctx), host_tsc_hz());
}

TEST_F(LapicTest, ParavirtualClockIsTheTsc) {
    ASSERT_TRUE(write_msr(ctx, msr::kKvmSystemTime, 0x9001));
    const u32 version = memory.read_object<u32>({0x9000}).value();
    EXPECT_EQ(version & 1, 0u);
    const u64 before = paravirtual_clock_ns(ctx);
    EXPECT_LT(before, 60 * kNsPerSec);
    const u32 mul = memory.read_object<u32>({0x9018}).value();
    const i8 shift = memory.read_object<i8>({0x901c}).value();
    const double hz = 1e9 * 4294967296.0 / mul / (shift >= 0 ? double(1 << shift) : 1.0 / (1 << -shift));
    EXPECT_NEAR(hz, static_cast<double>(host_tsc_hz()), 1000.0);
}

}  // namespace
}  // namespace vezha::engine::dbt
