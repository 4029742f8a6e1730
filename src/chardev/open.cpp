// SPDX-License-Identifier: Apache-2.0
#include "chardev/open.h"

#include "chardev/file.h"
#include "chardev/pty.h"
#include "chardev/stdio.h"
#include "chardev/unix_socket.h"

namespace vezha::chardev {

namespace {

/// `PATH,key=value,flag` taken apart. Only a comma before a known key ends the path, so a path may contain commas.
struct Spec {
    std::string path;
    bool flag;
};

Result<bool> on_or_off(std::string_view value) {
    if (value == "on" || value == "yes" || value == "true") return true;
    if (value == "off" || value == "no" || value == "false") return false;
    return fail(ErrorCode::InvalidArgument, "'{}' is neither on nor off", value);
}

Result<Spec> parse(std::string_view text, std::string_view key, bool flag) {
    if (const auto comma = text.rfind(','); comma != text.npos) {
        const std::string_view option = text.substr(comma + 1);
        if (option == key) {
            flag = true;
            text = text.substr(0, comma);
        } else if (option.starts_with(key) && option.substr(key.size()).starts_with("=")) {
            flag = TRY(on_or_off(option.substr(key.size() + 1)).context(key));
            text = text.substr(0, comma);
        }
    }
    if (text.empty()) return fail(ErrorCode::InvalidArgument, "the path is missing");
    return Spec{std::string(text), flag};
}

template <class T>
Result<std::unique_ptr<Chardev>> as_chardev(Result<std::unique_ptr<T>> device) {
    return std::unique_ptr<Chardev>(TRY(std::move(device)));
}

}  // namespace

Result<std::unique_ptr<Chardev>> open(std::string_view spec, EventLoop& loop, OpenOptions options) {
    if (spec == "stdio") return as_chardev(StdioChardev::create(loop, std::move(options)));
    if (spec == "null" || spec == "none") return std::unique_ptr<Chardev>(std::make_unique<NullChardev>());
    if (spec == "pty") return as_chardev(PtyChardev::create(loop));
    if (spec.starts_with("file:")) {
        auto [path, append] = TRY(parse(spec.substr(5), "append", false).context(spec));
        return as_chardev(FileChardev::create(loop, std::move(path), append));
    }
    if (spec.starts_with("unix:")) {
        auto [path, server] = TRY(parse(spec.substr(5), "server", true).context(spec));
        return as_chardev(UnixSocketChardev::create(loop, std::move(path), server));
    }
    return Failure(Error(ErrorCode::InvalidArgument, fmt::format("'{}' is not a serial device of the host", spec))
                       .with_hint("one of: stdio, file:PATH, unix:PATH, unix:PATH,server=off, pty, null"));
}

}  // namespace vezha::chardev
