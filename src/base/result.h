// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/core.h>

#include <expected>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/types.h"

namespace vezha {

/// Stable kinds of failure; callers branch on these, people read the message.
enum class ErrorCode : u8 {
    InvalidArgument,   ///< the caller or the configuration asked for something senseless
    InvalidFormat,     ///< bytes that do not follow their specification
    Unsupported,       ///< understood, but this build, host or engine cannot do it
    OutOfRange,        ///< an offset, address or count beyond its limit
    NotFound,
    AlreadyExists,
    PermissionDenied,
    Busy,              ///< held by somebody else, for example a locked image
    Io,                ///< the host's kernel reported an I/O failure
    NoSpace,
    OutOfMemory,
    Timeout,
    Disconnected,
    Corrupt,           ///< data that was once right and is damaged now
    WouldBlock,        ///< nothing to do at present; try again when notified
    Internal,          ///< our bug
};

std::string_view name(ErrorCode code);

/// What went wrong, where, and what to do about it. Context is added at layer crossings, outermost last.
class Error {
  public:
    Error(ErrorCode code, std::string message) : code_(code), message_(std::move(message)) {}

    ErrorCode code() const { return code_; }
    const std::string& message() const { return message_; }
    const std::string& hint() const { return hint_; }

    /// Prefixes the message: `disk.raw: cannot open: Permission denied`.
    Error with_context(std::string_view what) && {
        message_ = std::string(what) + ": " + message_;
        return std::move(*this);
    }
    /// Says what the reader can do. The first (innermost) hint stays.
    Error with_hint(std::string text) && {
        if (hint_.empty()) hint_ = std::move(text);
        return std::move(*this);
    }
    /// One or two lines for a person: the message, then the hint.
    std::string to_string() const { return hint_.empty() ? message_ : message_ + "\n  hint: " + hint_; }

  private:
    ErrorCode code_;
    std::string message_;
    std::string hint_;
};

using Failure = std::unexpected<Error>;

/// A value or an Error. Never ignored silently.
template <class T = void>
class [[nodiscard]] Result : public std::expected<T, Error> {
  public:
    using Base = std::expected<T, Error>;
    using Base::Base;
    Result(Base base) : Base(std::move(base)) {}

    /// Adds context to the error, if there is one.
    Result context(std::string_view what) && {
        if (!this->has_value()) return Failure(std::move(this->error()).with_context(what));
        return std::move(*this);
    }
    Result hint(std::string text) && {
        if (!this->has_value()) return Failure(std::move(this->error()).with_hint(std::move(text)));
        return std::move(*this);
    }
};

template <class... Args>
[[nodiscard]] Failure fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
    return Failure(Error(code, fmt::format(format, std::forward<Args>(args)...)));
}

/// An error from a system call: the code follows errno, the message ends with its text.
Error errno_error(int error_number, std::string_view what);
template <class... Args>
[[nodiscard]] Failure fail_errno(int error_number, fmt::format_string<Args...> format, Args&&... args) {
    return Failure(errno_error(error_number, fmt::format(format, std::forward<Args>(args)...)));
}

}  // namespace vezha

/// Unwraps a Result or returns its error from the enclosing function.
#define TRY(...)                                                              \
    ({                                                                        \
        auto vezha_try_result_ = (__VA_ARGS__);                               \
        if (!vezha_try_result_.has_value()) [[unlikely]]                      \
            return ::vezha::Failure(std::move(vezha_try_result_.error()));    \
        *std::move(vezha_try_result_);                                        \
    })
