// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/types.h"

namespace vezha {
/// CLOCK_MONOTONIC in nanoseconds.
u64 monotonic_ns();
/// CLOCK_REALTIME in nanoseconds since the epoch.
u64 realtime_ns();
}  // namespace vezha
