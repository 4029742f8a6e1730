// SPDX-License-Identifier: Apache-2.0
#include "vmm/signals.h"

#include <fmt/core.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "base/time.h"

namespace vezha::vmm {

Result<std::unique_ptr<Signals>> Signals::create(EventLoop& loop) {
    std::signal(SIGPIPE, SIG_IGN);
    sigset_t set;
    sigemptyset(&set);
    for (const int number : {SIGTERM, SIGINT, SIGHUP}) {
        // A signal that our parent made us ignore (nohup) stays ignored.
        struct sigaction now {};
        if (sigaction(number, nullptr, &now) == 0 && now.sa_handler == SIG_IGN) continue;
        sigaddset(&set, number);
    }
    if (sigprocmask(SIG_BLOCK, &set, nullptr) != 0) return fail_errno(errno, "sigprocmask");
    UniqueFd fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!fd) return fail_errno(errno, "signalfd");
    std::unique_ptr<Signals> signals(new Signals(loop, std::move(fd)));
    signals->watch_ = TRY(loop.watch(signals->fd_.get(), EPOLLIN, [self = signals.get()](u32) { self->arrived(); }));
    signals->patience_ = loop.new_timer([self = signals.get()] {
        fmt::print(stderr, "vezha: the guest did not shut down within a minute; ending it\n");
        if (self->vm_) self->vm_->quit(machine::ShutdownCause::HostSignal);
    });
    return signals;
}

Signals::~Signals() = default;

void Signals::arrived() {
    signalfd_siginfo info{};
    if (read(fd_.get(), &info, sizeof info) != sizeof info || !vm_) return;
    const auto state = vm_->run_state();
    if (asked_ || info.ssi_signo == SIGHUP || state != machine::RunState::Running) return vm_->quit(machine::ShutdownCause::HostSignal);
    asked_ = true;
    fmt::print(stderr, "vezha: the power button is pressed; send the signal again to end the machine at once\n");
    if (!vm_->system_powerdown()) return vm_->quit(machine::ShutdownCause::HostSignal);
    patience_->arm(monotonic_ns() + kPatienceNs);
}

}  // namespace vezha::vmm
