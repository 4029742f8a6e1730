// SPDX-License-Identifier: Apache-2.0
#include "engine/kvm/kvm_engine.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "arch/x86/registers.h"
#include "base/time.h"

namespace vezha::engine::kvm {
namespace {

using namespace std::chrono_literals;

class EndPort final : public bus::Device {
  public:
    u64 read(u32, u64, unsigned) override { return 0; }
    void write(u32, u64, unsigned, u64 v) override {
        value = v;
        ++writes;
        if (vcpu) vcpu->kick();
    }
    u64 value = 0;
    std::atomic<int> writes{0};
    Vcpu* vcpu = nullptr;
};

class KvmEngine : public testing::Test {
  protected:
    void SetUp() override {
        if (auto caps = probe(); !caps) GTEST_SKIP() << caps.error().to_string();
        loop_ = *LoopThread::start("test");
        clock_ = std::make_unique<bus::GuestClock>(loop_->loop());
        ASSERT_TRUE(memory_.add_region("ram", {0}, 1 * kMiB));
        port_ = *bus_.map(bus::Space::Pio, 0xf4, 1, end_, 0, "end");
    }
    void TearDown() override {
        watchdog_.reset();
        vcpu_.reset();
        vm_.reset();
    }
    void make(const Options& options = {}) {
        auto vm = create({.memory = memory_, .bus = bus_, .clock = *clock_}, options);
        ASSERT_TRUE(vm) << vm.error().to_string();
        vm_ = *std::move(vm);
        const Capabilities& caps = vm_->capabilities();
        auto model = x86::make_cpu_model("host", caps.cpuid, caps.xcr0, caps.tsc_hz, 1);
        ASSERT_TRUE(model) << model.error().to_string();
        auto vcpu = vm_->new_vcpu(0, *model);
        ASSERT_TRUE(vcpu) << vcpu.error().to_string();
        vcpu_ = *std::move(vcpu);
        end_.vcpu = vcpu_.get();
        watchdog_ = loop_->loop().new_timer([this] { vcpu_->kick(); });
        watchdog_->arm(monotonic_ns() + 8 * kNsPerSec);
    }
    /// Real-mode code at 0:1000.
    void load(std::initializer_list<u8> code) {
        ASSERT_TRUE(memory_.load({0x1000}, std::vector<u8>(code)));
        x86::CpuState s = x86::reset_state(true, 0);
        s.segment[x86::kCs] = x86::real_mode_segment(0);
        s.segment[x86::kCs].attributes = 0x9b;
        s.rip = 0x1000;
        auto loaded = vcpu_->load(s);
        ASSERT_TRUE(loaded) << loaded.error().to_string();
    }
    void check_dirty(const Options& options);

    std::unique_ptr<LoopThread> loop_;
    std::unique_ptr<bus::GuestClock> clock_;
    memory::GuestMemory memory_{{.huge_pages = false}};
    bus::Bus bus_;
    EndPort end_;
    std::unique_ptr<bus::Bus::Mapping> port_;
    std::unique_ptr<Vm> vm_;
    std::unique_ptr<Vcpu> vcpu_;
    std::unique_ptr<EventLoop::Timer> watchdog_;  ///< ends a run that hangs
};

TEST_F(KvmEngine, PortWriteEndsAndStateReads) {
    make();
    load({0xb0, 0x2a, 0xe6, 0xf4, 0xeb, 0xfe});  // mov al,42; out f4,al; jmp .
    EXPECT_EQ(vcpu_->run(), Exit::Kicked);
    EXPECT_EQ(end_.value, 42u);
    auto state = vcpu_->save();
    ASSERT_TRUE(state) << state.error().to_string();
    EXPECT_EQ(state->gpr[x86::kRax] & 0xff, 42u);
    EXPECT_EQ(state->rip, 0x1004u) << "the port write is complete";
    EXPECT_NE(vcpu_->thread_id(), 0);
    auto statistics = vm_->statistics();
    EXPECT_TRUE(std::any_of(statistics.begin(), statistics.end(), [](const auto& s) { return s.first == "exits.pio" && s.second == 1; }));
}

TEST_F(KvmEngine, KickBeforeRunIsNotLost) {
    make();
    load({0xeb, 0xfe});
    vcpu_->kick();
    EXPECT_EQ(vcpu_->run(), Exit::Kicked);
    std::thread kicker([this] {
        std::this_thread::sleep_for(20ms);
        vcpu_->kick();
    });
    EXPECT_EQ(vcpu_->run(), Exit::Kicked);
    kicker.join();
    // Many kicks at arbitrary moments: each run() comes back.
    std::atomic<bool> stop{false};
    std::thread storm([&] {
        while (!stop) vcpu_->kick();
    });
    for (int i = 0; i < 200; ++i) ASSERT_EQ(vcpu_->run(), Exit::Kicked);
    stop = true;
    storm.join();
}

TEST_F(KvmEngine, HaltedVcpuWakesByKick) {
    make();
    load({0xf4, 0xeb, 0xfd});
    std::thread kicker([this] {
        std::this_thread::sleep_for(20ms);
        vcpu_->kick();
    });
    EXPECT_EQ(vcpu_->run(), Exit::Kicked);
    kicker.join();
    auto state = vcpu_->save();
    ASSERT_TRUE(state);
    EXPECT_EQ(state->mp_state, x86::MpState::Halted);
}

void KvmEngine::check_dirty(const Options& options) {
    make(options);
    // mov ax,2000h; mov ds,ax; mov [0],al; mov [3000h],al; out f4,al; mov [5000h],al; out f4,al; jmp .
    load({0xb8, 0x00, 0x20, 0x8e, 0xd8, 0xa2, 0x00, 0x00, 0xa2, 0x00, 0x30, 0xe6, 0xf4, 0xa2, 0x00, 0x50, 0xe6, 0xf4, 0xeb, 0xfe});
    memory_.set_dirty_logging(true);
    ASSERT_TRUE(vm_->set_dirty_logging(true));
    auto dirty = [this] {
        auto collected = vm_->collect_dirty();
        EXPECT_TRUE(collected) << collected.error().to_string();
        std::vector<u64> pages;
        const std::vector<u64> words = memory_.regions()[0]->dirty().take();
        for (u64 page = 0; page < words.size() * 64; ++page)
            if (words[page / 64] >> (page % 64) & 1) pages.push_back(page);
        return pages;
    };
    EXPECT_EQ(dirty(), (std::vector<u64>{}));
    EXPECT_EQ(vcpu_->run(), Exit::Kicked);
    EXPECT_EQ(dirty(), (std::vector<u64>{0x20, 0x23}));
    EXPECT_EQ(vcpu_->run(), Exit::Kicked);
    EXPECT_EQ(dirty(), (std::vector<u64>{0x25})) << "only what was written since";
    ASSERT_TRUE(vm_->set_dirty_logging(false));
}
TEST_F(KvmEngine, DirtyBitmap) { check_dirty({.dirty_tracking = DirtyTracking::Bitmap}); }
TEST_F(KvmEngine, DirtyRing) {
    if (!probe()->dirty_ring) GTEST_SKIP() << "this host's KVM has no dirty ring";
    check_dirty({.dirty_tracking = DirtyTracking::Ring});
}

TEST_F(KvmEngine, DirtyRingThatFillsUpLosesNothing) {
    if (!probe()->dirty_ring) GTEST_SKIP() << "this host's KVM has no dirty ring";
    ASSERT_TRUE(memory_.add_region("more", {16 * kMiB}, 128 * kMiB));
    make({.dirty_tracking = DirtyTracking::Ring});
    // 32-bit flat: a byte into each page of 16-144 MiB, twice the ring's size.
    // mov edi,1000000h; l: mov [edi],al; add edi,1000h; cmp edi,9000000h; jb l; out f4,al; jmp .
    load({0xbf, 0x00, 0x00, 0x00, 0x01, 0x88, 0x07, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, 0x81, 0xff, 0x00, 0x00, 0x00, 0x09,
          0x72, 0xf0, 0xe6, 0xf4, 0xeb, 0xfe});
    auto state = vcpu_->save();
    ASSERT_TRUE(state);
    state->cr0 |= x86::cr0::kPe;
    state->segment.fill(x86::flat_data());
    state->segment[x86::kCs] = x86::flat_code32();
    ASSERT_TRUE(vcpu_->load(*state));
    memory_.set_dirty_logging(true);
    ASSERT_TRUE(vm_->set_dirty_logging(true));
    ASSERT_EQ(vcpu_->run(), Exit::Kicked) << vcpu_->last_error().to_string();
    if (end_.writes == 0 && !self_test()) GTEST_SKIP() << self_test().error().message();
    ASSERT_TRUE(vm_->collect_dirty());
    u64 count = 0;
    for (u64 word : memory_.find({16 * kMiB})->dirty().take()) count += static_cast<u64>(__builtin_popcountll(word));
    // KVM without hardware runs many instructions between its looks at the ring, which then overflows.
    if (count != 128 * kMiB / kPageSize && !self_test()) GTEST_SKIP() << self_test().error().message();
    EXPECT_EQ(count, 128 * kMiB / kPageSize);
}

TEST_F(KvmEngine, ReadOnlyMemoryKeepsItsBytes) {
    ASSERT_TRUE(memory_.add_region("rom", {0xf'0000 + kMiB}, 0x10000, true));
    make();
    // Writes to read-only memory go to the bus, where nobody answers.
    // mov ax,ffffh; mov ds,ax; mov byte [0010h+...]: 1 MiB + f0000 is out of reach in real mode, so use 32-bit flat.
    load({0xc6, 0x05, 0x00, 0x00, 0x1f, 0x00, 0x55, 0xa0, 0x00, 0x00, 0x1f, 0x00, 0xe6, 0xf4, 0xeb, 0xfe});
    auto state = vcpu_->save();
    ASSERT_TRUE(state);
    state->cr0 |= x86::cr0::kPe;
    state->segment.fill(x86::flat_data());
    state->segment[x86::kCs] = x86::flat_code32();
    ASSERT_TRUE(vcpu_->load(*state));
    ASSERT_EQ(vcpu_->run(), Exit::Kicked) << vcpu_->last_error().to_string();
    EXPECT_EQ(end_.value, 0u);
}

TEST_F(KvmEngine, TripleFaultIsAShutdown) {
    make();
    load({0x0f, 0x0b});  // ud2 with an empty vector table
    auto state = vcpu_->save();
    ASSERT_TRUE(state);
    state->cr0 |= x86::cr0::kPe;
    state->segment.fill(x86::flat_data());
    state->segment[x86::kCs] = x86::flat_code32();
    state->idtr = {0, 0};
    ASSERT_TRUE(vcpu_->load(*state));
    const Exit exit = vcpu_->run();
    if (exit == Exit::Error && !self_test()) GTEST_SKIP() << self_test().error().message();
    EXPECT_EQ(exit, Exit::Shutdown);
}

TEST_F(KvmEngine, TimeStandsStillWhilePaused) {
    make();
    load({0xeb, 0xfe});
    vm_->resumed();
    vm_->paused();
    const u64 before = vcpu_->save()->tsc;
    std::this_thread::sleep_for(20ms);
    const u64 later = vcpu_->save()->tsc;
    EXPECT_EQ(before, later);
    const u64 clock = vcpu_->save()->kvm_clock_ns;
    x86::CpuState state = *vcpu_->save();
    state.tsc = 1000;
    ASSERT_TRUE(vcpu_->load(state));
    if (vcpu_->save()->tsc != 1000) GTEST_SKIP() << "this host's KVM cannot move the guest's TSC";
    state.tsc = before;
    ASSERT_TRUE(vcpu_->load(state));
    vm_->resumed();
    const u64 after = vcpu_->save()->tsc;
    EXPECT_GE(after, before);
    EXPECT_LT(after - before, vm_->capabilities().tsc_hz / 100) << "less than the 20 ms of the pause";
    EXPECT_GE(vcpu_->save()->kvm_clock_ns, clock);
}

TEST_F(KvmEngine, StateSurvivesLoadAndSave) {
    make();
    load({0xeb, 0xfe});
    auto s = vcpu_->save();
    ASSERT_TRUE(s);
    for (u64 i = 0; i < 16; ++i) s->gpr[i] = 0x1111'1111'0000'0000 + i;
    s->dr[0] = 0x1234;
    s->cr8 = 3;
    s->events.nmi_masked = true;
    s->events.interrupt_injected = true;
    s->events.interrupt_vector = 0x44;
    s->set_msr(x86::msr::kLstar, 0xffff'ffff'8000'1000);
    s->xsave.bytes[160] = 0x5a;  // xmm0
    s->xsave.bytes[512] = 3;     // XSTATE_BV
    s->mp_state = x86::MpState::Halted;
    s->lapic.registers[x86::lapic::kSpurious + 1] = 1;  // enabled
    s->apic_base |= x86::apic_base::kX2apic;
    auto loaded = vcpu_->load(*s);
    ASSERT_TRUE(loaded) << loaded.error().to_string();
    auto t = vcpu_->save();
    ASSERT_TRUE(t);
    EXPECT_EQ(t->gpr, s->gpr);
    EXPECT_EQ(t->dr, s->dr);
    EXPECT_EQ(t->cr8, s->cr8);
    EXPECT_TRUE(t->events.nmi_masked);
    EXPECT_TRUE(t->events.interrupt_injected);
    EXPECT_EQ(t->events.interrupt_vector, 0x44);
    EXPECT_EQ(*t->find_msr(x86::msr::kLstar), 0xffff'ffff'8000'1000u);
    EXPECT_EQ(t->xsave.bytes[160], 0x5a);
    EXPECT_EQ(t->mp_state, x86::MpState::Halted);
    EXPECT_EQ(t->apic_base, s->apic_base);
    EXPECT_EQ(t->lapic.registers[x86::lapic::kSpurious + 1] & 1, 1);
    for (usize i = 0; i < 6; ++i) EXPECT_EQ(t->segment[i].base, s->segment[i].base);
}

TEST_F(KvmEngine, MemoryOverKvmsPagesIsRefused) {
    ASSERT_TRUE(memory_.add_region("wrong", {kReservedBase}, kPageSize));
    auto vm = create({.memory = memory_, .bus = bus_, .clock = *clock_});
    ASSERT_FALSE(vm);
    EXPECT_EQ(vm.error().code(), ErrorCode::InvalidArgument);
}

TEST_F(KvmEngine, RoutesComeAndGo) {
    make();
    std::vector<std::unique_ptr<bus::MsiRoute>> routes;
    for (int i = 0; i < 64; ++i) {
        auto route = vm_->msi().new_route();
        ASSERT_TRUE(route);
        (*route)->set({0xfee0'0000, 0x40});
        EXPECT_GE((*route)->event_fd(), 0);
        (*route)->trigger();
        routes.push_back(*std::move(route));
    }
    for (u32 pin = 0; pin < 24; ++pin) vm_->set_ioapic_route(pin, {0xfee0'0000, 0x50 + pin}, true, false);
    routes.erase(routes.begin(), routes.begin() + 32);
    auto again = vm_->msi().new_route();
    ASSERT_TRUE(again);
}

TEST(KvmSelfTest, AnswersWithinItsBound) {
    if (!probe()) GTEST_SKIP() << probe().error().to_string();
    const Result<> r = self_test();
    if (!r) {
        EXPECT_NE(r.error().message().find("the host's KVM cannot"), std::string::npos) << r.error().message();
        EXPECT_FALSE(r.error().hint().empty());
    }
}

TEST(KvmProbe, SaysWhatTheHostOffers) {
    auto caps = probe();
    if (!caps) {
        EXPECT_FALSE(caps.error().message().empty());
        GTEST_SKIP() << caps.error().to_string();
    }
    EXPECT_EQ(caps->name, "kvm");
    EXPECT_GT(caps->max_vcpus, 0u);
    EXPECT_GT(caps->tsc_hz, 0u);
    EXPECT_TRUE(x86::make_cpu_model("host", caps->cpuid, caps->xcr0, caps->tsc_hz, 2));
}

}  // namespace
}  // namespace vezha::engine::kvm
