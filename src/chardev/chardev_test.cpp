// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "base/time.h"
#include "base/unix_socket.h"
#include "chardev/open.h"
#include "chardev/output_queue.h"
#include "chardev/stdio.h"

namespace vezha::chardev {
namespace {

std::span<const u8> bytes(std::string_view text) { return {reinterpret_cast<const u8*>(text.data()), text.size()}; }

std::string temporary(std::string_view name) { return fmt::format("{}vezha-chardev-{}-{}", testing::TempDir(), ::getpid(), name); }

/// A loop, a device on it, and what the device gave.
struct Fixture : testing::Test {
    std::unique_ptr<EventLoop> loop = EventLoop::create("test").value();
    std::string input;
    usize take_at_most = ~usize{0};
    int connections = 0;

    void attach(Chardev& device) {
        device.attach({.on_input = [this](std::span<const u8> in) {
                           const usize n = std::min(in.size(), take_at_most);
                           input.append(reinterpret_cast<const char*>(in.data()), n);
                           return n;
                       },
                       .on_connection = [this](bool connected) { connections += connected ? 1 : -1; }});
    }
    template <class Predicate>
    bool run_until(Predicate done) {
        for (int i = 0; i < 400 && !done(); ++i) loop->run_once(10);
        return done();
    }
};

struct Pipe {
    Pipe() { EXPECT_EQ(::pipe2(fds, O_CLOEXEC), 0); }
    ~Pipe() {
        ::close(fds[0]);
        if (fds[1] >= 0) ::close(fds[1]);
    }
    int fds[2];
};

TEST(OutputQueue, KeepsOldestOrNewestWithinItsLimit) {
    OutputQueue queue(8);
    EXPECT_TRUE(queue.push(bytes("abcdef"), OutputQueue::WhenFull::DropNewest));
    EXPECT_FALSE(queue.push(bytes("ghij"), OutputQueue::WhenFull::DropNewest));
    EXPECT_EQ(queue.dropped(), 2u);
    const std::string front = queue.take(3);
    EXPECT_EQ(front, "abc");
    queue.put_back("bc");
    EXPECT_EQ(queue.take(100), "bcdefgh");
    queue.push(bytes("abcdef"), OutputQueue::WhenFull::DropOldest);
    queue.push(bytes("ghij"), OutputQueue::WhenFull::DropOldest);
    EXPECT_EQ(queue.take(100), "cdefghij");
    queue.push(bytes("0123456789"), OutputQueue::WhenFull::DropOldest);
    EXPECT_EQ(queue.take(100), "23456789");
    EXPECT_TRUE(queue.empty());
}

TEST(EscapeKey, ActsOnlyAfterCtrlA) {
    EscapeKey escape;
    std::string text = "x\x01";
    EXPECT_EQ(escape.filter(text), EscapeKey::Action::None);
    EXPECT_EQ(text, "x");
    text = "\x01hi";  // the key is remembered over reads
    EXPECT_EQ(escape.filter(text), EscapeKey::Action::None);
    EXPECT_EQ(text, "\x01hi");
    text = "\x01?";
    EXPECT_EQ(escape.filter(text), EscapeKey::Action::Help);
    EXPECT_EQ(text, "");
    text = "\x01hab\x01x";
    EXPECT_EQ(escape.filter(text), EscapeKey::Action::Quit);
    EXPECT_EQ(text, "ab");
}

TEST_F(Fixture, PipesCarryBothWaysAndTheEndOfInputIsNoEnd) {
    Pipe in, out;
    auto device = StdioChardev::create(*loop, {}, in.fds[0], out.fds[1]).value();
    attach(*device);
    EXPECT_EQ(connections, 1);
    ASSERT_EQ(::write(in.fds[1], "he\x01xlo", 6), 6);  // no escape key on a pipe
    EXPECT_TRUE(run_until([&] { return input.size() == 6; }));
    ::close(std::exchange(in.fds[1], -1));
    for (int i = 0; i < 5; ++i) loop->run_once(1);
    device->write(bytes("still here"));
    for (int i = 0; i < 3; ++i) loop->run_once(1);
    char text[32];
    ASSERT_EQ(::read(out.fds[0], text, sizeof text), 10);
    EXPECT_EQ(std::string(text, 10), "still here");
}

TEST_F(Fixture, RegularFilesAndDevNullWorkAsInput) {
    const std::string path = temporary("input");
    {
        UniqueFd file = open_file(path, O_RDWR | O_CREAT | O_TRUNC).value();
        const std::string big(100'000, 'z');
        ASSERT_EQ(::write(file.get(), big.data(), big.size()), 100'000);
    }
    for (const std::string& name : {path, std::string("/dev/null")}) {
        input.clear();
        UniqueFd file = open_file(name, O_RDONLY).value();
        UniqueFd null = open_file("/dev/null", O_WRONLY).value();
        auto device = StdioChardev::create(*loop, {}, file.get(), null.get()).value();
        attach(*device);
        take_at_most = 100;
        EXPECT_TRUE(run_until([&] { return input.size() == (name == path ? 100'000u : 0u); }));
        device->write(bytes("gone"));
        loop->run_once(1);
    }
    ::unlink(path.c_str());
}

TEST_F(Fixture, InputWaitsUntilTheDeviceHasRoom) {
    Pipe in, out;
    auto device = StdioChardev::create(*loop, {}, in.fds[0], out.fds[1]).value();
    attach(*device);
    take_at_most = 0;
    ASSERT_EQ(::write(in.fds[1], "abc", 3), 3);
    for (int i = 0; i < 5; ++i) loop->run_once(1);
    EXPECT_EQ(input, "");
    take_at_most = 2;
    device->resume_input();
    EXPECT_TRUE(run_until([&] { return input == "abc"; }));
    ASSERT_EQ(::write(in.fds[1], "d", 1), 1);
    EXPECT_TRUE(run_until([&] { return input == "abcd"; }));
}

TEST_F(Fixture, ASlowReaderNeverBlocksAndLosesTheNewest) {
    Pipe in, out;
    auto device = StdioChardev::create(*loop, {}, in.fds[0], out.fds[1]).value();
    attach(*device);
    const std::string chunk(64 * kKiB, 'x');
    for (int i = 0; i < 40; ++i) device->write(bytes(chunk));
    for (int i = 0; i < 5; ++i) loop->run_once(1);
    usize total = 0;
    std::string buffer(256 * kKiB, 0);
    for (pollfd wait{out.fds[0], POLLIN, 0}; ::poll(&wait, 1, 0) > 0;) {
        total += static_cast<usize>(::read(out.fds[0], buffer.data(), buffer.size()));
        loop->run_once(0);
        loop->run_once(0);
    }
    EXPECT_GE(total, kMiB);
    EXPECT_LT(total, 40 * chunk.size());
}

TEST_F(Fixture, TerminalIsRawAndGivenBack) {
    int master = -1, slave = -1;
    ASSERT_EQ(::openpty(&master, &slave, nullptr, nullptr, nullptr), 0);
    UniqueFd own_master(master), own_slave(slave);
    termios before, during, after;
    ::tcgetattr(slave, &before);
    bool quit = false;
    {
        auto device = StdioChardev::create(*loop, {.on_quit = [&] { quit = true; }}, slave, slave).value();
        attach(*device);
        ::tcgetattr(slave, &during);
        EXPECT_EQ(during.c_lflag & (ICANON | ECHO | ISIG), 0u);
        ASSERT_EQ(::write(master, "\x03\x01\x01\x01x", 5), 5);
        EXPECT_TRUE(run_until([&] { return quit; }));
        EXPECT_EQ(input, "\x03\x01");
    }
    ::tcgetattr(slave, &after);
    EXPECT_EQ(before.c_lflag, after.c_lflag);
    EXPECT_EQ(before.c_iflag, after.c_iflag);
}

TEST_F(Fixture, TerminalIsGivenBackWhenASignalOrExitEndsTheProcess) {
    for (int how : {SIGTERM, SIGSEGV, 0}) {
        int master = -1, slave = -1;
        ASSERT_EQ(::openpty(&master, &slave, nullptr, nullptr, nullptr), 0);
        UniqueFd own_master(master), own_slave(slave);
        termios before, after;
        ::tcgetattr(slave, &before);
        const pid_t child = ::fork();
        if (child == 0) {
            ::signal(how ? how : SIGUSR1, SIG_DFL);
            static std::unique_ptr<RawTerminal> terminal;  // destroyed after exit() has given the terminal back
            terminal = RawTerminal::create(slave).value();
            termios raw;
            ::tcgetattr(slave, &raw);
            if (raw.c_lflag & ICANON) ::_exit(99);
            if (how) ::raise(how);
            ::exit(0);
        }
        int status = 0;
        ASSERT_EQ(::waitpid(child, &status, 0), child);
        if (how)
            EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == how) << status;
        else
            EXPECT_EQ(status, 0);
        ::tcgetattr(slave, &after);
        EXPECT_EQ(before.c_lflag, after.c_lflag) << how;
    }
}

TEST_F(Fixture, UnixServerTakesOneClientAfterAnotherAndKeepsTheLatestOutput) {
    const std::string path = temporary("socket");
    auto device = open("unix:" + path, *loop).value();
    attach(*device);
    device->write(bytes("early"));
    UniqueFd first = connect_unix(path).value();
    EXPECT_TRUE(run_until([&] { return connections == 1; }));
    char text[16];
    ASSERT_TRUE(run_until([&] { return ::recv(first.get(), text, sizeof text, MSG_PEEK) > 0; }));
    EXPECT_EQ(std::string(text, 5), "early");
    first.reset();
    EXPECT_TRUE(run_until([&] { return connections == 0; }));
    UniqueFd second = connect_unix(path).value();
    ASSERT_EQ(::write(second.get(), "hi", 2), 2);
    EXPECT_TRUE(run_until([&] { return input == "hi"; }));
    auto busy = open("unix:" + path, *loop);
    ASSERT_FALSE(busy.has_value());
    EXPECT_EQ(busy.error().code(), ErrorCode::Busy);
    device.reset();
    EXPECT_NE(::access(path.c_str(), F_OK), 0);
}

TEST_F(Fixture, UnixClientConnectsWhenTheServerComes) {
    const std::string path = temporary("client");
    auto device = open("unix:" + path + ",server=off", *loop).value();
    attach(*device);
    EXPECT_EQ(connections, 0);
    UniqueFd listener = listen_unix(path).value();
    EXPECT_TRUE(run_until([&] { return connections == 1; }));
    ::unlink(path.c_str());
}

TEST_F(Fixture, PtyCarriesBothWays) {
    auto device = open("pty", *loop).value();
    attach(*device);
    const std::string name = device->describe().substr(4);
    UniqueFd user = open_file(name, O_RDWR | O_NOCTTY | O_NONBLOCK).value();
    device->write(bytes("login: "));
    ASSERT_EQ(::write(user.get(), "root\r", 5), 5);
    EXPECT_TRUE(run_until([&] { return input == "root\r"; }));
    char text[16];
    EXPECT_EQ(::read(user.get(), text, sizeof text), 7);
}

TEST_F(Fixture, FileTakesOutputAndErrorsHaveHints) {
    const std::string path = temporary("out");
    {
        auto device = open("file:" + path, *loop).value();
        attach(*device);
        device->write(bytes("line\n"));
    }  // destroyed before the loop ran: nothing is lost
    EXPECT_EQ(read_file(path).value(), "line\n");
    ::unlink(path.c_str());
    for (const char* spec : {"file:/nonexistent/dir/x", "telnet:1234", "unix:/nonexistent/dir/x"}) {
        auto bad = open(spec, *loop);
        ASSERT_FALSE(bad.has_value()) << spec;
        EXPECT_FALSE(bad.error().hint().empty()) << spec;
    }
    EXPECT_FALSE(open("unix:" + std::string(200, 'x'), *loop).has_value());
    EXPECT_FALSE(open("file:", *loop).has_value());
}

}  // namespace
}  // namespace vezha::chardev
