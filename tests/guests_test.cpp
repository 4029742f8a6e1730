// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <random>

#include "guest_harness.h"

namespace vezha::test {
namespace {

struct Guest {
    const char* name;
    u32 vcpus = 1;
};
constexpr Guest kGuests[] = {{"basic16"}, {"basic32"}, {"interrupts32"}, {"exceptions64"}, {"iret64"},  {"paging64"},
                             {"mmio64"},  {"pio64"},   {"timer64"},      {"irq64"},        {"nmi64"},   {"smp64", 4},
                             {"smc64"},   {"fpu64"},   {"syscall64"},    {"cpuid64"},      {"atomics64"}, {"loop64"}, {"state64"}, {"bcd16"}};

/// On a host whose KVM has no hardware behind it, guests fail for reasons that are not ours; the self-test decides.
#define SKIP_IF_UNTRUSTED(engine, text)                                                                       \
    if (const Result<>& trusted = engine_trusted(engine); !trusted)                                          \
    GTEST_SKIP() << trusted.error().message() << "\n  this guest: " << (text)

class GuestTest : public testing::TestWithParam<std::tuple<std::string, Guest>> {};

TEST_P(GuestTest, Passes) {
    const auto& [engine, guest] = GetParam();
    if (auto available = engine_available(engine); !available) GTEST_SKIP() << available.error().to_string();
    auto image = guest_image(guest.name);
    ASSERT_TRUE(image) << image.error().to_string();
    // Where the host fails its self-test, long waits are pointless.
    const u64 timeout_ms = engine_trusted(engine) ? 30'000 : 15'000;
    auto machine = GuestMachine::create(engine, *image, {.vcpus = guest.vcpus, .timeout_ms = timeout_ms});
    ASSERT_TRUE(machine) << machine.error().to_string();
    const GuestResult result = (*machine)->run();
    if (result.outcome == Outcome::Exited && result.code == 0) return;
    SKIP_IF_UNTRUSTED(engine, result.describe());
    FAIL() << result.describe();
}

INSTANTIATE_TEST_SUITE_P(Guests, GuestTest,
                         testing::Combine(testing::ValuesIn(engine_names()), testing::ValuesIn(kGuests)), [](const auto& p) {
                             return std::get<0>(p.param) + "_" + std::get<1>(p.param).name;
                         });

/// Stops a calculation at random moments, moves it to a new machine of this or the other engine, goes on.
class MoveTest : public testing::TestWithParam<std::tuple<std::string, std::string, const char*>> {};

TEST_P(MoveTest, ResultIsTheSame) {
    const auto& [from, to, guest] = GetParam();
    for (const std::string& engine : {from, to})
        if (auto available = engine_available(engine); !available) GTEST_SKIP() << available.error().to_string();
    auto image = guest_image(guest);
    ASSERT_TRUE(image);
    const bool fast = engine_trusted(from) && engine_trusted(to);
    // A model that both engines have; KVM without hardware offers no SSE3, and the guest does not look.
    const GuestOptions options{.cpu = from == to || !fast ? "host" : "x86-64-v2",
                               .timeout_ms = 30'000,
                               .argument = fast ? 5'000'000u : from == to ? 20'000u : 1'000'000u};
    const std::string& reference = engine_trusted(from) ? from : to;
    auto straight = GuestMachine::create(reference, *image, options);
    if (!straight && straight.error().code() == ErrorCode::Unsupported) GTEST_SKIP() << straight.error().to_string();
    ASSERT_TRUE(straight) << straight.error().to_string();
    const GuestResult expected = (*straight)->run();
    if (expected.outcome != Outcome::Exited || expected.code) {
        SKIP_IF_UNTRUSTED(reference, expected.describe());
        FAIL() << expected.describe();
    }
    std::mt19937 random(20240611);
    // Short enough to stop a translated guest in the middle, long enough for an emulated one to get on.
    std::uniform_int_distribution<u64> slice_us(100, from == "kvm" && to == "kvm" ? 20'000 : 2'000);
    std::string engine = from;
    auto machine = GuestMachine::create(engine, *image, options);
    ASSERT_TRUE(machine);
    unsigned moves = 0;
    GuestResult result = (*machine)->run(slice_us(random));
    while (result.outcome == Outcome::Paused && moves < 20) {
        engine = engine == from ? to : from;
        auto next = GuestMachine::create(engine, *image, options);
        if (!next && next.error().code() == ErrorCode::Unsupported) GTEST_SKIP() << next.error().to_string();
        ASSERT_TRUE(next) << next.error().to_string();
        (*next)->vm().paused();
        auto moved = (*next)->adopt(**machine);
        ASSERT_TRUE(moved) << moved.error().to_string();
        *machine = *std::move(next);
        ++moves;
        result = (*machine)->run(slice_us(random));
    }
    if (result.outcome == Outcome::Paused) result = (*machine)->run();
    RecordProperty("moves", static_cast<int>(moves));
    std::printf("%u moves\n", moves);
    if (result.outcome != Outcome::Exited || result.code) {
        SKIP_IF_UNTRUSTED(from, result.describe());
        SKIP_IF_UNTRUSTED(to, result.describe());
        FAIL() << result.describe() << " after " << moves << " moves";
    }
    EXPECT_EQ(result.output, expected.output) << "after " << moves << " moves";
}

INSTANTIATE_TEST_SUITE_P(Engines, MoveTest,
                         testing::Combine(testing::ValuesIn(engine_names()), testing::ValuesIn(engine_names()),
                                          testing::Values("loop64", "state64")),
                         [](const auto& p) { return std::get<0>(p.param) + "_to_" + std::get<1>(p.param) + "_" + std::get<2>(p.param); });

}  // namespace
}  // namespace vezha::test
