// SPDX-License-Identifier: Apache-2.0
#include "base/event_loop.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>

#include "base/time.h"

namespace vezha {
namespace {

TEST(EventLoop, RunsPostedTasksInOrderFromAnotherThread) {
    auto thread = LoopThread::start("test").value();
    std::vector<int> seen;
    for (int i = 0; i < 100; ++i) thread->loop().post([&seen, i] { seen.push_back(i); });
    thread->loop().call([] {});
    ASSERT_EQ(seen.size(), 100u);
    for (int i = 0; i < 100; ++i) EXPECT_EQ(seen[i], i);
}

TEST(EventLoop, TimersFireInOrderOfDeadline) {
    auto loop = EventLoop::create("test").value();
    std::string order;
    auto late = loop->new_timer([&] { order += 'b'; loop->stop(); });
    auto early = loop->new_timer([&] { order += 'a'; });
    auto never = loop->new_timer([&] { order += 'x'; });
    const u64 now = monotonic_ns();
    late->arm(now + 3'000'000);
    early->arm(now + 1'000'000);
    never->arm(now + 2'000'000);
    never->cancel();
    loop->run();
    EXPECT_EQ(order, "ab");
}

TEST(EventLoop, WatchCanEndItselfInItsHandler) {
    auto loop = EventLoop::create("test").value();
    auto event = EventFd::create().value();
    int calls = 0;
    std::unique_ptr<EventLoop::Watch> watch;
    watch = loop->watch(event.fd(), EPOLLIN, [&](u32) {
        ++calls;
        watch.reset();
    }).value();
    event.signal();
    loop->run_once(1000);
    loop->run_once(0);
    EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace vezha
