// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace vezha {
/// Reports a broken invariant of ours with its place and aborts.
[[noreturn, gnu::cold]] void check_failed(const char* expression, const char* file, int line);
}  // namespace vezha

/// For our own bugs only: never for what a guest, file or user can cause.
#define CHECK(condition) \
    ((condition) ? static_cast<void>(0) : ::vezha::check_failed(#condition, __FILE__, __LINE__))
