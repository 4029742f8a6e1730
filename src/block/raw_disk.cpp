// SPDX-License-Identifier: Apache-2.0
#include "block/raw_disk.h"

#include <linux/falloc.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "base/log.h"
#include "base/time.h"
#include "block/file_lock.h"

namespace vezha::block {

namespace {

constexpr u64 kBounceSize = 1 * kMiB;   // most bytes of one transfer through a bounce buffer
constexpr u32 kMaxPieces = 1024;        // the kernel's IOV_MAX
constexpr u64 kZeroPiece = 64 * kKiB;   // written kMaxZeroPieces times in one go where the host cannot zero a range
constexpr u32 kMaxZeroPieces = 16;

struct Counters {
    std::atomic<u64> read_bytes{0}, read_operations{0}, read_time_ns{0};
    std::atomic<u64> write_bytes{0}, write_operations{0}, write_time_ns{0};
    std::atomic<u64> flush_operations{0}, flush_time_ns{0};
    std::atomic<u64> discard_bytes{0}, discard_operations{0};
    std::atomic<u64> failed_operations{0};
};
void add(std::atomic<u64>& counter, u64 value) { counter.fetch_add(value, std::memory_order_relaxed); }

struct FreeDeleter {
    void operator()(void* memory) const { std::free(memory); }
};
using AlignedBuffer = std::unique_ptr<std::byte, FreeDeleter>;

class RawDisk;

class RawQueue final : public DiskQueue {
  public:
    RawQueue(RawDisk& disk, std::unique_ptr<FileQueue> file) : disk_(disk), file_(std::move(file)) {}
    ~RawQueue() override { file_.reset(); }  // completes what is in flight while the slots still exist
    void submit(Request request) override;
    u32 in_flight() const override { return in_flight_; }

  private:
    /// A request on its way: the system call in progress, and what is left to do after it.
    struct Slot : FileOperation {
        RawQueue* queue = nullptr;
        Request request;
        u64 progress = 0;  // bytes of the request done
        u64 started_ns = 0;
        std::vector<iovec> iov;
        AlignedBuffer bounce;
        u64 bounced = 0;  // bytes of this step that go through `bounce`
        bool writing_zeroes = false;
    };

    void start(Slot& slot);
    void start_transfer(Slot& slot);
    void start_zeroes(Slot& slot);
    static void completed(FileOperation& operation, i64 result);
    void step_done(Slot& slot, i64 result);
    void transfer_done(Slot& slot, i64 result);
    void end_of_file(Slot& slot);
    void finish(Slot& slot, Result<> result);
    void finish_errno(Slot& slot, int error_number);
    bool aligned(const Slot& slot) const;

    RawDisk& disk_;
    std::unique_ptr<FileQueue> file_;
    std::vector<std::unique_ptr<Slot>> slots_;
    std::vector<Slot*> free_;
    u32 in_flight_ = 0;
};

class RawDisk final : public Disk {
  public:
    RawDisk(HostFile file, const RawOptions& options) : file_(std::move(file)), options_(options) {
        geometry_.size = file_.is_block_device ? file_.size : align_up(file_.size, 512);
        geometry_.block_size = file_.logical_block;
        geometry_.optimal_io = std::max(file_.physical_block, 4096u);
        geometry_.read_only = options.read_only;
        geometry_.can_discard = options.discard && !options.read_only;
        geometry_.can_write_zeroes = !options.read_only;
    }
    Geometry geometry() const override { return geometry_; }
    Result<std::unique_ptr<DiskQueue>> attach(EventLoop& loop) override {
        auto queue = TRY(new_file_queue(options_.async_io, file_, loop).context(file_.path));
        return std::unique_ptr<DiskQueue>(std::make_unique<RawQueue>(*this, std::move(queue)));
    }
    Statistics statistics() const override {
        const Counters& c = counters_;
        return {.read_bytes = c.read_bytes, .read_operations = c.read_operations, .read_time_ns = c.read_time_ns,
                .write_bytes = c.write_bytes, .write_operations = c.write_operations, .write_time_ns = c.write_time_ns,
                .flush_operations = c.flush_operations, .flush_time_ns = c.flush_time_ns,
                .discard_bytes = c.discard_bytes, .discard_operations = c.discard_operations,
                .failed_operations = c.failed_operations};
    }
    std::string describe() const override { return file_.path; }

  private:
    friend class RawQueue;
    HostFile file_;
    RawOptions options_;
    Geometry geometry_;
    Counters counters_;
    // What the host turned out not to support; each is tried once.
    std::atomic<bool> no_punch_{false}, no_zero_range_{false}, no_device_discard_{false};
};

std::span<const std::byte> zeroes() {
    alignas(4096) static constexpr std::byte kZeroes[kZeroPiece] = {};
    return kZeroes;
}

void RawQueue::submit(Request request) {
    const Geometry& geometry = disk_.geometry_;
    const bool ranged = request.op != Op::Flush;
    if (ranged && (request.length > geometry.size || request.offset > geometry.size - request.length)) {
        add(disk_.counters_.failed_operations, 1);
        return request.done(fail(ErrorCode::OutOfRange, "{} bytes at {} are past the disk's end at {}", request.length,
                                 request.offset, geometry.size));
    }
    if (geometry.read_only && ranged && request.op != Op::Read) {
        add(disk_.counters_.failed_operations, 1);
        return request.done(fail(ErrorCode::PermissionDenied, "the disk is read-only"));
    }
    if (disk_.file_.direct && ranged &&
        (!is_aligned(request.offset, disk_.file_.offset_alignment) || !is_aligned(request.length, disk_.file_.offset_alignment))) {
        add(disk_.counters_.failed_operations, 1);
        return request.done(fail(ErrorCode::InvalidArgument, "{} bytes at {}: the disk's blocks have {}", request.length,
                                 request.offset, disk_.file_.offset_alignment));
    }
    if (free_.empty()) {
        slots_.push_back(std::make_unique<Slot>());
        free_.push_back(slots_.back().get());
    }
    Slot& slot = *free_.back();
    free_.pop_back();
    slot.queue = this;
    slot.complete = completed;
    slot.request = std::move(request);
    slot.progress = 0;
    slot.bounced = 0;
    slot.writing_zeroes = false;
    slot.started_ns = monotonic_ns();
    ++in_flight_;
    start(slot);
}

void RawQueue::start(Slot& slot) {
    const RawOptions& options = disk_.options_;
    slot.through = slot.request.force_unit_access && options.cache != CacheMode::Unsafe;
    switch (slot.request.op) {
        case Op::Read:
        case Op::Write:
            if (slot.request.length == 0) return finish(slot, {});
            return start_transfer(slot);
        case Op::Flush:
            if (options.cache == CacheMode::Unsafe || options.read_only) return finish(slot, {});
            slot.kind = FileOperation::Kind::Sync;
            return file_->submit(slot);
        case Op::Discard:
            if (slot.request.length == 0 || !options.discard) return finish(slot, {});
            slot.offset = slot.request.offset;
            slot.length = slot.request.length;
            if (disk_.file_.is_block_device) {
                if (disk_.no_device_discard_) return finish(slot, {});
                slot.kind = FileOperation::Kind::DeviceDiscard;
            } else {
                if (disk_.no_punch_) return finish(slot, {});
                slot.kind = FileOperation::Kind::Allocate;
                slot.allocate_mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
            }
            return file_->submit(slot);
        case Op::WriteZeroes:
            if (slot.request.length == 0) return finish(slot, {});
            return start_zeroes(slot);
    }
}

void RawQueue::start_zeroes(Slot& slot) {
    slot.kind = FileOperation::Kind::Allocate;
    slot.offset = slot.request.offset;
    slot.length = slot.request.length;
    if (slot.request.may_unmap && disk_.options_.discard && !disk_.no_punch_) {
        slot.allocate_mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    } else if (!disk_.no_zero_range_) {
        // Without KEEP_SIZE, so that a last partial sector becomes part of the file.
        slot.allocate_mode = FALLOC_FL_ZERO_RANGE;
    } else {
        slot.writing_zeroes = true;
        return start_transfer(slot);
    }
    file_->submit(slot);
}

bool RawQueue::aligned(const Slot& slot) const {
    const u64 mask = disk_.file_.memory_alignment - 1, length_mask = disk_.file_.offset_alignment - 1;
    for (const iovec& piece : slot.iov)
        if ((reinterpret_cast<u64>(piece.iov_base) & mask) || (piece.iov_len & length_mask)) return false;
    return true;
}

void RawQueue::start_transfer(Slot& slot) {
    Request& request = slot.request;
    const u64 remaining = request.length - slot.progress;
    slot.kind = request.op == Op::Read ? FileOperation::Kind::Read : FileOperation::Kind::Write;
    slot.offset = request.offset + slot.progress;
    slot.iov.clear();
    slot.bounced = 0;
    u64 total = 0;
    if (slot.writing_zeroes) {
        while (total < remaining && slot.iov.size() < kMaxZeroPieces) {
            const u64 size = std::min(remaining - total, kZeroPiece);
            slot.iov.push_back({const_cast<std::byte*>(zeroes().data()), size});
            total += size;
        }
    } else {
        u64 skip = slot.progress;
        for (const iovec& piece : request.pieces) {
            if (skip >= piece.iov_len) {
                skip -= piece.iov_len;
                continue;
            }
            if (slot.iov.size() == kMaxPieces) break;
            const u64 size = std::min<u64>(piece.iov_len - skip, remaining - total);
            if (size == 0) break;
            slot.iov.push_back({static_cast<std::byte*>(piece.iov_base) + skip, size});
            skip = 0;
            total += size;
        }
        CHECK(total != 0);
        if (disk_.file_.direct && !aligned(slot)) {
            // The pieces' sum over the whole request is aligned; that of the first kMaxPieces may not be.
            u64 size = std::min(total, kBounceSize);
            if (size < remaining) size = align_down(size, disk_.file_.offset_alignment);
            if (size == 0) return finish_errno(slot, EINVAL);
            if (!slot.bounce) {
                slot.bounce.reset(static_cast<std::byte*>(
                    std::aligned_alloc(std::max<usize>(disk_.file_.memory_alignment, 4096), kBounceSize)));
                if (!slot.bounce) return finish_errno(slot, ENOMEM);
            }
            if (request.op == Op::Write) {
                u64 copied = 0;
                for (const iovec& piece : slot.iov) {
                    const u64 part = std::min<u64>(piece.iov_len, size - copied);
                    std::memcpy(slot.bounce.get() + copied, piece.iov_base, part);
                    copied += part;
                }
            }
            slot.bounced = size;
            slot.iov.assign(1, {slot.bounce.get(), size});
        }
    }
    slot.pieces = slot.iov.data();
    slot.piece_count = static_cast<u32>(slot.iov.size());
    file_->submit(slot);
}

void RawQueue::completed(FileOperation& operation, i64 result) {
    auto& slot = static_cast<Slot&>(operation);
    slot.queue->step_done(slot, result);
}

void RawQueue::step_done(Slot& slot, i64 result) {
    if (result == -EINTR || result == -EAGAIN) return file_->submit(slot);
    const bool unsupported = result == -EOPNOTSUPP || result == -ENOTTY || result == -ENOSYS;
    switch (slot.kind) {
        case FileOperation::Kind::Read:
        case FileOperation::Kind::Write: return transfer_done(slot, result);
        case FileOperation::Kind::Sync: break;
        case FileOperation::Kind::DeviceDiscard:
            if (unsupported) {  // advice that the device does not take
                disk_.no_device_discard_ = true;
                return finish(slot, {});
            }
            break;
        case FileOperation::Kind::Allocate:
            if (unsupported) {
                (slot.allocate_mode & FALLOC_FL_PUNCH_HOLE ? disk_.no_punch_ : disk_.no_zero_range_) = true;
                if (slot.request.op == Op::Discard) return finish(slot, {});
                return start_zeroes(slot);
            }
            // A hole punched at or beyond the end of a partial last sector still reads as zeroes.
            if (slot.request.op == Op::WriteZeroes && slot.request.force_unit_access && result >= 0 &&
                disk_.options_.cache != CacheMode::Unsafe) {
                slot.kind = FileOperation::Kind::Sync;
                return file_->submit(slot);
            }
            break;
    }
    if (result < 0) return finish_errno(slot, static_cast<int>(-result));
    finish(slot, {});
}

void RawQueue::transfer_done(Slot& slot, i64 result) {
    if (result < 0) return finish_errno(slot, static_cast<int>(-result));
    const bool reading = slot.request.op == Op::Read;
    if (result == 0) return reading ? end_of_file(slot) : finish_errno(slot, EIO);
    auto moved = static_cast<u64>(result);
    if (slot.bounced && reading) {
        u64 skip = slot.progress, copied = 0;
        for (const iovec& piece : slot.request.pieces) {
            if (copied == moved) break;
            if (skip >= piece.iov_len) {
                skip -= piece.iov_len;
                continue;
            }
            const u64 part = std::min<u64>(piece.iov_len - skip, moved - copied);
            std::memcpy(static_cast<std::byte*>(piece.iov_base) + skip, slot.bounce.get() + copied, part);
            copied += part;
            skip = 0;
        }
    }
    slot.progress += moved;
    if (slot.progress >= slot.request.length) return finish(slot, {});
    if (disk_.file_.direct && !is_aligned(slot.progress, disk_.file_.offset_alignment)) {
        if (reading) return end_of_file(slot);  // only the file's end cuts a direct transfer inside a block
        slot.progress = align_down(slot.progress, disk_.file_.offset_alignment);
        if (moved < disk_.file_.offset_alignment) return finish_errno(slot, EIO);
    }
    start_transfer(slot);
}

void RawQueue::end_of_file(Slot& slot) {
    // The last sector of a file that had no whole number of them; anything else was cut off while we use it.
    if (slot.request.offset + slot.progress < disk_.file_.size) {
        LOG_GUEST_ERROR("block", "'{}' has become shorter than the {} bytes it had", disk_.file_.path, disk_.file_.size);
        return finish_errno(slot, EIO);
    }
    u64 skip = slot.progress;
    for (const iovec& piece : slot.request.pieces) {
        if (skip < piece.iov_len) {
            std::memset(static_cast<std::byte*>(piece.iov_base) + skip, 0, piece.iov_len - skip);
            skip = 0;
        } else {
            skip -= piece.iov_len;
        }
    }
    finish(slot, {});
}

void RawQueue::finish_errno(Slot& slot, int error_number) {
    static constexpr const char* kNames[] = {"read", "write", "flush", "discard", "write of zeroes"};
    Error error = errno_error(error_number, fmt::format("{}: {} of {} bytes at {}", disk_.file_.path,
                                                        kNames[static_cast<int>(slot.request.op)], slot.request.length,
                                                        slot.request.offset));
    static RateLimit limit;
    if (limit.allow()) log_error("block", "{}", error.message());
    finish(slot, Failure(std::move(error)));
}

void RawQueue::finish(Slot& slot, Result<> result) {
    Counters& counters = disk_.counters_;
    const u64 elapsed = monotonic_ns() - slot.started_ns;
    if (!result.has_value()) {
        add(counters.failed_operations, 1);
    } else {
        switch (slot.request.op) {
            case Op::Read:
                add(counters.read_bytes, slot.request.length);
                add(counters.read_operations, 1);
                add(counters.read_time_ns, elapsed);
                break;
            case Op::Write:
            case Op::WriteZeroes:
                add(counters.write_bytes, slot.request.length);
                add(counters.write_operations, 1);
                add(counters.write_time_ns, elapsed);
                break;
            case Op::Flush:
                add(counters.flush_operations, 1);
                add(counters.flush_time_ns, elapsed);
                break;
            case Op::Discard:
                add(counters.discard_bytes, slot.request.length);
                add(counters.discard_operations, 1);
                break;
        }
    }
    slot.bounce.reset();
    auto done = std::move(slot.request.done);
    slot.request = {};
    free_.push_back(&slot);
    --in_flight_;
    done(std::move(result));  // last: it may submit again, or end the queue
}

}  // namespace

std::unique_ptr<Disk> raw_disk(HostFile file, const RawOptions& options) {
    return std::make_unique<RawDisk>(std::move(file), options);
}

Result<std::unique_ptr<Disk>> open_raw(const std::string& path, const RawOptions& options) {
    HostFile file = TRY(open_host_file(path, options.read_only, options.cache));
    if (options.lock) TRY(lock_image(file.fd.get(), path, !options.read_only));
    return raw_disk(std::move(file), options);
}

}  // namespace vezha::block
