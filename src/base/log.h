// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/core.h>

#include <atomic>
#include <string_view>

#include "base/types.h"

namespace vezha {

enum class LogLevel : u8 { Error, Warning, Info, Debug };

/// Messages above this level are dropped before they are formatted. Default: Warning.
void set_log_level(LogLevel level);
LogLevel log_level();
/// Writes one whole line to standard error, in one write(2). Any thread.
void log_line(LogLevel level, std::string_view component, std::string_view text);

template <class... Args>
void log(LogLevel level, std::string_view component, fmt::format_string<Args...> format, Args&&... args) {
    if (level > log_level()) return;
    log_line(level, component, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_error(std::string_view component, fmt::format_string<Args...> format, Args&&... args) {
    log(LogLevel::Error, component, format, std::forward<Args>(args)...);
}
template <class... Args>
void log_warning(std::string_view component, fmt::format_string<Args...> format, Args&&... args) {
    log(LogLevel::Warning, component, format, std::forward<Args>(args)...);
}
template <class... Args>
void log_info(std::string_view component, fmt::format_string<Args...> format, Args&&... args) {
    log(LogLevel::Info, component, format, std::forward<Args>(args)...);
}
template <class... Args>
void log_debug(std::string_view component, fmt::format_string<Args...> format, Args&&... args) {
    log(LogLevel::Debug, component, format, std::forward<Args>(args)...);
}

/// Lets through a burst and then a few lines per second: for lines that a guest can cause. Thread-safe.
class RateLimit {
  public:
    explicit constexpr RateLimit(u32 burst = 5, u64 refill_ns = kNsPerSec) : burst_(burst), refill_ns_(refill_ns) {}
    /// True if a line may be printed now.
    bool allow();

  private:
    const u32 burst_;
    const u64 refill_ns_;
    std::atomic<u64> window_start_{0};
    std::atomic<u32> used_{0};
};

/// A rate-limited line about what a guest did wrong. Each place in the code has its own limit.
#define LOG_GUEST_ERROR(component, ...)                                              \
    do {                                                                             \
        static ::vezha::RateLimit vezha_limit_;                                      \
        if (vezha_limit_.allow()) ::vezha::log_warning(component, __VA_ARGS__);      \
    } while (0)

}  // namespace vezha
