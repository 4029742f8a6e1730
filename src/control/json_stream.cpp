// SPDX-License-Identifier: Apache-2.0
#include "control/json_stream.h"

namespace vezha::control {

std::vector<Result<std::string>> JsonStream::feed(std::string_view bytes) {
    std::vector<Result<std::string>> out;
    for (char c : bytes) {
        if (skipping_) {  // after an error: up to the end of the line
            skipping_ = c != '\n';
            continue;
        }
        auto complete = take(c);
        if (complete && !*complete) continue;
        if (complete) out.push_back(std::move(text_));
        else out.push_back(Failure(std::move(complete.error())));
        skipping_ = !complete && c != '\n';
        text_.clear();
        brackets_.clear();
        in_string_ = escaped_ = false;
    }
    return out;
}

Result<bool> JsonStream::take(char c) {
    if (brackets_.empty()) {
        if (c == ' ' || c == '\t' || c == '\r' || c == '\n') return false;
        if (c != '{') return fail(ErrorCode::InvalidFormat, "JSON parse error, expecting an object");
    }
    if (text_.size() >= kMaxText) return fail(ErrorCode::OutOfRange, "JSON text longer than {} bytes", kMaxText);
    text_ += c;
    if (in_string_) {
        if (escaped_) escaped_ = false;
        else if (c == '\\') escaped_ = true;
        else if (c == '"') in_string_ = false;
        return false;
    }
    switch (c) {
        case '"': in_string_ = true; return false;
        case '{':
        case '[':
            if (brackets_.size() >= kMaxDepth) return fail(ErrorCode::OutOfRange, "JSON nested deeper than {}", kMaxDepth);
            brackets_ += c;
            return false;
        case '}':
        case ']':
            if (brackets_.back() != (c == '}' ? '{' : '[')) return fail(ErrorCode::InvalidFormat, "JSON parse error, unexpected '{}'", c);
            brackets_.pop_back();
            return brackets_.empty();
        default: return false;
    }
}

}  // namespace vezha::control
