// SPDX-License-Identifier: Apache-2.0
#include "base/fd.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/check.h"

namespace vezha {

void UniqueFd::reset(int fd) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
}

Result<UniqueFd> open_file(const std::string& path, int flags, unsigned mode) {
    const int fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
    if (fd < 0) return fail_errno(errno, "cannot open '{}'", path);
    return UniqueFd(fd);
}

Result<std::string> read_file(const std::string& path, u64 max_size) {
    UniqueFd fd = TRY(open_file(path, O_RDONLY));
    std::string out;
    char buffer[64 * 1024];
    for (;;) {
        const ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_errno(errno, "cannot read '{}'", path);
        if (n == 0) return out;
        if (out.size() + static_cast<usize>(n) > max_size)
            return fail(ErrorCode::OutOfRange, "'{}' is larger than {} bytes", path, max_size);
        out.append(buffer, static_cast<usize>(n));
    }
}

void ignore_broken_pipes() {
    struct sigaction now = {};
    if (::sigaction(SIGPIPE, nullptr, &now) == 0 && !(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_DFL)
        ::signal(SIGPIPE, SIG_IGN);
}

Result<> read_exact(int fd, std::span<std::byte> bytes, u64 offset) {
    while (!bytes.empty()) {
        const ssize_t n = ::pread(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_errno(errno, "read of {} bytes at offset {}", bytes.size(), offset);
        if (n == 0) return fail(ErrorCode::InvalidFormat, "file ends at offset {}, {} bytes short", offset, bytes.size());
        bytes = bytes.subspan(static_cast<usize>(n));
        offset += static_cast<u64>(n);
    }
    return {};
}

Result<EventFd> EventFd::create() {
    const int fd = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (fd < 0) return fail_errno(errno, "eventfd");
    return EventFd(UniqueFd(fd));
}

void EventFd::signal() const {
    const u64 one = 1;
    // EAGAIN means that the counter is at its maximum: the poller is awake already.
    [[maybe_unused]] ssize_t ignored = ::write(fd_.get(), &one, sizeof one);
}

bool EventFd::drain() const {
    u64 count = 0;
    return ::read(fd_.get(), &count, sizeof count) == sizeof count;
}

}  // namespace vezha
