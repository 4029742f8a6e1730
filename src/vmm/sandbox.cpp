// SPDX-License-Identifier: Apache-2.0
#include "vmm/sandbox.h"

#include <cap-ng.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <memory>

#include "chardev/terminal.h"

namespace vezha::vmm {

namespace {

/// What a machine does once it is built, by purpose.
constexpr int kAllowed[] = {
    // Data: disks, networks, consoles, control.
    SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pread64), SCMP_SYS(pwrite64), SCMP_SYS(preadv),
    SCMP_SYS(pwritev), SCMP_SYS(preadv2), SCMP_SYS(pwritev2), SCMP_SYS(lseek), SCMP_SYS(fsync), SCMP_SYS(fdatasync),
    SCMP_SYS(fallocate), SCMP_SYS(sync_file_range), SCMP_SYS(io_uring_setup), SCMP_SYS(io_uring_enter), SCMP_SYS(io_uring_register),
    SCMP_SYS(close), SCMP_SYS(dup), SCMP_SYS(fcntl), SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(stat), SCMP_SYS(statx), SCMP_SYS(fstatfs),
    SCMP_SYS(readlink), SCMP_SYS(unlink), SCMP_SYS(ioctl), SCMP_SYS(ftruncate), SCMP_SYS(pipe2),
    // The user-mode network's sockets, and those of control and consoles.
    SCMP_SYS(socket), SCMP_SYS(socketpair), SCMP_SYS(bind), SCMP_SYS(listen), SCMP_SYS(accept), SCMP_SYS(accept4), SCMP_SYS(connect), SCMP_SYS(shutdown),
    SCMP_SYS(sendto), SCMP_SYS(recvfrom), SCMP_SYS(sendmsg), SCMP_SYS(recvmsg), SCMP_SYS(sendmmsg), SCMP_SYS(recvmmsg),
    SCMP_SYS(getsockname), SCMP_SYS(getpeername), SCMP_SYS(setsockopt), SCMP_SYS(getsockopt),
    // Waiting and time.
    SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(select), SCMP_SYS(pselect6), SCMP_SYS(epoll_create1), SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait),
    SCMP_SYS(epoll_pwait2), SCMP_SYS(eventfd2), SCMP_SYS(timerfd_create), SCMP_SYS(timerfd_settime), SCMP_SYS(timerfd_gettime), SCMP_SYS(signalfd4),
    SCMP_SYS(nanosleep), SCMP_SYS(clock_nanosleep), SCMP_SYS(clock_gettime), SCMP_SYS(clock_getres), SCMP_SYS(gettimeofday), SCMP_SYS(time),
    SCMP_SYS(timer_create), SCMP_SYS(timer_settime), SCMP_SYS(timer_gettime), SCMP_SYS(timer_delete),
    // Memory: the guest's, the code cache, the heap.
    SCMP_SYS(mmap), SCMP_SYS(munmap), SCMP_SYS(mprotect), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(mincore), SCMP_SYS(brk), SCMP_SYS(memfd_create), SCMP_SYS(mlock), SCMP_SYS(munlock),
    SCMP_SYS(pkey_mprotect), SCMP_SYS(membarrier),
    // Threads and signals.
    SCMP_SYS(futex), SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(set_tid_address), SCMP_SYS(sched_yield), SCMP_SYS(sched_getaffinity), SCMP_SYS(sched_setaffinity), SCMP_SYS(getcpu),
    SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(tgkill), SCMP_SYS(tkill), SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn), SCMP_SYS(rt_sigtimedwait),
    SCMP_SYS(rt_sigpending), SCMP_SYS(rt_sigsuspend), SCMP_SYS(sigaltstack), SCMP_SYS(restart_syscall), SCMP_SYS(arch_prctl), SCMP_SYS(prctl), SCMP_SYS(prlimit64), SCMP_SYS(getrlimit),
    // Questions about ourselves and the host.
    SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(getppid), SCMP_SYS(getuid), SCMP_SYS(geteuid), SCMP_SYS(getgid), SCMP_SYS(getegid), SCMP_SYS(getrandom), SCMP_SYS(uname), SCMP_SYS(sysinfo),
    SCMP_SYS(getrusage), SCMP_SYS(times), SCMP_SYS(capget),
};

/// Writes which call it was, in the few ways that a signal handler may.
void refuse(int, siginfo_t* info, void*) {
    char line[] = "vezha: the sandbox ended the machine: system call      is not allowed; --sandbox off allows it, please report this\n";
    char* digits = std::strstr(line, "     is") + 4;
    for (unsigned number = static_cast<unsigned>(info->si_syscall), i = 0; i < 4 && (number || i == 0); ++i, number /= 10)
        *--digits = static_cast<char>('0' + number % 10);
    chardev::RawTerminal::restore_now();
    [[maybe_unused]] ssize_t ignored = write(STDERR_FILENO, line, sizeof line - 1);
    _exit(1);
}

struct Release {
    void operator()(void* filter) const { seccomp_release(filter); }
};
using Filter = std::unique_ptr<void, Release>;

Result<> add(const Filter& filter, u32 action, int call, std::initializer_list<scmp_arg_cmp> conditions = {}) {
    const int error = seccomp_rule_add_array(filter.get(), action, call, static_cast<unsigned>(conditions.size()), conditions.begin());
    if (error < 0) return fail_errno(-error, "seccomp rule for system call {}", call);
    return {};
}

Result<> drop_capabilities() {
    capng_clear(CAPNG_SELECT_BOTH);
    // The bounding set is only root's to change; without capabilities it has no meaning under no_new_privs.
    if (capng_apply(CAPNG_SELECT_CAPS) != 0) return fail(ErrorCode::PermissionDenied, "cannot drop capabilities");
    return {};
}

}  // namespace

Result<> enter_sandbox(SandboxMode mode) {
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return fail_errno(errno, "no_new_privs");
    TRY(drop_capabilities());

    struct sigaction action {};
    action.sa_sigaction = refuse;
    action.sa_flags = SA_SIGINFO;
    if (sigaction(SIGSYS, &action, nullptr) != 0) return fail_errno(errno, "SIGSYS");

    const Filter filter(seccomp_init(mode == SandboxMode::Log ? SCMP_ACT_LOG : SCMP_ACT_TRAP));
    if (!filter) return fail(ErrorCode::OutOfMemory, "seccomp filter");
    for (const int call : kAllowed) TRY(add(filter, SCMP_ACT_ALLOW, call));
    // Files may be opened for reading alone: the resolver's configuration, figures in /proc.
    TRY(add(filter, SCMP_ACT_ALLOW, SCMP_SYS(openat), {SCMP_A2(SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY)}));
    TRY(add(filter, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(openat), {SCMP_A2(SCMP_CMP_MASKED_EQ, O_ACCMODE, O_WRONLY)}));
    TRY(add(filter, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(openat), {SCMP_A2(SCMP_CMP_MASKED_EQ, O_ACCMODE, O_RDWR)}));
    // Threads, not processes. The flags of clone3 cannot be looked at: libc falls back to clone.
    TRY(add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), {SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD)}));
    TRY(add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3)));
    // Libraries may ask and live without: access() to a file is no secret.
    TRY(add(filter, SCMP_ACT_ERRNO(ENOENT), SCMP_SYS(access)));

    seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);
    if (const int error = seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_TSYNC, 1); error < 0) return fail_errno(-error, "seccomp for all threads");
    if (const int error = seccomp_load(filter.get()); error < 0)
        return Failure(errno_error(-error, "seccomp").with_hint("this host's kernel refuses system call filters: --sandbox off"));
    return {};
}

}  // namespace vezha::vmm
