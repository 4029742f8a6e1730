// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <signal.h>

#include "engine/dbt/thunks.h"

namespace vezha::engine::dbt {

/// Prepares the calling thread to run guest code: its own signal stack (guest code has the guest's RSP), only the synchronous
/// signals unblocked, GS at the GuestRun. Ends with the object. Also installs the process's handlers, once.
class GuestThread {
  public:
    explicit GuestThread(GuestRun& run);
    ~GuestThread();
    GuestThread(const GuestThread&) = delete;
    GuestThread& operator=(const GuestThread&) = delete;

  private:
    void* stack_ = nullptr;
    stack_t old_stack_{};
    u64 old_mask_ = 0;
    u64 old_gs_ = 0;
    GuestRun* old_run_ = nullptr;
};

}  // namespace vezha::engine::dbt
