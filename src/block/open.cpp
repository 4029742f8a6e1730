// SPDX-License-Identifier: Apache-2.0
#include "block/open.h"

#include <unistd.h>

#include <cstddef>

#include "block/file_lock.h"
#include "block/probe.h"

namespace vezha::block {

Result<std::unique_ptr<Disk>> open(const std::string& path, const OpenOptions& options) {
    if (options.format != "auto" && options.format != "raw")
        return Failure(Error(ErrorCode::Unsupported, fmt::format("'{}': no image format '{}' is known here", path, options.format))
                           .with_hint("convert it: qemu-img convert -O raw IMAGE IMAGE.raw"));
    HostFile file = TRY(open_host_file(path, options.read_only, options.cache));
    if (options.lock) TRY(lock_image(file.fd.get(), path, !options.read_only));
    if (options.format == "auto") {
        alignas(4096) std::byte head[4096];  // aligned for O_DIRECT
        const ssize_t size = ::pread(file.fd.get(), head, sizeof head, 0);
        const std::string_view format = probe_format({head, size > 0 ? static_cast<usize>(size) : 0});
        if (format != "raw")
            return Failure(Error(ErrorCode::Unsupported, fmt::format("the image '{}' is in {} format, not raw", path, format))
                               .with_hint(fmt::format("convert it: qemu-img convert -O raw {0} {0}.raw; or say format=raw "
                                                      "to show the guest these very bytes", path)));
    }
    return raw_disk(std::move(file), options);
}

Result<CacheMode> parse_cache_mode(std::string_view text) {
    if (text == "none") return CacheMode::None;
    if (text == "writeback") return CacheMode::Writeback;
    if (text == "unsafe") return CacheMode::Unsafe;
    return Failure(Error(ErrorCode::InvalidArgument, fmt::format("'{}' is no cache mode", text))
                       .with_hint("one of: none, writeback, unsafe"));
}

Result<AsyncIo> parse_async_io(std::string_view text) {
    if (text == "auto") return AsyncIo::Auto;
    if (text == "io_uring") return AsyncIo::IoUring;
    if (text == "threads") return AsyncIo::Threads;
    return Failure(Error(ErrorCode::InvalidArgument, fmt::format("'{}' is no way of asynchronous I/O", text))
                       .with_hint("one of: auto, io_uring, threads"));
}

}  // namespace vezha::block
