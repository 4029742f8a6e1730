// SPDX-License-Identifier: Apache-2.0
#include "base/event_loop.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>

#include "base/check.h"
#include "base/time.h"

namespace vezha {

struct EventLoop::Timer::Shared {
    Task callback;
    bool armed = false;                                              // guarded by EventLoop::mutex_
    std::multimap<u64, std::shared_ptr<Shared>>::iterator position;  // valid while armed
    std::mutex running;  // held while the callback runs; the destructor waits for it
    bool dead = false;   // guarded by running
};

Result<std::unique_ptr<EventLoop>> EventLoop::create(std::string name) {
    UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
    if (!epoll) return fail_errno(errno, "epoll_create1");
    EventFd wakeup = TRY(EventFd::create());
    UniqueFd timer(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
    if (!timer) return fail_errno(errno, "timerfd_create");
    const std::pair<int, u64> own[] = {{wakeup.fd(), 0}, {timer.get(), 1}};
    for (auto [fd, id] : own) {
        epoll_event event{.events = EPOLLIN, .data = {.u64 = id}};
        if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) < 0) return fail_errno(errno, "epoll_ctl");
    }
    return std::unique_ptr<EventLoop>(
        new EventLoop(std::move(name), std::move(epoll), std::move(wakeup), std::move(timer)));
}

EventLoop::EventLoop(std::string name, UniqueFd epoll, EventFd wakeup, UniqueFd timer)
    : name_(std::move(name)), epoll_(std::move(epoll)), wakeup_(std::move(wakeup)), timer_fd_(std::move(timer)) {}

EventLoop::~EventLoop() = default;

void EventLoop::run() {
    thread_ = std::this_thread::get_id();
    while (!stopping_.load(std::memory_order_acquire)) run_once(-1);
    run_tasks();
    run_deferred();
    stopping_ = false;
    thread_ = std::thread::id{};
}

void EventLoop::run_once(int timeout_ms) {
    const bool outermost = thread_.load() == std::thread::id{};
    if (outermost) thread_ = std::this_thread::get_id();
    run_deferred();
    if (!deferred_.empty()) timeout_ms = 0;  // one pass a turn, so that descriptors are not starved
    epoll_event events[64];
    const int count = ::epoll_wait(epoll_.get(), events, 64, timeout_ms);
    CHECK(count >= 0 || errno == EINTR);
    for (int i = 0; i < count; ++i) {
        const u64 id = events[i].data.u64;
        if (id == 0) {
            wakeup_.drain();
            run_tasks();
        } else if (id == 1) {
            run_timers();
        } else if (auto found = handlers_.find(id); found != handlers_.end()) {
            auto handler = found->second;  // keeps it alive if the callback destroys its Watch
            handler->callback(events[i].events);
        }
    }
    if (outermost) thread_ = std::thread::id{};
}

void EventLoop::stop() {
    stopping_.store(true, std::memory_order_release);
    wakeup_.signal();
}

void EventLoop::post(Task task) {
    {
        std::lock_guard lock(mutex_);
        tasks_.push_back(std::move(task));
    }
    wakeup_.signal();
}

void EventLoop::call(const Task& task) {
    if (in_loop_thread()) return task();
    std::mutex mutex;
    std::condition_variable done_changed;
    bool done = false;
    post([&] {
        task();
        std::lock_guard lock(mutex);
        done = true;
        done_changed.notify_one();
    });
    std::unique_lock lock(mutex);
    done_changed.wait(lock, [&] { return done; });
}

void EventLoop::run_deferred() {
    std::vector<Task> tasks;
    tasks.swap(deferred_);
    for (auto& task : tasks) task();
    if (deferred_.empty()) {  // keeps the capacity: this runs on every turn
        tasks.clear();
        deferred_.swap(tasks);
    }
}

void EventLoop::run_tasks() {
    std::vector<Task> tasks;
    {
        std::lock_guard lock(mutex_);
        tasks.swap(tasks_);
    }
    for (auto& task : tasks) task();
}

Result<std::unique_ptr<EventLoop::Watch>> EventLoop::watch(int fd, u32 epoll_events, FdHandler handler) {
    const u64 id = next_id_++;
    epoll_event event{.events = epoll_events, .data = {.u64 = id}};
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0)
        return fail_errno(errno, "cannot wait for descriptor {}", fd);
    handlers_.emplace(id, std::make_shared<Handler>(Handler{fd, std::move(handler)}));
    return std::unique_ptr<Watch>(new Watch(*this, fd, id, epoll_events));
}

EventLoop::Watch::~Watch() {
    ::epoll_ctl(loop_.epoll_.get(), EPOLL_CTL_DEL, fd_, nullptr);
    loop_.handlers_.erase(id_);
}

void EventLoop::Watch::set_events(u32 epoll_events) {
    if (epoll_events == events_) return;
    events_ = epoll_events;
    epoll_event event{.events = epoll_events, .data = {.u64 = id_}};
    CHECK(::epoll_ctl(loop_.epoll_.get(), EPOLL_CTL_MOD, fd_, &event) == 0);
}

EventLoop::Timer::Timer(EventLoop& loop, Task callback) : loop_(loop), shared_(std::make_shared<Shared>()) {
    shared_->callback = std::move(callback);
}

EventLoop::Timer::~Timer() {
    cancel();
    if (loop_.in_loop_thread()) {
        shared_->dead = true;  // the callback may be destroying its own timer
        return;
    }
    std::lock_guard wait_for_callback(shared_->running);
    shared_->dead = true;
}

void EventLoop::Timer::arm(u64 deadline_ns) {
    std::lock_guard lock(loop_.mutex_);
    if (shared_->armed) loop_.deadlines_.erase(shared_->position);
    shared_->position = loop_.deadlines_.emplace(deadline_ns, shared_);
    shared_->armed = true;
    loop_.program_timer_locked();
}

void EventLoop::Timer::cancel() {
    std::lock_guard lock(loop_.mutex_);
    if (!shared_->armed) return;
    loop_.deadlines_.erase(shared_->position);
    shared_->armed = false;
    // The descriptor may fire once for nothing; cheaper than reprogramming it on each cancel.
}

std::unique_ptr<EventLoop::Timer> EventLoop::new_timer(Task callback) {
    return std::unique_ptr<Timer>(new Timer(*this, std::move(callback)));
}

void EventLoop::program_timer_locked() {
    if (deadlines_.empty()) return;
    const u64 first = deadlines_.begin()->first;
    if (first >= programmed_ns_) return;
    programmed_ns_ = first;
    const u64 at = first ? first : 1;  // zero would disarm
    itimerspec spec{.it_interval = {}, .it_value = {.tv_sec = static_cast<time_t>(at / kNsPerSec),
                                                    .tv_nsec = static_cast<long>(at % kNsPerSec)}};
    CHECK(::timerfd_settime(timer_fd_.get(), TFD_TIMER_ABSTIME, &spec, nullptr) == 0);
}

void EventLoop::run_timers() {
    u64 expirations = 0;
    [[maybe_unused]] ssize_t ignored = ::read(timer_fd_.get(), &expirations, sizeof expirations);
    const u64 now = monotonic_ns();
    std::vector<std::shared_ptr<Timer::Shared>> due;
    {
        std::lock_guard lock(mutex_);
        programmed_ns_ = ~u64{0};
        while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
            auto shared = deadlines_.begin()->second;
            shared->armed = false;
            deadlines_.erase(deadlines_.begin());
            due.push_back(std::move(shared));
        }
        program_timer_locked();
    }
    for (auto& shared : due) {
        std::lock_guard running(shared->running);
        if (!shared->dead) shared->callback();
    }
}

Result<std::unique_ptr<LoopThread>> LoopThread::start(std::string name) {
    auto loop = TRY(EventLoop::create(std::move(name)));
    return std::unique_ptr<LoopThread>(new LoopThread(std::move(loop)));
}

LoopThread::LoopThread(std::unique_ptr<EventLoop> loop) : loop_(std::move(loop)) {
    thread_ = std::thread([this] { loop_->run(); });
    while (!loop_->running()) std::this_thread::yield();
    // Linux keeps 15 characters of a thread's name.
    pthread_setname_np(thread_.native_handle(), loop_->name().substr(0, 15).c_str());
}

LoopThread::~LoopThread() {
    loop_->stop();
    thread_.join();
}

}  // namespace vezha
