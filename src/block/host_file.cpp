// SPDX-License-Identifier: Apache-2.0
#include "block/host_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/log.h"

namespace vezha::block {

namespace {

std::string open_hint(int error_number, const std::string& path, bool read_only) {
    switch (error_number) {
        case ENOENT: return fmt::format("check the path; `truncate -s 20G {}` would make an empty disk of 20 GiB", path);
        case EACCES:
        case EPERM:
            return read_only ? "you need permission to read it" : "you need permission to write to it, or use readonly=on";
        case EROFS: return "it is on a read-only file system; use readonly=on";
        case ETXTBSY: return "it is a program that runs";
        default: return {};
    }
}

void set_direct_alignment(HostFile& file) {
    struct statx info = {};
#ifdef STATX_DIOALIGN
    if (::statx(file.fd.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 && (info.stx_mask & STATX_DIOALIGN) &&
        info.stx_dio_offset_align != 0) {
        file.memory_alignment = info.stx_dio_mem_align;
        file.offset_alignment = info.stx_dio_offset_align;
        return;
    }
#endif
    file.memory_alignment = 4096;
    file.offset_alignment = file.is_block_device ? file.logical_block : 4096;
    if (file.is_block_device) return;
    // The host does not say: try whether it takes a sector at a sector's offset.
    alignas(4096) static thread_local char sector[512];
    if (::pread(file.fd.get(), sector, sizeof sector, 512) >= 0) file.offset_alignment = 512;
}

}  // namespace

Result<HostFile> open_host_file(const std::string& path, bool read_only, CacheMode cache) {
    HostFile file;
    file.path = path;
    const int flags = (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    file.fd.reset(::open(path.c_str(), flags));
    if (!file.fd) {
        const int error_number = errno;
        Error error = errno_error(error_number, fmt::format("cannot open the image '{}'", path));
        std::string hint = open_hint(error_number, path, read_only);
        if (error_number == EISDIR) error = Error(ErrorCode::InvalidArgument, fmt::format("the image '{}' is a folder", path));
        if (!hint.empty()) error = std::move(error).with_hint(std::move(hint));
        return Failure(std::move(error));
    }
    struct stat info = {};
    if (::fstat(file.fd.get(), &info) < 0) return fail_errno(errno, "cannot look at the image '{}'", path);
    file.is_block_device = S_ISBLK(info.st_mode);
    if (!S_ISREG(info.st_mode) && !file.is_block_device)
        return Failure(Error(ErrorCode::InvalidArgument,
                             fmt::format("the image '{}' is {}", path, S_ISDIR(info.st_mode) ? "a folder" : "not a file"))
                           .with_hint("an image is a regular file or a block device"));
    if (file.is_block_device) {
        u64 size = 0;
        int logical = 0;
        unsigned physical = 0;
        if (::ioctl(file.fd.get(), BLKGETSIZE64, &size) < 0) return fail_errno(errno, "cannot tell the size of '{}'", path);
        if (::ioctl(file.fd.get(), BLKSSZGET, &logical) == 0 && logical >= 512) file.logical_block = static_cast<u32>(logical);
        if (::ioctl(file.fd.get(), BLKPBSZGET, &physical) == 0 && physical >= 512) file.physical_block = physical;
        file.size = size;
    } else {
        file.size = static_cast<u64>(info.st_size);
    }
    if (cache == CacheMode::None) {
        if (::fcntl(file.fd.get(), F_SETFL, (flags & ~O_NONBLOCK) | O_DIRECT) < 0)
            return Failure(errno_error(errno, fmt::format("'{}' cannot be used past the page cache", path))
                               .with_hint("its file system has no O_DIRECT; use cache=writeback"));
        file.direct = true;
        set_direct_alignment(file);
        if (file.offset_alignment > file.logical_block) {
            log_warning("block", "'{}' takes direct transfers of {} bytes and more, the guest's sectors have {}: using the page cache",
                        path, file.offset_alignment, file.logical_block);
            ::fcntl(file.fd.get(), F_SETFL, flags & ~O_NONBLOCK);
            file.direct = false;
            file.memory_alignment = file.offset_alignment = 1;
        }
    } else {
        ::fcntl(file.fd.get(), F_SETFL, flags & ~O_NONBLOCK);
    }
    return file;
}

i64 perform(const HostFile& file, const FileOperation& op) {
    const int fd = file.fd.get();
    const auto offset = static_cast<off_t>(op.offset);
    i64 result = -1;
    do {
        switch (op.kind) {
            case FileOperation::Kind::Read: result = ::preadv(fd, op.pieces, static_cast<int>(op.piece_count), offset); break;
            case FileOperation::Kind::Write:
                result = ::pwritev2(fd, op.pieces, static_cast<int>(op.piece_count), offset, op.through ? RWF_DSYNC : 0);
                break;
            case FileOperation::Kind::Sync: result = ::fdatasync(fd); break;
            case FileOperation::Kind::Allocate:
                result = ::fallocate(fd, op.allocate_mode, offset, static_cast<off_t>(op.length));
                break;
            case FileOperation::Kind::DeviceDiscard: {
                u64 range[2] = {op.offset, op.length};
                result = ::ioctl(fd, BLKDISCARD, range);
                break;
            }
        }
    } while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : result;
}

Result<std::unique_ptr<FileQueue>> new_file_queue(AsyncIo kind, const HostFile& file, EventLoop& loop) {
    if (kind == AsyncIo::Threads) return new_thread_queue(file, loop);
    auto ring = new_io_uring_queue(file, loop);
    if (ring.has_value() || kind == AsyncIo::IoUring) return ring;
    static RateLimit once(1, ~u64{0} / 2);
    if (once.allow()) log_info("block", "{}; using threads", ring.error().message());
    return new_thread_queue(file, loop);
}

}  // namespace vezha::block
