// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <memory>

#include "arch/x86/cpu_state.h"
#include "bus/clock.h"
#include "engine/dbt/dbt_engine.h"
#include "engine/dbt/lapic.h"
#include "engine/dbt/segments.h"
#include "engine/dbt/vcpu.h"

namespace vezha::engine::dbt {

/// Two processors that do not run, for tests of the system part: memory, a clock moved by hand.
class SystemFixture : public ::testing::Test {
  protected:
    static constexpr u64 kGdt = 0x1000, kIdt = 0x2000, kTss = 0x3000, kStack = 0x8000, kTables = 0x10000;
    static constexpr u16 kCode = 0x08, kData = 0x10, kUserCode = 0x1b, kUserData = 0x23, kTssSelector = 0x28;

    struct Machine {
        memory::GuestMemory memory{{.huge_pages = false}};
        bus::Bus bus;
        bus::ManualClock clock;
        std::vector<u8> completed;
        VmWiring wiring{memory, bus, clock, nullptr, [this](u8 vector) { completed.push_back(vector); }};
        std::unique_ptr<Vm> vm;
        std::unique_ptr<Vcpu> vcpus[2];
        Machine() {
            EXPECT_TRUE(memory.add_pc_ram(kMiB * 4));
            vm = dbt::create(wiring).value();
            const x86::CpuModel model{.name = "test", .cpuid = supported_cpuid(), .xcr0 = supported_xcr0(), .msrs = {},
                                      .tsc_hz = host_tsc_hz(), .vcpus = 2};
            for (u32 i = 0; i < 2; ++i) {
                vcpus[i] = vm->new_vcpu(i, model).value();
                EXPECT_TRUE(from_cpu_state(context(i), x86::reset_state(i == 0, i)));
                context(i).attention = 0;
            }
        }
        Context& context(u32 i) { return static_cast<VcpuImpl&>(*vcpus[i]).run_state().ctx; }
    };
    Machine machine;
    memory::GuestMemory& memory = machine.memory;
    bus::Bus& bus = machine.bus;
    bus::ManualClock& clock = machine.clock;
    std::vector<u8>& completed = machine.completed;
    bus::MsiSink* fabric = &machine.vm->msi();
    Context& ctx = machine.context(0);
    Context* contexts[2] = {&machine.context(0), &machine.context(1)};

    u64 peek(u64 gpa) { return memory.read_object<u64>({gpa}).value(); }
    void poke(u64 gpa, u64 value) { EXPECT_TRUE(memory.write_object({gpa}, value)); }

    void gate(u8 vector, u64 offset, unsigned type, unsigned dpl = 0, unsigned ist = 0) {
        poke(kIdt + vector * 16u, (offset & 0xffff) | u64{kCode} << 16 | u64{ist} << 32 | u64{type} << 40 | u64{dpl} << 45 |
                                      u64{1} << 47 | (offset >> 16 & 0xffff) << 48);
        poke(kIdt + vector * 16u + 8, offset >> 32);
    }

    /// 64-bit mode at CPL `cpl`: the first 2 MiB identity-mapped by 4 KiB pages, all user and writable.
    void long_mode(unsigned cpl) {
        poke(kTables, (kTables + 0x1000) | 7);
        poke(kTables + 0x1000, (kTables + 0x2000) | 7);
        poke(kTables + 0x2000, (kTables + 0x3000) | 7);
        for (u64 i = 0; i < 512; ++i) poke(kTables + 0x3000 + 8 * i, i << 12 | 7);
        const u64 code64 = 0x00af'9b00'0000'ffff, data = 0x00cf'9300'0000'ffff, ring3 = u64{3} << 45;
        poke(kGdt + 8, code64);
        poke(kGdt + 16, data);
        poke(kGdt + 24, code64 | ring3);
        poke(kGdt + 32, data | ring3);
        poke(kGdt + 40, 0x0000'8900'0000'0067 | kTss << 16);
        poke(kGdt + 48, 0);
        poke(kTss + 4, kStack);        // RSP0
        poke(kTss + 0x24, kStack + 0x1000);  // IST1
        EXPECT_TRUE(memory.write_object({kTss + 0x66}, u16{0xffff}));  // no I/O bitmap
        ctx.gdtr = {kGdt, 0x37};
        ctx.idtr = {kIdt, 0xfff};
        ctx.cr0 = x86::cr0::kPe | x86::cr0::kPg | x86::cr0::kEt | x86::cr0::kWp;
        ctx.cr4 = x86::cr4::kPae;
        ctx.efer = x86::efer::kLme | x86::efer::kLma | x86::efer::kNxe;
        ctx.cr3 = kTables;
        ctx.tr = {kTssSelector, 0x8b, 0x67, kTss};
        const u16 dpl = static_cast<u16>(cpl << 5);
        ctx.segment[x86::kCs] = {cpl ? kUserCode : kCode, static_cast<u16>(0xa09b | dpl), 0xffff'ffff, 0};
        for (auto i : {x86::kSs, x86::kDs, x86::kEs})
            ctx.segment[i] = {cpl ? kUserData : kData, static_cast<u16>(0xc093 | dpl), 0xffff'ffff, 0};
        ctx.cpl = static_cast<u8>(cpl);
        ctx.rip = 0x5000;
        ctx.flags = 0x202;
        ctx.gpr[x86::kRsp] = 0x7008;
        update_mode(ctx);
    }
};

}  // namespace vezha::engine::dbt
