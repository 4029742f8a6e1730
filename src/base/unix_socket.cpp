// SPDX-License-Identifier: Apache-2.0
#include "base/unix_socket.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace vezha {

namespace {

Result<sockaddr_un> address_of(const std::string& path) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    if (path.empty()) return fail(ErrorCode::InvalidArgument, "the socket's path is empty");
    if (path.size() >= sizeof address.sun_path)
        return Failure(Error(ErrorCode::InvalidArgument,
                             fmt::format("the socket's path '{}' has {} characters", path, path.size()))
                           .with_hint(fmt::format("Linux allows {}; choose a shorter one", sizeof address.sun_path - 1)));
    std::memcpy(address.sun_path, path.data(), path.size());
    return address;
}

Result<UniqueFd> new_socket() {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd) return fail_errno(errno, "socket");
    return fd;
}

}  // namespace

Result<UniqueFd> listen_unix(const std::string& path, unsigned mode) {
    const sockaddr_un address = TRY(address_of(path));
    const auto* generic = reinterpret_cast<const sockaddr*>(&address);
    UniqueFd fd = TRY(new_socket());
    // The file gets its mode at bind(): nobody can slip in before a chmod.
    ::fchmod(fd.get(), mode);
    if (::bind(fd.get(), generic, sizeof address) < 0) {
        if (errno != EADDRINUSE)
            return Failure(errno_error(errno, fmt::format("cannot make the socket '{}'", path))
                               .with_hint("its folder must exist and be writable for you"));
        struct stat info = {};
        if (::lstat(path.c_str(), &info) == 0 && !S_ISSOCK(info.st_mode))
            return Failure(Error(ErrorCode::AlreadyExists, fmt::format("'{}' exists and is not a socket", path))
                               .with_hint("choose another path, or remove that file"));
        UniqueFd probe = TRY(new_socket());
        if (::connect(probe.get(), generic, sizeof address) == 0 || errno == EAGAIN)
            return Failure(Error(ErrorCode::Busy, fmt::format("another process listens on '{}'", path))
                               .with_hint("is a virtual machine of this name running? Stop it, or choose another path"));
        if (errno != ECONNREFUSED) return fail_errno(errno, "cannot make the socket '{}'", path);
        ::unlink(path.c_str());
        if (::bind(fd.get(), generic, sizeof address) < 0) return fail_errno(errno, "cannot make the socket '{}'", path);
    }
    ::chmod(path.c_str(), mode);
    if (::listen(fd.get(), 16) < 0) return fail_errno(errno, "cannot listen on '{}'", path);
    return fd;
}

Result<UniqueFd> connect_unix(const std::string& path) {
    const sockaddr_un address = TRY(address_of(path));
    UniqueFd fd = TRY(new_socket());
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
        return fail_errno(errno, "cannot connect to '{}'", path);
    return fd;
}

Result<UniqueFd> accept_client(int listener) {
    UniqueFd fd(::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd) return fail_errno(errno, "accept");
    return fd;
}

}  // namespace vezha
