// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace vezha {

/// A thread's loop over descriptors, timers and posted tasks (epoll). One thread calls run(); what is marked
/// "any thread" may be called from others.
class EventLoop {
  public:
    using Task = std::function<void()>;
    using FdHandler = std::function<void(u32 epoll_events)>;

    static Result<std::unique_ptr<EventLoop>> create(std::string name);
    ~EventLoop();

    /// Serves until stop(). Tasks posted before stop() are run.
    void run();
    /// Waits for at most `timeout_ms` (-1: no limit) and serves once. For tests and embedded use.
    void run_once(int timeout_ms);
    void stop();          ///< any thread
    void post(Task task); ///< any thread; runs on the loop's thread, in order
    /// Runs once before the loop waits again: for work gathered over a turn, such as one submission for many requests.
    /// On the loop's thread, or while the loop does not run.
    void before_wait(Task task) { deferred_.push_back(std::move(task)); }
    /// Posts and waits for the end. Runs directly when called on the loop's thread. The loop must be running.
    void call(const Task& task);
    /// Runs `task` where handlers may be added and removed: by call() if a thread serves this loop, else directly.
    void run_exclusive(const Task& task) { running() ? call(task) : task(); }
    bool running() const { return thread_.load() != std::thread::id{}; }
    bool in_loop_thread() const { return thread_.load() == std::this_thread::get_id(); }
    const std::string& name() const { return name_; }

    /// Calls `handler` on the loop's thread while `fd` is ready (level-triggered EPOLLIN, EPOLLOUT...). Destroying the
    /// Watch ends it; both on the loop's thread, or while the loop does not run.
    class Watch {
      public:
        ~Watch();
        Watch(const Watch&) = delete;
        Watch& operator=(const Watch&) = delete;
        /// Changes the events waited for; 0 silences it.
        void set_events(u32 epoll_events);

      private:
        friend class EventLoop;
        Watch(EventLoop& loop, int fd, u64 id, u32 events) : loop_(loop), fd_(fd), id_(id), events_(events) {}
        EventLoop& loop_;
        int fd_;
        u64 id_;
        u32 events_;
    };
    Result<std::unique_ptr<Watch>> watch(int fd, u32 epoll_events, FdHandler handler);

    /// A one-shot alarm in CLOCK_MONOTONIC nanoseconds. arm and cancel from any thread; the callback runs on the
    /// loop's thread and may still be about to run when cancel() returns on another thread.
    class Timer {
      public:
        ~Timer();
        Timer(const Timer&) = delete;
        Timer& operator=(const Timer&) = delete;
        void arm(u64 deadline_ns);
        void cancel();

      private:
        friend class EventLoop;
        struct Shared;
        Timer(EventLoop& loop, Task callback);
        EventLoop& loop_;
        std::shared_ptr<Shared> shared_;
    };
    std::unique_ptr<Timer> new_timer(Task callback);

  private:
    struct Handler {
        int fd;
        FdHandler callback;
    };
    EventLoop(std::string name, UniqueFd epoll, EventFd wakeup, UniqueFd timer);
    void run_tasks();
    void run_deferred();
    void run_timers();
    void program_timer_locked();

    std::string name_;
    UniqueFd epoll_;
    EventFd wakeup_;
    UniqueFd timer_fd_;
    std::atomic<bool> stopping_{false};
    std::atomic<std::thread::id> thread_{};

    u64 next_id_ = 2;  // 0: wakeup_, 1: timer_fd_
    std::unordered_map<u64, std::shared_ptr<Handler>> handlers_;  // loop thread
    std::vector<Task> deferred_;                                  // loop thread

    std::mutex mutex_;  // guards what follows
    std::vector<Task> tasks_;
    std::multimap<u64, std::shared_ptr<Timer::Shared>> deadlines_;
    u64 programmed_ns_ = ~u64{0};
};

/// An EventLoop with its own thread, joined on destruction. It runs when start() returns.
class LoopThread {
  public:
    static Result<std::unique_ptr<LoopThread>> start(std::string name);
    ~LoopThread();
    EventLoop& loop() { return *loop_; }

  private:
    explicit LoopThread(std::unique_ptr<EventLoop> loop);
    std::unique_ptr<EventLoop> loop_;
    std::thread thread_;
};

}  // namespace vezha
