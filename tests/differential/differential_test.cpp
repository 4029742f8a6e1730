// SPDX-License-Identifier: Apache-2.0
// The host's processor is the oracle of the software engine: random user-mode code runs natively and in the engine from the
// same state and must end in the same state, exceptions included. VEZHA_CASES and VEZHA_SEED choose how many and which.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "engine/dbt/dbt_engine.h"
#include "tests/differential/engine_runner.h"
#include "tests/differential/generator.h"
#include "tests/differential/native_runner.h"

namespace vezha::differential {
namespace {

u64 setting(const char* variable, u64 fallback) {
    const char* text = std::getenv(variable);
    return text ? std::strtoull(text, nullptr, 0) : fallback;
}

class Differential : public testing::Test {
  protected:
    void SetUp() override {
        auto engine = EngineRunner::create(&engine::dbt::create);
        ASSERT_TRUE(engine) << engine.error().to_string();
        engine_ = std::move(*engine);
        auto native = NativeRunner::create(engine_->xcr0() & 0xe7);
        ASSERT_TRUE(native) << native.error().to_string();
        native_ = std::move(*native);
    }

    /// Runs `count` cases; stops after a few failures.
    template <class Make>
    void campaign(u64 count, Make&& make) {
        unsigned failures = 0;
        u64 faults = 0;
        for (u64 i = 0; i < count && failures < setting("VEZHA_FAILURES", 5); ++i) {
            const u64 seed = setting("VEZHA_SEED", 1) * 1'000'003 + i;
            Generator generator(seed, engine_->xcr0());
            const Case test = make(generator);
            const Outcome native = native_->run(test);
            faults += native.vector >= 0;
            auto engine = engine_->run(test);
            const std::string differences = engine ? compare(test, native, *engine, engine_->xcr0() & 0xe7) : engine.error().to_string();
            if (differences.empty()) continue;
            ++failures;
            std::string registers;
            for (unsigned r = 0; r < 16; ++r) registers += fmt::format(" {}:{:#x}", r, test.start.gpr[r]);
            ADD_FAILURE() << "case " << i << " (native exception " << native.vector << ")\n"
                          << Generator::disassemble(test) << differences << "  start flags " << std::hex << test.start.flags
                          << registers;
        }
        RecordProperty("cases", static_cast<int>(count));
        RecordProperty("faults", static_cast<int>(faults));
    }

    std::unique_ptr<EngineRunner> engine_;
    std::unique_ptr<NativeRunner> native_;
};

TEST_F(Differential, SingleInstructions) {
    campaign(setting("VEZHA_CASES", 10'000), [](Generator& g) { return g.single(); });
}

TEST_F(Differential, Sequences) {
    campaign(setting("VEZHA_CASES", 10'000) / 4, [](Generator& g) { return g.sequence(24); });
}

}  // namespace
}  // namespace vezha::differential
