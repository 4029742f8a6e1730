// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <random>

#include "block/open.h"
#include "block/probe.h"

namespace vezha::block {
namespace {

struct Image {
    explicit Image(u64 size, std::string_view head = {}) : path(fmt::format("{}vezha-block-{}-{}", testing::TempDir(), ::getpid(), ++count)) {
        UniqueFd fd = open_file(path, O_RDWR | O_CREAT | O_TRUNC).value();
        EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(size)), 0);
        EXPECT_EQ(::pwrite(fd.get(), head.data(), head.size(), 0), static_cast<ssize_t>(head.size()));
    }
    ~Image() { ::unlink(path.c_str()); }
    u64 blocks() const {
        struct stat info = {};
        ::stat(path.c_str(), &info);
        return static_cast<u64>(info.st_blocks);
    }
    static inline int count = 0;
    std::string path;
};

struct Param {
    AsyncIo async_io;
    CacheMode cache;
};

class Raw : public testing::TestWithParam<Param> {
  protected:
    std::unique_ptr<EventLoop> loop = EventLoop::create("test").value();
    std::unique_ptr<Disk> disk;
    std::unique_ptr<DiskQueue> queue;

    void open_image(const std::string& path, RawOptions options = {}) {
        options.async_io = GetParam().async_io;
        options.cache = GetParam().cache;
        queue.reset();
        disk.reset();
        disk = open_raw(path, options).value();
        auto attached = disk->attach(*loop);
        if (!attached.has_value()) GTEST_SKIP() << attached.error().message();
        queue = *std::move(attached);
    }
    Result<> run(Request request) {
        std::optional<Result<>> result;
        request.done = [&](Result<> r) { result = std::move(r); };
        queue->submit(std::move(request));
        for (int i = 0; i < 1000 && !result; ++i) loop->run_once(10);
        if (!result) return fail(ErrorCode::Timeout, "no completion");
        return *std::move(result);
    }
    Result<> write(u64 offset, std::string_view text) {
        return run({.op = Op::Write, .offset = offset, .length = text.size(),
                    .pieces = {{const_cast<char*>(text.data()), text.size()}}});
    }
    std::string read(u64 offset, usize size) {
        std::string text(size, '?');
        auto result = run({.op = Op::Read, .offset = offset, .length = size, .pieces = {{text.data(), size}}});
        return result.has_value() ? text : result.error().message();
    }
};

TEST_P(Raw, ReadsWhatWasWritten) {
    Image image(1 * kMiB);
    open_image(image.path);
    EXPECT_EQ(disk->geometry().size, kMiB);
    const std::string text(8192, 'a');
    ASSERT_TRUE(write(4096, text).has_value());
    ASSERT_TRUE(run({.op = Op::Flush}).has_value());
    EXPECT_EQ(read(4096, 8192), text);
    EXPECT_EQ(read(0, 512), std::string(512, '\0'));
    const Statistics statistics = disk->statistics();
    EXPECT_EQ(statistics.write_bytes, 8192u);
    EXPECT_EQ(statistics.read_operations, 2u);
    EXPECT_EQ(statistics.flush_operations, 1u);
    EXPECT_EQ(read_file(image.path).value().substr(4096, 8192), text);
}

TEST_P(Raw, ScatteredPiecesInAnyAlignmentAndNumber) {
    Image image(8 * kMiB);
    open_image(image.path);
    std::mt19937 random(1);
    std::string content(3 * kMiB, '\0');
    for (char& c : content) c = static_cast<char>(random());
    std::string source = "x" + content;  // odd addresses
    std::vector<iovec> pieces;
    for (usize at = 0; at < content.size();) {
        const usize size = std::min<usize>(1 + random() % 2000, content.size() - at);
        pieces.push_back({source.data() + 1 + at, size});
        at += size;
    }
    ASSERT_GT(pieces.size(), 2000u);  // more than the kernel takes at once
    ASSERT_TRUE(run({.op = Op::Write, .offset = 512, .length = content.size(), .pieces = pieces}).has_value());
    EXPECT_TRUE(read(512, content.size()) == content);
    std::string back(content.size() + 1, '?');
    for (auto& piece : pieces) piece.iov_base = back.data() + (static_cast<char*>(piece.iov_base) - source.data());
    ASSERT_TRUE(run({.op = Op::Read, .offset = 512, .length = content.size(), .pieces = pieces}).has_value());
    EXPECT_TRUE(back.substr(1) == content);
}

TEST_P(Raw, ManyAtOnceFinishOnceEach) {
    Image image(16 * kMiB);
    open_image(image.path);
    constexpr u32 kCount = 3000;
    std::vector<std::string> blocks;
    for (u32 i = 0; i < kCount; ++i) blocks.push_back(fmt::format("{:0512}", i));
    u32 done = 0, failed = 0;
    auto submit_all = [&](Op op) {
        done = 0;
        for (u32 i = 0; i < kCount; ++i)
            queue->submit({.op = op, .offset = 512ull * i, .length = 512, .pieces = {{blocks[i].data(), 512}},
                           .done = [&](Result<> result) {
                               ++done;
                               failed += !result.has_value();
                           }});
        for (int i = 0; i < 20000 && done < kCount; ++i) loop->run_once(10);
    };
    submit_all(Op::Write);
    EXPECT_EQ(done, kCount);
    EXPECT_EQ(queue->in_flight(), 0u);
    for (auto& block : blocks) block.assign(512, '?');
    submit_all(Op::Read);
    EXPECT_EQ(done, kCount);
    EXPECT_EQ(failed, 0u);
    for (u32 i = 0; i < kCount; ++i) ASSERT_EQ(blocks[i], fmt::format("{:0512}", i));
}

TEST_P(Raw, DestroyingTheQueueFinishesWhatIsInFlight) {
    Image image(1 * kMiB);
    open_image(image.path);
    int done = 0;
    std::string text(4096, 'q');
    for (u64 i = 0; i < 100; ++i)
        queue->submit({.op = Op::Write, .offset = i * 4096, .length = 4096, .pieces = {{text.data(), 4096}}, .done = [&](Result<>) { ++done; }});
    queue.reset();
    EXPECT_EQ(done, 100);
    EXPECT_EQ(read_file(image.path).value()[99 * 4096], 'q');
}

TEST_P(Raw, DiscardMakesHolesAndZeroesAreZero) {
    Image image(4 * kMiB);
    open_image(image.path);
    ASSERT_TRUE(write(0, std::string(4 * kMiB, 'd')).has_value());
    ASSERT_TRUE(run({.op = Op::Flush}).has_value());
    const u64 before = image.blocks();
    ASSERT_TRUE(run({.op = Op::Discard, .offset = kMiB, .length = kMiB}).has_value());
    EXPECT_LT(image.blocks(), before);
    EXPECT_EQ(read(kMiB, 512), std::string(512, '\0'));
    for (bool unmap : {false, true}) {
        ASSERT_TRUE(run({.op = Op::WriteZeroes, .offset = 2 * kMiB + 512, .length = 1024, .may_unmap = unmap}).has_value());
        EXPECT_EQ(read(2 * kMiB, 2048), std::string(512, 'd') + std::string(1024, '\0') + std::string(512, 'd'));
        ASSERT_TRUE(write(2 * kMiB, std::string(4096, 'd')).has_value());
    }
}

TEST_P(Raw, RefusesWhatIsOutsideOrReadOnly) {
    Image image(64 * kKiB);
    open_image(image.path);
    std::string text(1024, 'x');
    EXPECT_EQ(write(64 * kKiB - 512, text).error().code(), ErrorCode::OutOfRange);
    EXPECT_EQ(write(~u64{0} - 511, text).error().code(), ErrorCode::OutOfRange);
    EXPECT_EQ(run({.op = Op::Discard, .offset = 0, .length = kMiB}).error().code(), ErrorCode::OutOfRange);
    open_image(image.path, {.read_only = true});
    EXPECT_EQ(write(0, text).error().code(), ErrorCode::PermissionDenied);
    EXPECT_TRUE(run({.op = Op::Flush}).has_value());
    EXPECT_EQ(read(0, 512), std::string(512, '\0'));
    EXPECT_EQ(disk->statistics().failed_operations, 1u);
}

TEST_P(Raw, AFileCutShortUnderUsIsAnErrorAndAPartialLastSectorIsNot) {
    Image image(10'000);  // 19 sectors and 272 bytes
    open_image(image.path);
    EXPECT_EQ(disk->geometry().size, 10'240u);
    EXPECT_EQ(read(9728, 512), std::string(512, '\0'));
    ASSERT_TRUE(write(9728, std::string(512, 'e')).has_value());
    EXPECT_EQ(read(9728, 512), std::string(512, 'e'));
    ASSERT_EQ(::truncate(image.path.c_str(), 4096), 0);
    std::string text(512, '?');
    EXPECT_EQ(run({.op = Op::Read, .offset = 8192, .length = 512, .pieces = {{text.data(), 512}}}).error().code(), ErrorCode::Io);
    EXPECT_EQ(read(0, 512), std::string(512, '\0'));
}

INSTANTIATE_TEST_SUITE_P(Kinds, Raw, testing::Values(Param{AsyncIo::IoUring, CacheMode::Writeback},
                                                    Param{AsyncIo::IoUring, CacheMode::None},
                                                    Param{AsyncIo::Threads, CacheMode::Writeback},
                                                    Param{AsyncIo::Threads, CacheMode::None}),
                         [](const auto& kind) {
                             return fmt::format("{}{}", kind.param.async_io == AsyncIo::IoUring ? "IoUring" : "Threads",
                                                kind.param.cache == CacheMode::None ? "Direct" : "Buffered");
                         });

TEST(Lock, WritersExcludeAllAndReadersShare) {
    Image image(4096);
    {
        auto writer = open_raw(image.path).value();
        auto second = open_raw(image.path);
        ASSERT_FALSE(second.has_value());
        EXPECT_EQ(second.error().code(), ErrorCode::Busy);
        EXPECT_NE(second.error().message().find("of this virtual machine"), std::string::npos) << second.error().message();
        EXPECT_FALSE(open_raw(image.path, {.read_only = true}).has_value());
    }
    auto reader = open_raw(image.path, {.read_only = true}).value();
    EXPECT_TRUE(open_raw(image.path, {.read_only = true}).has_value());
    EXPECT_FALSE(open_raw(image.path).has_value());
}

TEST(Lock, TheErrorNamesTheHolder) {
    Image image(4096);
    int ready[2];
    ASSERT_EQ(::pipe(ready), 0);
    const pid_t child = ::fork();
    if (child == 0) {
        auto held = open_raw(image.path);
        [[maybe_unused]] ssize_t ignored = ::write(ready[1], "x", 1);
        ::pause();
        ::_exit(0);
    }
    char byte;
    ASSERT_EQ(::read(ready[0], &byte, 1), 1);
    auto second = open_raw(image.path);
    ASSERT_FALSE(second.has_value());
    EXPECT_NE(second.error().message().find(fmt::format("process {} (test_block)", child)), std::string::npos)
        << second.error().message();
    EXPECT_FALSE(second.error().hint().empty());
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    EXPECT_TRUE(open_raw(image.path).has_value());
    ::close(ready[0]);
    ::close(ready[1]);
}

TEST(Open, RefusesOtherFormatsUnlessToldRaw) {
    using namespace std::string_view_literals;
    EXPECT_EQ(probe_format({}), "raw");
    for (auto head : {"QFI\xfb"sv, "KDMV"sv, "vhdxfile"sv, "# Disk DescriptorFile"sv}) {
        Image image(64 * kKiB, head);
        auto opened = open(image.path);
        ASSERT_FALSE(opened.has_value());
        EXPECT_EQ(opened.error().code(), ErrorCode::Unsupported);
        EXPECT_FALSE(opened.error().hint().empty());
        OpenOptions raw;
        raw.format = "raw";
        EXPECT_TRUE(open(image.path, raw).has_value());
    }
    Image image(64 * kKiB, std::string(0x40, 'x') + "\x7f\x10\xda\xbe");
    EXPECT_FALSE(open(image.path).has_value());
    OpenOptions qcow2;
    qcow2.format = "qcow2";
    EXPECT_FALSE(open(image.path, qcow2).has_value());
}

TEST(Open, SaysWhatIsWrongWithThePath) {
    for (const char* path : {"/nonexistent/disk.raw", "/tmp", "/dev/null"}) {
        auto opened = open(path);
        ASSERT_FALSE(opened.has_value()) << path;
        EXPECT_NE(opened.error().message().find(path), std::string::npos);
    }
    EXPECT_FALSE(open("/nonexistent/disk.raw").error().hint().empty());
}

}  // namespace
}  // namespace vezha::block
