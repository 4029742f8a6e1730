// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace vezha::control {

/// Cuts a byte stream into JSON objects as QMP sends them: any split, any white space between. Knows brackets and
/// strings, not the grammar: a parser judges each text. Bounded, so that a hostile peer costs a bounded amount.
class JsonStream {
  public:
    static constexpr usize kMaxText = 1 * kMiB;
    static constexpr unsigned kMaxDepth = 64;

    /// Appends bytes and returns the texts that became complete, in order.
    /// @return InvalidFormat (a byte that cannot begin an object, unbalanced brackets) or OutOfRange (too long or too deep);
    ///         the unfinished text is dropped and reading goes on at the next line.
    std::vector<Result<std::string>> feed(std::string_view bytes);

  private:
    Result<bool> take(char c);  // true: the text is complete
    std::string text_;
    std::string brackets_;
    bool in_string_ = false, escaped_ = false, skipping_ = false;
};

}  // namespace vezha::control
