// SPDX-License-Identifier: Apache-2.0
#include <Zydis/Decoder.h>

#include <initializer_list>

#include "engine/dbt/system_fixture.h"
#include "engine/dbt/tsc.h"

namespace vezha::engine::dbt {
namespace {

using namespace x86;

class Ports final : public bus::Device {
  public:
    u64 read(u32, u64 offset, unsigned) override { return 0x40 + offset + reads++; }
    void write(u32, u64, unsigned size, u64 value) override { written.push_back({size, value}); }
    u64 reads = 0;
    std::vector<std::pair<unsigned, u64>> written;
};

class SystemInstructions : public SystemFixture {
  protected:
    /// Executes one instruction as the translator would; rip moves on.
    Outcome run(std::initializer_list<u8> bytes) {
        Instruction in;
        in.rip = ctx.rip;
        std::copy(bytes.begin(), bytes.end(), in.bytes);
        ZydisDecoder decoder;
        const bool wide = in_code64(ctx);
        ZydisDecoderInit(&decoder, wide ? ZYDIS_MACHINE_MODE_LONG_64
                                        : ctx.segment[kCs].default32() ? ZYDIS_MACHINE_MODE_LEGACY_32 : ZYDIS_MACHINE_MODE_REAL_16,
                         wide ? ZYDIS_STACK_WIDTH_64 : ctx.segment[kCs].default32() ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_16);
        EXPECT_TRUE(ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, in.bytes, bytes.size(), &in.info, in.operands)));
        EXPECT_EQ(in.info.length, bytes.size());
        const Outcome outcome = execute_system(ctx, in);
        if (outcome == Outcome::Next) ctx.rip += in.info.length;
        return outcome;
    }
    void expect_fault(std::initializer_list<u8> bytes, u8 vector) {
        const u64 rip = ctx.rip;
        EXPECT_EQ(run(bytes), Outcome::Fault);
        EXPECT_EQ(ctx.fault.vector, vector);
        EXPECT_EQ(ctx.rip, rip);
        ctx.fault = {};
    }
};

TEST_F(SystemInstructions, PrivilegedOnesFaultInUserMode) {
    long_mode(3);
    expect_fault({0xf4}, kGeneralProtection);              // hlt
    expect_fault({0xfa}, kGeneralProtection);              // cli
    expect_fault({0x0f, 0x30}, kGeneralProtection);        // wrmsr
    expect_fault({0x0f, 0x20, 0xc0}, kGeneralProtection);  // mov rax, cr0
    expect_fault({0x0f, 0x01, 0xf8}, kGeneralProtection);  // swapgs
    expect_fault({0xec}, kGeneralProtection);              // in al, dx
    expect_fault({0x0f, 0x0b}, kInvalidOpcode);
    ctx.cr4 |= cr4::kUmip;
    expect_fault({0x0f, 0x01, 0x07}, kGeneralProtection);  // sgdt [rdi]
    expect_fault({0x0f, 0x01, 0xe0}, kGeneralProtection);  // smsw eax
}

TEST_F(SystemInstructions, ControlAndDescriptorRegisters) {
    long_mode(0);
    ctx.gpr[kRax] = ctx.cr4 | cr4::kPge;
    EXPECT_EQ(run({0x0f, 0x22, 0xe0}), Outcome::Jumped);
    EXPECT_TRUE(ctx.cr4 & cr4::kPge);
    EXPECT_EQ(ctx.rip, 0x5003u);
    ctx.gpr[kRax] = cr4::kLa57;
    expect_fault({0x0f, 0x22, 0xe0}, kGeneralProtection);
    ctx.gpr[kRdi] = 0x9000;
    EXPECT_EQ(run({0x0f, 0x01, 0x07}), Outcome::Next);  // sgdt [rdi]
    EXPECT_EQ(memory.read_object<u16>({0x9000}).value(), 0x37);
    EXPECT_EQ(peek(0x9002), kGdt);
    ctx.gdtr = {};
    EXPECT_EQ(run({0x0f, 0x01, 0x17}), Outcome::Next);  // lgdt [rdi]
    EXPECT_EQ(ctx.gdtr.base, kGdt);
    ctx.gpr[kRax] = kTssSelector;
    EXPECT_EQ(run({0x0f, 0x00, 0xd8}), Outcome::Next);  // ltr ax
    EXPECT_EQ(ctx.tr.base, kTss);
    expect_fault({0x0f, 0x00, 0xd8}, kGeneralProtection);  // busy now
    ctx.gpr[kRax] = 9;
    EXPECT_EQ(run({0x44, 0x0f, 0x22, 0xc0}), Outcome::Jumped);  // mov cr8, rax
    EXPECT_EQ(ctx.lapic->cr8(), 9u);
}

TEST_F(SystemInstructions, SyscallAndSysret) {
    long_mode(3);
    ctx.efer |= efer::kSce;
    ctx.star = u64{0x13} << 48 | u64{kCode} << 32;
    ctx.lstar = 0xffff'ffff'8100'0000;
    ctx.sfmask = rflags::kIf;
    EXPECT_EQ(run({0x0f, 0x05}), Outcome::Jumped);
    EXPECT_EQ(ctx.cpl, 0);
    EXPECT_EQ(ctx.rip, ctx.lstar);
    EXPECT_EQ(ctx.gpr[kRcx], 0x5002u);
    EXPECT_FALSE(ctx.flags & rflags::kIf);
    EXPECT_EQ(run({0x48, 0x0f, 0x07}), Outcome::Jumped);
    EXPECT_EQ(ctx.cpl, 3);
    EXPECT_EQ(ctx.segment[kCs].selector, 0x23);
    EXPECT_EQ(ctx.rip, 0x5002u);
    EXPECT_TRUE(ctx.flags & rflags::kIf);
}

TEST_F(SystemInstructions, FlagsByPrivilege) {
    long_mode(3);
    EXPECT_EQ(run({0x9c}), Outcome::Next);  // pushfq
    EXPECT_EQ(peek(ctx.gpr[kRsp]), 0x202u);
    poke(ctx.gpr[kRsp], 0x3000 | rflags::kAc | rflags::kCf);
    EXPECT_EQ(run({0x9d}), Outcome::Next);  // popfq: IF and IOPL stay
    EXPECT_EQ(ctx.flags, 0x202u | rflags::kAc | rflags::kCf);
    EXPECT_EQ(ctx.gpr[kRsp], 0x7008u);
    long_mode(0);
    ctx.flags = 2;
    EXPECT_EQ(run({0xfb}), Outcome::Next);
    EXPECT_TRUE(ctx.sti_shadow);
    EXPECT_TRUE(ctx.flags & rflags::kIf);
}

TEST_F(SystemInstructions, PortsThroughTheBitmap) {
    Ports ports;
    auto mapping = bus.map(bus::Space::Pio, 0x100, 8, ports, 0, "ports").value();
    long_mode(3);
    ctx.tr.limit = 0x67 + 0x30;
    ASSERT_TRUE(memory.write_object({kTss + 0x66}, u16{0x68}));
    ctx.gpr[kRdx] = 0x101;
    EXPECT_EQ(run({0xec}), Outcome::Next);
    EXPECT_EQ(ctx.gpr[kRax], 0x41u);
    ASSERT_TRUE(memory.write_object({kTss + 0x68 + 0x20}, u8{0x04}));
    expect_fault({0xed}, kGeneralProtection);  // in eax, dx covers port 0x102
    ctx.gpr[kRdx] = 0x100;
    ctx.gpr[kRsi] = 0x9000;
    ctx.gpr[kRcx] = 3;
    poke(0x9000, 0x0033'2211);
    EXPECT_EQ(run({0xf3, 0x6e}), Outcome::Next);  // rep outsb
    ASSERT_EQ(ports.written.size(), 3u);
    EXPECT_EQ(ports.written[2], (std::pair<unsigned, u64>{1, 0x33}));
    EXPECT_EQ(ctx.gpr[kRcx], 0u);
    EXPECT_EQ(ctx.gpr[kRsi], 0x9003u);
}

TEST_F(SystemInstructions, StringInputStopsAtAFaultWithItsProgressKept) {
    Ports ports;
    auto mapping = bus.map(bus::Space::Pio, 0x100, 8, ports, 0, "ports").value();
    long_mode(0);
    poke(kTables + 0x3000 + 8 * 10, 0);  // 0xa000 is not there
    ctx.gpr[kRdx] = 0x100;
    ctx.gpr[kRdi] = 0x9ffe;
    ctx.gpr[kRcx] = 4;
    EXPECT_EQ(run({0xf3, 0x6c}), Outcome::Fault);
    EXPECT_EQ(ctx.fault.vector, kPageFault);
    EXPECT_EQ(ctx.gpr[kRcx], 2u);
    EXPECT_EQ(ctx.gpr[kRdi], 0xa000u);
    EXPECT_EQ(ports.reads, 2u) << "no datum is lost";
}

TEST_F(SystemInstructions, RealModeFarTransfersAndProtectedModeEntry) {
    set_real_segment(ctx, kCs, 0);
    set_real_segment(ctx, kSs, 0);
    set_real_segment(ctx, kDs, 0);
    update_mode(ctx);
    ctx.rip = 0x600;
    ctx.gpr[kRsp] = 0x700;
    EXPECT_EQ(run({0x9a, 0x34, 0x12, 0x00, 0x20}), Outcome::Jumped);  // call 2000:1234
    EXPECT_EQ(ctx.segment[kCs].base + ctx.rip, 0x21234u);
    EXPECT_EQ(run({0xcb}), Outcome::Jumped);
    EXPECT_EQ(ctx.rip, 0x605u);
    EXPECT_EQ(ctx.gpr[kRsp], 0x700u);
    poke(kGdt + 8, 0x00cf'9b00'0000'ffff);
    poke(kGdt + 16, 0x00cf'9300'0000'ffff);
    ctx.gdtr = {kGdt, 0x17};
    ctx.gpr[kRax] = cr0::kPe;
    EXPECT_EQ(run({0x0f, 0x22, 0xc0}), Outcome::Jumped);
    EXPECT_EQ(run({0xea, 0x00, 0x50, 0x08, 0x00}), Outcome::Jumped);
    EXPECT_TRUE(ctx.code32);
    EXPECT_EQ(ctx.rip, 0x5000u);
    ctx.gpr[kRax] = kData;
    EXPECT_EQ(run({0x8e, 0xd0}), Outcome::Next);  // mov ss, ax
    EXPECT_TRUE(ctx.mov_ss_shadow);
    EXPECT_EQ(ctx.segment[kSs].limit, 0xffff'ffffu);
}

TEST_F(SystemInstructions, DescriptorQueries) {
    long_mode(3);
    ctx.gpr[kRax] = kUserData;
    EXPECT_EQ(run({0x0f, 0x02, 0xc8}), Outcome::Next);  // lar ecx, eax
    EXPECT_TRUE(ctx.flags & rflags::kZf);
    EXPECT_EQ(ctx.gpr[kRcx], 0x00c0'f300u);
    EXPECT_EQ(run({0x0f, 0x03, 0xc8}), Outcome::Next);  // lsl
    EXPECT_EQ(ctx.gpr[kRcx], 0xffff'ffffu);
    ctx.gpr[kRax] = kData;
    EXPECT_EQ(run({0x0f, 0x00, 0xe0}), Outcome::Next);  // verr ax
    EXPECT_FALSE(ctx.flags & rflags::kZf);
}

TEST_F(SystemInstructions, CpuidShowsTheHypervisorAndFollowsCr4) {
    long_mode(3);
    ctx.gpr[kRax] = 0x4000'0000;
    EXPECT_EQ(run({0x0f, 0xa2}), Outcome::Next);
    EXPECT_EQ(ctx.gpr[kRbx], 0x4b4d'564bu);
    ctx.gpr[kRax] = 1;
    run({0x0f, 0xa2});
    EXPECT_FALSE(ctx.gpr[kRcx] >> 27 & 1);
    EXPECT_TRUE(ctx.gpr[kRcx] >> 31 & 1);
    ctx.cr4 |= cr4::kOsxsave;
    ctx.gpr[kRax] = 1;
    run({0x0f, 0xa2});
    EXPECT_TRUE(ctx.gpr[kRcx] >> 27 & 1);
}

TEST_F(SystemInstructions, HypercallsAnswer) {
    long_mode(0);
    ctx.gpr[kRax] = 0x1234;
    EXPECT_EQ(run({0x0f, 0x01, 0xc1}), Outcome::Next);
    EXPECT_EQ(ctx.gpr[kRax], static_cast<u64>(-1000));
    contexts[1]->lapic->mmio_write(lapic::kSpurious, 0x1ff);
    ctx.gpr[kRax] = 10;
    ctx.gpr[kRbx] = 2;
    ctx.gpr[kRcx] = ctx.gpr[kRdx] = 0;
    ctx.gpr[kRsi] = 0x77;
    EXPECT_EQ(run({0x0f, 0x01, 0xd9}), Outcome::Next);
    EXPECT_EQ(ctx.gpr[kRax], 1u);
    EXPECT_TRUE(contexts[1]->attention & attention::kInterrupt);
}

}  // namespace
}  // namespace vezha::engine::dbt
