// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine/dbt/context.h"
#include "engine/dbt/guest_fault.h"

/// Delivery of exceptions and interrupts through the IDT or the real-mode vector table (SDM vol. 3A, chapter 6).
/// deliver_fault() and service_events() of system_interface.h are built from these.
namespace vezha::engine::dbt {

enum class EventKind : u8 {
    Fault,              ///< an exception; the return address is the instruction
    SoftwareInterrupt,  ///< INT n, INT3, INTO: the gate's DPL counts
    External,           ///< interrupt or NMI, and INT1
};

struct Event {
    u8 vector = 0;
    EventKind kind = EventKind::Fault;
    bool has_error_code = false;
    u32 error_code = 0;
};

/// One try: pushes the frame with `return_rip` and enters the handler. Throws the fault that this raises; the context is
/// unchanged then.
void deliver_event(Context& ctx, const Event& event, u64 return_rip);

/// Delivers an event that is not tied to an instruction's completion; faults on the way become exceptions in their turn.
void deliver_external(Context& ctx, u8 vector, EventKind kind);

/// The processor state after INIT (SDM vol. 3A, table 10-1); FPU, TSC and most MSRs stay.
void init_reset(Context& ctx);

}  // namespace vezha::engine::dbt
