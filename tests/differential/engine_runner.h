// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "engine/engine.h"
#include "tests/differential/machine_state.h"

namespace vezha::differential {

/// Runs cases in a guest of one vCPU in 64-bit mode at CPL 0, with exceptions caught by the guest's IDT.
class EngineRunner {
  public:
    using Factory = Result<std::unique_ptr<engine::Vm>> (*)(const engine::VmWiring&);
    static Result<std::unique_ptr<EngineRunner>> create(Factory factory);
    ~EngineRunner();
    /// @return Timeout if the case does not end within two seconds
    Result<Outcome> run(const Case& test);
    u64 xcr0() const;

  private:
    struct Machine;
    explicit EngineRunner(std::unique_ptr<Machine> machine);
    std::unique_ptr<Machine> machine_;
};

}  // namespace vezha::differential
