// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/uio.h>

#include <memory>
#include <string>

#include "base/event_loop.h"
#include "base/fd.h"

namespace vezha::block {

/// How writes reach the host's disk.
enum class CacheMode : u8 {
    None,       ///< O_DIRECT: past the host's page cache
    Writeback,  ///< through the page cache; the guest's flushes reach the disk
    Unsafe,     ///< through the page cache; flushes are ignored (scratch disks)
};
/// How requests are made to the host's kernel.
enum class AsyncIo : u8 { Auto, IoUring, Threads };

/// An open file or block device of the host, and what must be known to use it.
struct HostFile {
    std::string path;
    UniqueFd fd;
    u64 size = 0;               ///< bytes when it was opened
    bool is_block_device = false;
    bool direct = false;        ///< opened with O_DIRECT
    u32 logical_block = 512;    ///< smallest write without read-modify-write by the host
    u32 physical_block = 4096;
    u32 memory_alignment = 1;   ///< of buffers
    u32 offset_alignment = 1;   ///< of offsets and lengths
};

/// Opens an existing image. Errors: NotFound, PermissionDenied, InvalidArgument (a folder, a socket...), with hints.
Result<HostFile> open_host_file(const std::string& path, bool read_only, CacheMode cache);

/// One system call's worth of work on a HostFile. Owned by its submitter, which keeps it until `complete`.
struct FileOperation {
    enum class Kind : u8 { Read, Write, Sync, Allocate, DeviceDiscard };
    Kind kind = Kind::Read;
    bool through = false;       ///< Write: complete when on the medium (RWF_DSYNC)
    int allocate_mode = 0;      ///< Allocate: FALLOC_FL_*
    u64 offset = 0, length = 0;
    const iovec* pieces = nullptr;
    u32 piece_count = 0;
    /// On the queue's loop. `result`: bytes moved, or a negative errno; short transfers are the submitter's to continue.
    void (*complete)(FileOperation& operation, i64 result) = nullptr;
};

/// Asynchronous system calls on one file for one loop; used on that loop's thread. The destructor waits for operations in
/// flight and completes them.
class FileQueue {
  public:
    virtual ~FileQueue() = default;
    virtual void submit(FileOperation& operation) = 0;
    virtual const char* kind() const = 0;
};

/// Auto takes io_uring if the kernel allows it, else threads.
Result<std::unique_ptr<FileQueue>> new_file_queue(AsyncIo kind, const HostFile& file, EventLoop& loop);
Result<std::unique_ptr<FileQueue>> new_io_uring_queue(const HostFile& file, EventLoop& loop);
std::unique_ptr<FileQueue> new_thread_queue(const HostFile& file, EventLoop& loop);

/// Performs one operation now, on this thread. @return as FileOperation::complete.
i64 perform(const HostFile& file, const FileOperation& operation);

}  // namespace vezha::block
