// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "state/stream.h"

namespace vezha::state {

/// Something that a saved machine contains. Called with the VM paused and I/O drained, on the main thread.
class Stateful {
  public:
    virtual ~Stateful() = default;
    /// Unique within a machine and stable over versions: "hpet", "pci/00:03.0/virtio-blk".
    virtual std::string state_name() const = 0;
    virtual void save(Section& out) const = 0;
    /// The section is hostile: validate before acting on a value. On error the object may be half loaded.
    virtual Result<> load(const Section& in, u32 saved_version) = 0;
    /// Back to power-on state (also on guest reset).
    virtual void reset() = 0;
};

}  // namespace vezha::state
