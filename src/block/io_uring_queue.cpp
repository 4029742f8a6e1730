// SPDX-License-Identifier: Apache-2.0
#include <liburing.h>
#include <sys/epoll.h>

#include <cerrno>
#include <deque>

#include "base/check.h"
#include "block/host_file.h"

namespace vezha::block {

namespace {

/// One ring for one file on one loop. Requests of a loop turn go to the kernel in one system call; completions are found
/// by polling the ring's descriptor, and at once after submission (a page cache hit is complete by then).
class IoUringQueue final : public FileQueue {
  public:
    static Result<std::unique_ptr<FileQueue>> create(const HostFile& file, EventLoop& loop) {
        auto queue = std::unique_ptr<IoUringQueue>(new IoUringQueue(file, loop));
        const int error = ::io_uring_queue_init(kEntries, &queue->ring_, IORING_SETUP_CLAMP);
        if (error < 0)
            return Failure(errno_error(-error, "io_uring is not available").with_hint("the kernel or the container forbids it"));
        queue->ring_open_ = true;
        queue->watch_ = TRY(loop.watch(queue->ring_.ring_fd, EPOLLIN, [raw = queue.get()](u32) { raw->reap(); }));
        return std::unique_ptr<FileQueue>(std::move(queue));
    }

    ~IoUringQueue() override {
        if (!ring_open_) return;
        watch_.reset();
        while (in_kernel_ + backlog_.size() > 0) {
            push_backlog();
            ::io_uring_submit_and_wait(&ring_, 1);
            reap();
        }
        ::io_uring_queue_exit(&ring_);
    }

    void submit(FileOperation& operation) override {
        if (operation.kind == FileOperation::Kind::DeviceDiscard) {  // an ioctl: no request of the ring
            if (!threads_) threads_ = new_thread_queue(file_, loop_);
            return threads_->submit(operation);
        }
        backlog_.push_back(&operation);
        submit_later();
    }
    const char* kind() const override { return "io_uring"; }

  private:
    static constexpr unsigned kEntries = 256;

    IoUringQueue(const HostFile& file, EventLoop& loop) : file_(file), loop_(loop) {}

    void submit_later() {
        if (submit_pending_) return;
        submit_pending_ = true;
        loop_.before_wait([this, token = std::weak_ptr<void>(alive_)] {
            if (token.expired()) return;
            submit_pending_ = false;
            submit_all();
        });
    }

    bool has_room() const { return in_kernel_ < *ring_.cq.kring_entries; }

    /// Moves requests into the submission ring while completions are sure to have room.
    void push_backlog() {
        while (!backlog_.empty() && has_room()) {
            io_uring_sqe* sqe = ::io_uring_get_sqe(&ring_);
            if (!sqe) return;
            fill(*sqe, *backlog_.front());
            backlog_.pop_front();
            ++in_kernel_;
        }
    }

    void fill(io_uring_sqe& sqe, FileOperation& op) const {
        const int fd = file_.fd.get();
        switch (op.kind) {
            case FileOperation::Kind::Read:
                if (op.piece_count == 1)
                    ::io_uring_prep_read(&sqe, fd, op.pieces->iov_base, static_cast<unsigned>(op.pieces->iov_len), op.offset);
                else
                    ::io_uring_prep_readv(&sqe, fd, op.pieces, op.piece_count, op.offset);
                break;
            case FileOperation::Kind::Write:
                if (op.piece_count == 1)
                    ::io_uring_prep_write(&sqe, fd, op.pieces->iov_base, static_cast<unsigned>(op.pieces->iov_len), op.offset);
                else
                    ::io_uring_prep_writev(&sqe, fd, op.pieces, op.piece_count, op.offset);
                if (op.through) sqe.rw_flags = RWF_DSYNC;
                break;
            case FileOperation::Kind::Sync: ::io_uring_prep_fsync(&sqe, fd, IORING_FSYNC_DATASYNC); break;
            case FileOperation::Kind::Allocate:
                ::io_uring_prep_fallocate(&sqe, fd, op.allocate_mode, static_cast<off_t>(op.offset),
                                          static_cast<off_t>(op.length));
                break;
            case FileOperation::Kind::DeviceDiscard: CHECK(false);
        }
        ::io_uring_sqe_set_data(&sqe, &op);
    }

    void submit_all() {
        std::weak_ptr<void> token = alive_;
        do {
            push_backlog();
            const int submitted = ::io_uring_submit(&ring_);
            // EAGAIN, EBUSY: the kernel lacks memory or room now; what is in flight wakes us, else the next turn.
            if (submitted < 0 && in_kernel_ == ::io_uring_sq_ready(&ring_)) {
                submit_later();
                return;
            }
            reap();
            if (token.expired()) return;  // a completion ended the queue
        } while (!backlog_.empty() && has_room() && ::io_uring_sq_ready(&ring_) == 0);
    }

    void reap() {
        std::weak_ptr<void> token = alive_;
        io_uring_cqe* cqe = nullptr;
        while (::io_uring_peek_cqe(&ring_, &cqe) == 0 && cqe) {
            auto* operation = static_cast<FileOperation*>(::io_uring_cqe_get_data(cqe));
            const i64 result = cqe->res;
            ::io_uring_cqe_seen(&ring_, cqe);
            --in_kernel_;
            operation->complete(*operation, result);
            if (token.expired()) return;
        }
        if ((!backlog_.empty() && has_room()) || ::io_uring_sq_ready(&ring_) != 0) submit_later();
    }

    const HostFile& file_;
    EventLoop& loop_;
    io_uring ring_ = {};
    bool ring_open_ = false;
    bool submit_pending_ = false;
    u32 in_kernel_ = 0;  // in the submission ring or beyond
    std::deque<FileOperation*> backlog_;
    std::shared_ptr<char> alive_ = std::make_shared<char>();
    std::unique_ptr<EventLoop::Watch> watch_;
    std::unique_ptr<FileQueue> threads_;
};

}  // namespace

Result<std::unique_ptr<FileQueue>> new_io_uring_queue(const HostFile& file, EventLoop& loop) {
    return IoUringQueue::create(file, loop);
}

}  // namespace vezha::block
