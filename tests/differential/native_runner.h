// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "base/result.h"
#include "tests/differential/machine_state.h"

namespace vezha::differential {

/// Runs cases on the host's processor, in this process, with signals caught. One at a time, one per process.
class NativeRunner {
  public:
    /// @param xcr0 the state components to load and compare
    static Result<std::unique_ptr<NativeRunner>> create(u64 xcr0);
    ~NativeRunner();
    Outcome run(const Case& test);

  private:
    NativeRunner() = default;
};

}  // namespace vezha::differential
