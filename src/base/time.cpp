// SPDX-License-Identifier: Apache-2.0
#include "base/time.h"

#include <ctime>

namespace vezha {

static u64 read_clock(clockid_t id) {
    timespec ts{};
    clock_gettime(id, &ts);
    return static_cast<u64>(ts.tv_sec) * kNsPerSec + static_cast<u64>(ts.tv_nsec);
}

u64 monotonic_ns() { return read_clock(CLOCK_MONOTONIC); }
u64 realtime_ns() { return read_clock(CLOCK_REALTIME); }

}  // namespace vezha
