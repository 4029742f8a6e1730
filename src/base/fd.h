// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <utility>

#include "base/result.h"

namespace vezha {

/// Owns a file descriptor.
class UniqueFd {
  public:
    UniqueFd() = default;
    explicit UniqueFd(int fd) : fd_(fd) {}
    UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    UniqueFd& operator=(UniqueFd&& other) noexcept {
        if (this != &other) reset(std::exchange(other.fd_, -1));
        return *this;
    }
    ~UniqueFd() { reset(); }

    int get() const { return fd_; }
    int release() { return std::exchange(fd_, -1); }
    void reset(int fd = -1);
    explicit operator bool() const { return fd_ >= 0; }

  private:
    int fd_ = -1;
};

/// Opens with O_CLOEXEC; the error names the path.
Result<UniqueFd> open_file(const std::string& path, int flags, unsigned mode = 0644);
Result<std::string> read_file(const std::string& path, u64 max_size = 64 * kMiB);
/// A reader that has left becomes an error of write(), not the end of the process; for libraries that write to sockets
/// without MSG_NOSIGNAL. A handler that somebody installed stays.
void ignore_broken_pipes();
/// Reads exactly `bytes.size()` bytes at `offset`; a short file is an error.
Result<> read_exact(int fd, std::span<std::byte> bytes, u64 offset);

/// A counter that wakes a poller. Any thread may signal.
class EventFd {
  public:
    static Result<EventFd> create();
    void signal() const;
    /// Clears the counter; returns false if it was clear.
    bool drain() const;
    int fd() const { return fd_.get(); }

  private:
    explicit EventFd(UniqueFd fd) : fd_(std::move(fd)) {}
    UniqueFd fd_;
};

}  // namespace vezha
