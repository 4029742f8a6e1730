// SPDX-License-Identifier: Apache-2.0
#include "chardev/terminal.h"

#include <signal.h>
#include <termios.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>

namespace vezha::chardev {

namespace {

// Plain globals: read by signal handlers.
std::atomic<int> g_fd{-1};
termios g_original;
termios g_raw;

constexpr int kFatalSignals[] = {SIGHUP, SIGINT, SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGTERM,
                                 SIGXCPU, SIGXFSZ, SIGSYS};

void on_fatal_signal(int number) {
    RawTerminal::restore_now();
    // SA_RESETHAND made the disposition the default: the process ends as it would have without us.
    ::raise(number);
}

void on_continue(int) {
    const int saved = errno;
    const int fd = g_fd.load();
    // From the background, tcsetattr would stop us again.
    if (fd >= 0 && ::tcgetpgrp(fd) == ::getpgrp()) ::tcsetattr(fd, TCSANOW, &g_raw);
    errno = saved;
}

void set_handlers(bool install) {
    struct sigaction ours = {};
    ours.sa_handler = on_fatal_signal;
    ours.sa_flags = static_cast<int>(SA_RESETHAND | SA_NODEFER);
    struct sigaction standard = {};
    standard.sa_handler = SIG_DFL;
    for (int number : kFatalSignals) {
        struct sigaction now = {};
        ::sigaction(number, nullptr, &now);
        const bool is_ours = !(now.sa_flags & SA_SIGINFO) && now.sa_handler == on_fatal_signal;
        const bool is_default = !(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_DFL;
        if (install && is_default) ::sigaction(number, &ours, nullptr);
        if (!install && is_ours) ::sigaction(number, &standard, nullptr);
    }
    struct sigaction resume = {};
    resume.sa_handler = install ? on_continue : SIG_DFL;
    resume.sa_flags = SA_RESTART;
    ::sigaction(SIGCONT, &resume, nullptr);
}

}  // namespace

void RawTerminal::restore_now() {
    const int fd = g_fd.exchange(-1);
    if (fd >= 0) ::tcsetattr(fd, TCSANOW, &g_original);
}

Result<std::unique_ptr<RawTerminal>> RawTerminal::create(int fd) {
    if (g_fd.load() >= 0) return fail(ErrorCode::AlreadyExists, "the terminal is in use by another device of this VM");
    if (::tcgetattr(fd, &g_original) < 0) return fail_errno(errno, "cannot read the terminal's settings");
    g_raw = g_original;
    ::cfmakeraw(&g_raw);
    g_raw.c_oflag |= OPOST;  // "\n" from our own messages still starts a line
    if (::tcsetattr(fd, TCSANOW, &g_raw) < 0) return fail_errno(errno, "cannot change the terminal's settings");
    g_fd = fd;
    static const bool registered = std::atexit([] { restore_now(); }) == 0;
    (void)registered;
    set_handlers(true);
    return std::unique_ptr<RawTerminal>(new RawTerminal());
}

RawTerminal::~RawTerminal() {
    restore_now();
    set_handlers(false);
}

}  // namespace vezha::chardev
