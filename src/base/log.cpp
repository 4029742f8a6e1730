// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <unistd.h>

#include <ctime>
#include <string>

#include "base/time.h"

namespace vezha {

static std::atomic<LogLevel> g_level{LogLevel::Warning};

void set_log_level(LogLevel level) { g_level.store(level, std::memory_order_relaxed); }
LogLevel log_level() { return g_level.load(std::memory_order_relaxed); }

void log_line(LogLevel level, std::string_view component, std::string_view text) {
    static constexpr std::string_view kNames[] = {"error", "warning", "info", "debug"};
    std::string line = fmt::format("vezha: {}: {}: {}\n", kNames[static_cast<u8>(level)], component, text);
    // A log that cannot be written has nowhere to be reported.
    [[maybe_unused]] ssize_t ignored = ::write(STDERR_FILENO, line.data(), line.size());
}

bool RateLimit::allow() {
    const u64 now = monotonic_ns();
    u64 start = window_start_.load(std::memory_order_relaxed);
    if (now - start > refill_ns_ && window_start_.compare_exchange_strong(start, now, std::memory_order_relaxed))
        used_.store(0, std::memory_order_relaxed);
    return used_.fetch_add(1, std::memory_order_relaxed) < burst_;
}

}  // namespace vezha
