// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/uio.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"

namespace vezha::block {

enum class Op : u8 { Read, Write, Flush, Discard, WriteZeroes };

/// One asynchronous request. `pieces` are host pointers that stay valid until completion; their sum is `length` for
/// Read and Write. Discard and WriteZeroes use offset and length alone.
struct Request {
    Op op = Op::Read;
    u64 offset = 0;
    u64 length = 0;
    std::vector<iovec> pieces;
    bool may_unmap = false;      ///< WriteZeroes: the range may become a hole
    bool force_unit_access = false;
    /// Runs exactly once on the loop that submitted, possibly before submit() returns.
    std::function<void(Result<>)> done;
};

struct Geometry {
    u64 size = 0;            ///< bytes
    u32 block_size = 512;    ///< smallest transfer and alignment
    u32 optimal_io = 4096;
    bool read_only = false;
    bool can_discard = false;
    bool can_write_zeroes = true;
};

/// What the disk did, for query-blockstats.
struct Statistics {
    u64 read_bytes = 0, read_operations = 0, read_time_ns = 0;
    u64 write_bytes = 0, write_operations = 0, write_time_ns = 0;
    u64 flush_operations = 0, flush_time_ns = 0;
    u64 discard_bytes = 0, discard_operations = 0;
    u64 failed_operations = 0;
};

/// One I/O loop's way into a disk. Used on that loop's thread only.
class DiskQueue {
  public:
    virtual ~DiskQueue() = default;
    /// Requests complete in any order; Flush covers every request that completed before it was submitted.
    virtual void submit(Request request) = 0;
    /// Requests submitted and not completed.
    virtual u32 in_flight() const = 0;
};

/// An asynchronous disk. Formats stack on it; io_uring is at the bottom. Thread-safe but for its queues.
class Disk {
  public:
    virtual ~Disk() = default;
    virtual Geometry geometry() const = 0;
    virtual Result<std::unique_ptr<DiskQueue>> attach(EventLoop& loop) = 0;
    virtual Statistics statistics() const = 0;
    virtual std::string describe() const = 0;  ///< file name or URL, for people and query-block
};

}  // namespace vezha::block
