// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/result.h"

namespace vezha::vmm {

enum class SandboxMode : u8 {
    Enforce,  ///< a call that is not allowed ends the process with a line that names it
    Log,      ///< such calls work and are noted in the kernel's audit log
};

/// Gives up every capability and every system call that a running machine does not need, for all threads: what a guest
/// gains by breaking into the process is little. After everything is opened. Final.
/// @return Unsupported if the host's kernel has no seccomp
Result<> enter_sandbox(SandboxMode mode);

}  // namespace vezha::vmm
