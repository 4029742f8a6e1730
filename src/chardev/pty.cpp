// SPDX-License-Identifier: Apache-2.0
#include "chardev/pty.h"

#include <fcntl.h>
#include <stdlib.h>
#include <termios.h>

#include <cerrno>

namespace vezha::chardev {

Result<std::unique_ptr<PtyChardev>> PtyChardev::create(EventLoop& loop) {
    UniqueFd master(::posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC));
    if (!master)
        return Failure(errno_error(errno, "cannot make a pseudo-terminal").with_hint("is devpts mounted on /dev/pts?"));
    char path[128];
    if (::grantpt(master.get()) < 0 || ::unlockpt(master.get()) < 0 || ::ptsname_r(master.get(), path, sizeof path) != 0)
        return fail_errno(errno, "cannot set up a pseudo-terminal");
    UniqueFd slave = TRY(open_file(path, O_RDWR | O_NOCTTY));
    termios settings = {};
    if (::tcgetattr(slave.get(), &settings) == 0) {
        ::cfmakeraw(&settings);  // no echo of the guest's output back to it
        ::tcsetattr(slave.get(), TCSANOW, &settings);
    }
    return std::unique_ptr<PtyChardev>(new PtyChardev(loop, std::move(master), std::move(slave), path));
}

PtyChardev::PtyChardev(EventLoop& loop, UniqueFd master, UniqueFd slave, std::string name)
    : StreamChardev(loop, /*keep_latest=*/true), master_(std::move(master)), slave_(std::move(slave)), name_(std::move(name)) {
    start(master_.get(), master_.get());
}

PtyChardev::~PtyChardev() { stop(); }

}  // namespace vezha::chardev
