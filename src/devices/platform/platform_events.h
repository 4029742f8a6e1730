// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/types.h"

namespace vezha::devices::platform {

/// What the guest asks of the machine through its platform devices. Called on a vCPU's thread with the device's mutex
/// held: note the wish and return; act on the main loop.
class PlatformEvents {
  public:
    virtual ~PlatformEvents() = default;
    virtual void shutdown() = 0;  ///< ACPI S5
    virtual void reset() = 0;     ///< keyboard controller, ports 0x92 and 0xcf9, ACPI reset register
    /// pvpanic. @param crash_loaded a crash kernel will take over: report only
    virtual void panicked(bool crash_loaded) = 0;
    /// The debug exit port: leave with this process status.
    virtual void debug_exit(u8 status) = 0;
    /// A20 gate; address masking itself is not modelled by any engine.
    virtual void a20(bool /*enabled*/) {}
};

}  // namespace vezha::devices::platform
