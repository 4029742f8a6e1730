// SPDX-License-Identifier: Apache-2.0
// Blocking system calls on a few threads that the whole process shares: where the host refuses io_uring, and for what
// io_uring cannot do.
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "block/host_file.h"

namespace vezha::block {

namespace {

class Pool {
  public:
    static Pool& instance() {
        // Never destroyed: its threads may be inside a system call when the process ends.
        static Pool* pool = new Pool;
        return *pool;
    }
    void run(std::function<void()> job) {
        std::lock_guard lock(mutex_);
        jobs_.push_back(std::move(job));
        if (idle_ == 0 && threads_ < kMaxThreads) {
            ++threads_;
            std::thread([this] { work(); }).detach();
        }
        changed_.notify_one();
    }

  private:
    static constexpr u32 kMaxThreads = 16;  // they wait for disks, not for processors
    void work() {
        std::unique_lock lock(mutex_);
        for (;;) {
            ++idle_;
            changed_.wait(lock, [&] { return !jobs_.empty(); });
            --idle_;
            auto job = std::move(jobs_.front());
            jobs_.pop_front();
            lock.unlock();
            job();
            lock.lock();
        }
    }
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::function<void()>> jobs_;
    u32 idle_ = 0, threads_ = 0;
};

class ThreadQueue final : public FileQueue {
  public:
    ThreadQueue(const HostFile& file, EventLoop& loop) : loop_(loop), shared_(std::make_shared<Shared>(file)) {}

    ~ThreadQueue() override {
        std::unique_lock lock(shared_->mutex);
        shared_->changed.wait(lock, [&] { return shared_->running == 0; });
        lock.unlock();
        reap(*shared_);
    }

    void submit(FileOperation& operation) override {
        {
            std::lock_guard lock(shared_->mutex);
            ++shared_->running;
        }
        Pool::instance().run([shared = shared_, loop = &loop_, &operation] {
            const i64 result = perform(shared->file, operation);
            // Under the lock to the end: when `running` is zero, nothing of ours touches the loop any more.
            std::lock_guard lock(shared->mutex);
            const bool wake = shared->finished.empty();
            shared->finished.emplace_back(&operation, result);
            if (wake) loop->post([shared] { reap(*shared); });
            --shared->running;
            shared->changed.notify_all();
        });
    }
    const char* kind() const override { return "threads"; }

  private:
    struct Shared {
        explicit Shared(const HostFile& host_file) : file(host_file) {}
        const HostFile& file;
        std::mutex mutex;
        std::condition_variable changed;
        u32 running = 0;
        std::vector<std::pair<FileOperation*, i64>> finished;
    };
    static void reap(Shared& shared) {
        std::vector<std::pair<FileOperation*, i64>> finished;
        {
            std::lock_guard lock(shared.mutex);
            finished.swap(shared.finished);
        }
        for (auto [operation, result] : finished) operation->complete(*operation, result);
    }

    EventLoop& loop_;
    std::shared_ptr<Shared> shared_;
};

}  // namespace

std::unique_ptr<FileQueue> new_thread_queue(const HostFile& file, EventLoop& loop) {
    return std::make_unique<ThreadQueue>(file, loop);
}

}  // namespace vezha::block
