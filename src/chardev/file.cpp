// SPDX-License-Identifier: Apache-2.0
#include "chardev/file.h"

#include <fcntl.h>

#include <cerrno>

#include "base/log.h"

namespace vezha::chardev {

Result<std::unique_ptr<FileChardev>> FileChardev::create(EventLoop& loop, std::string path, bool append) {
    // O_NONBLOCK: a FIFO without a reader must not hang the start.
    auto fd = open_file(path, O_WRONLY | O_CREAT | O_NONBLOCK | O_NOCTTY | (append ? O_APPEND : O_TRUNC));
    if (!fd.has_value()) {
        const ErrorCode code = fd.error().code();
        std::string hint = code == ErrorCode::PermissionDenied ? "choose a file in a folder that you may write to"
                           : code == ErrorCode::NotFound       ? "make the folder first"
                                                               : "for a FIFO, start its reader first";
        return Failure(std::move(fd.error()).with_hint(std::move(hint)));
    }
    return std::unique_ptr<FileChardev>(new FileChardev(loop, std::move(path), *std::move(fd)));
}

FileChardev::FileChardev(EventLoop& loop, std::string path, UniqueFd fd)
    : StreamChardev(loop), path_(std::move(path)), fd_(std::move(fd)) {
    start(-1, fd_.get());
}

FileChardev::~FileChardev() {
    drain(2000);
    stop();
}

void FileChardev::on_output_failed(int error_number) {
    log_warning("chardev", "{}; the guest's further output is lost",
                errno_error(error_number, fmt::format("cannot write to '{}'", path_)).message());
}

}  // namespace vezha::chardev
