// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine/dbt/context.h"

namespace vezha::engine::dbt {

/// An exception on its way out of the system half's C++ code. Never leaves this folder's boundary functions
/// (execute_system, deliver_*, ...): they catch it and put it into Context::fault.
struct GuestFault {
    Fault fault;
};

[[noreturn]] inline void raise(u8 vector) { throw GuestFault{{.pending = true, .vector = vector}}; }
[[noreturn]] inline void raise(u8 vector, u32 error_code) {
    throw GuestFault{{.pending = true, .vector = vector, .has_error_code = true, .error_code = error_code}};
}
[[noreturn]] inline void raise_gp(u32 error_code = 0) { raise(x86::kGeneralProtection, error_code); }
[[noreturn]] inline void raise_ud() { raise(x86::kInvalidOpcode); }

}  // namespace vezha::engine::dbt
