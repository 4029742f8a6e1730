// SPDX-License-Identifier: Apache-2.0
#include "base/result.h"

#include <cerrno>
#include <cstring>

namespace vezha {

std::string_view name(ErrorCode code) {
    switch (code) {
        case ErrorCode::InvalidArgument: return "InvalidArgument";
        case ErrorCode::InvalidFormat: return "InvalidFormat";
        case ErrorCode::Unsupported: return "Unsupported";
        case ErrorCode::OutOfRange: return "OutOfRange";
        case ErrorCode::NotFound: return "NotFound";
        case ErrorCode::AlreadyExists: return "AlreadyExists";
        case ErrorCode::PermissionDenied: return "PermissionDenied";
        case ErrorCode::Busy: return "Busy";
        case ErrorCode::Io: return "Io";
        case ErrorCode::NoSpace: return "NoSpace";
        case ErrorCode::OutOfMemory: return "OutOfMemory";
        case ErrorCode::Timeout: return "Timeout";
        case ErrorCode::Disconnected: return "Disconnected";
        case ErrorCode::Corrupt: return "Corrupt";
        case ErrorCode::WouldBlock: return "WouldBlock";
        case ErrorCode::Internal: return "Internal";
    }
    return "Unknown";
}

static ErrorCode code_of(int error_number) {
    switch (error_number) {
        case EACCES:
        case EPERM: return ErrorCode::PermissionDenied;
        case ENOENT:
        case ENODEV: return ErrorCode::NotFound;
        case EEXIST: return ErrorCode::AlreadyExists;
        case EBUSY:
        case ETXTBSY: return ErrorCode::Busy;
        case EADDRINUSE: return ErrorCode::AlreadyExists;
        case EINVAL: return ErrorCode::InvalidArgument;
        case ENOSPC:
        case EDQUOT: return ErrorCode::NoSpace;
        case ENOMEM: return ErrorCode::OutOfMemory;
        case ENOSYS:
        case EOPNOTSUPP: return ErrorCode::Unsupported;
        case EAGAIN: return ErrorCode::WouldBlock;
        case ETIMEDOUT: return ErrorCode::Timeout;
        case EPIPE:
        case ECONNRESET: return ErrorCode::Disconnected;
        default: return ErrorCode::Io;
    }
}

Error errno_error(int error_number, std::string_view what) {
    return {code_of(error_number), fmt::format("{}: {}", what, std::strerror(error_number))};
}

}  // namespace vezha
