// SPDX-License-Identifier: Apache-2.0
#include "machine/vcpu_group.h"

#include <gtest/gtest.h>

#include <atomic>

namespace vezha::machine {
namespace {

/// Runs until kicked, or ends by itself when told.
class FakeVcpu final : public engine::Vcpu {
  public:
    engine::Exit run() override {
        runs.fetch_add(1);
        running = true;
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return kicked_ || wanted_ != engine::Exit::Kicked; });
        kicked_ = false;
        running = false;
        return std::exchange(wanted_, engine::Exit::Kicked);
    }
    void kick() override {
        std::lock_guard lock(mutex_);
        kicked_ = true;
        changed_.notify_all();
    }
    void end_with(engine::Exit exit) {
        std::lock_guard lock(mutex_);
        wanted_ = exit;
        changed_.notify_all();
    }
    void nmi() override {}
    Error last_error() const override { return {ErrorCode::Internal, "fake"}; }
    Result<x86::CpuState> save() override { return x86::CpuState{}; }
    Result<> load(const x86::CpuState&) override { return {}; }
    int thread_id() const override { return 0; }
    std::atomic<u32> runs{0};
    std::atomic<bool> running{false};

  private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool kicked_ = false;
    engine::Exit wanted_ = engine::Exit::Kicked;
};

struct Group : ::testing::Test {
    std::vector<FakeVcpu*> vcpus;
    std::atomic<u32> stopped{0};
    std::atomic<bool> park_when_stopped{false};
    std::unique_ptr<VcpuGroup> group;

    void SetUp() override {
        std::vector<std::unique_ptr<engine::Vcpu>> owned;
        for (int i = 0; i < 3; ++i) {
            owned.push_back(std::make_unique<FakeVcpu>());
            vcpus.push_back(static_cast<FakeVcpu*>(owned.back().get()));
        }
        group = std::make_unique<VcpuGroup>(std::move(owned), [this](u32, engine::Exit) {
            if (park_when_stopped) group->request_park();
            ++stopped;
        });
    }
    template <class Condition>
    static void eventually(Condition condition) {
        for (int i = 0; i < 20000 && !condition(); ++i) std::this_thread::sleep_for(std::chrono::microseconds(100));
        EXPECT_TRUE(condition());
    }
};

TEST_F(Group, StartsParkedAndRunsWhenResumed) {
    group->start("test");
    EXPECT_TRUE(group->parked());
    EXPECT_EQ(vcpus[0]->runs, 0u);
    group->resume();
    for (auto* vcpu : vcpus) eventually([&] { return vcpu->running.load(); });
    group->park();
    for (auto* vcpu : vcpus) EXPECT_FALSE(vcpu->running);
    EXPECT_TRUE(group->parked());
}

TEST_F(Group, ManyParksAndResumesLoseNothing) {
    group->start("test");
    for (int i = 0; i < 300; ++i) {
        group->resume();
        group->park();
        for (auto* vcpu : vcpus) ASSERT_FALSE(vcpu->running);
    }
}

TEST_F(Group, AVcpuThatStoppedWaitsForTheNextResume) {
    group->start("test");
    group->resume();
    eventually([&] { return vcpus[1]->running.load(); });
    vcpus[1]->end_with(engine::Exit::Shutdown);
    eventually([&] { return stopped == 1; });
    const u32 runs = vcpus[1]->runs;
    vcpus[1]->kick();
    EXPECT_EQ(vcpus[1]->runs, runs);
    group->park();
    group->resume();
    eventually([&] { return vcpus[1]->runs > runs; });
}

TEST_F(Group, AVcpuMayAskForAParkItself) {
    park_when_stopped = true;
    group->start("test");
    group->resume();
    vcpus[0]->end_with(engine::Exit::Reset);
    eventually([&] { return stopped == 1 && group->parked(); });
}

TEST_F(Group, EndsWhileRunning) {
    group->start("test");
    group->resume();
    group.reset();
}

TEST_F(Group, EndsWithoutEverStarting) { group.reset(); }

}  // namespace
}  // namespace vezha::machine
