// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "base/result.h"

namespace vezha::bus {

/// A message-signalled interrupt as a PCI function sends it (SDM vol. 3A, 11.11): the common currency of interrupts.
struct MsiMessage {
    u64 address = 0;
    u32 data = 0;
    bool operator==(const MsiMessage&) const = default;
};

/// A message that is sent often: KVM keeps it as an irqfd route. All methods on any thread.
class MsiRoute {
  public:
    virtual ~MsiRoute() = default;
    virtual void set(const MsiMessage& message) = 0;  ///< replaces what trigger() sends
    virtual void trigger() = 0;
    /// A descriptor whose signal triggers the route without our process (vhost), or -1.
    virtual int event_fd() = 0;
};

/// Where messages go: the local APICs of an engine. Any thread.
class MsiSink {
  public:
    virtual ~MsiSink() = default;
    virtual void send(const MsiMessage& message) = 0;
    virtual Result<std::unique_ptr<MsiRoute>> new_route() = 0;
};

/// A level-sensitive input of an interrupt controller, as a device sees it. set() is idempotent and may be called with
/// the device's mutex held; controllers use a lock of the innermost level.
class IrqLine {
  public:
    virtual ~IrqLine() = default;
    virtual void set(bool asserted) = 0;
    void raise() { set(true); }
    void lower() { set(false); }
    /// An edge: up and down.
    void pulse() {
        set(true);
        set(false);
    }
};

/// The 8259 pair as the processor sees it: INTR and the INTA cycle. Any thread.
class ExtIntSource {
  public:
    virtual ~ExtIntSource() = default;
    virtual bool pending() = 0;
    /// INTA: returns the vector and moves the controller on (spurious if nothing pends any more).
    virtual u8 acknowledge() = 0;
};

}  // namespace vezha::bus
