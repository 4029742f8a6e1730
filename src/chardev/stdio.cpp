// SPDX-License-Identifier: Apache-2.0
#include "chardev/stdio.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace vezha::chardev {

static constexpr std::string_view kHelp =
    "\r\n"
    "Ctrl-A h   this help\r\n"
    "Ctrl-A x   end the virtual machine at once, as if its power cord were pulled\r\n"
    "Ctrl-A Ctrl-A   send Ctrl-A to the guest\r\n";

EscapeKey::Action EscapeKey::filter(std::string& bytes) {
    Action action = Action::None;
    std::string out;
    for (char c : bytes) {
        if (!armed_) {
            if (c == kKey)
                armed_ = true;
            else
                out += c;
            continue;
        }
        armed_ = false;
        Action this_action = Action::None;
        switch (c) {
            case kKey:
            case 'a': out += kKey; break;
            case 'x':
            case 'X': this_action = Action::Quit; break;
            case 'h':
            case 'H':
            case '?': this_action = Action::Help; break;
            default: break;
        }
        if (action == Action::None || this_action == Action::Quit) action = this_action;
    }
    bytes = std::move(out);
    return action;
}

StdioChardev::Port StdioChardev::make_port(int fd, int access) {
    Port port;
    port.fd = fd;
    struct stat info = {};
    if (::fstat(fd, &info) < 0) {
        port.fd = -1;  // closed by whoever started us
        return port;
    }
    if (S_ISREG(info.st_mode)) return port;  // never waits; a second description would lose its offset
    if (S_ISCHR(info.st_mode) || S_ISFIFO(info.st_mode)) {
        port.own.reset(::open(fmt::format("/proc/self/fd/{}", fd).c_str(), access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
        if (port.own) {
            port.fd = port.own.get();
            return port;
        }
    }
    const int flags = ::fcntl(fd, F_GETFL);
    if (flags >= 0 && !(flags & O_NONBLOCK) && ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0) port.restore_flags = flags;
    return port;
}

Result<std::unique_ptr<StdioChardev>> StdioChardev::create(EventLoop& loop, OpenOptions options, int input, int output) {
    auto device = std::unique_ptr<StdioChardev>(new StdioChardev(loop, std::move(options)));
    if (::isatty(input)) {
        device->terminal_ = TRY(RawTerminal::create(input));
        if (!device->options_.greeting.empty()) device->tell_user(device->options_.greeting);
    }
    device->input_port_ = make_port(input, O_RDONLY);
    device->output_port_ = make_port(output, O_WRONLY);
    device->start(device->input_port_.fd, device->output_port_.fd);
    return device;
}

StdioChardev::~StdioChardev() {
    drain(2000);  // the guest's last words; a reader that has stopped reading does not hold us for long
    stop();
    for (Port* port : {&output_port_, &input_port_})
        if (port->restore_flags >= 0) ::fcntl(port->fd, F_SETFL, port->restore_flags);
}

void StdioChardev::tell_user(std::string_view text) {
    [[maybe_unused]] ssize_t ignored = ::write(STDERR_FILENO, text.data(), text.size());
}

void StdioChardev::filter_input(std::string& bytes) {
    if (!terminal_) return;  // bytes from a pipe or file are data, all of them
    switch (escape_.filter(bytes)) {
        case EscapeKey::Action::None: break;
        case EscapeKey::Action::Help: tell_user(kHelp); break;
        case EscapeKey::Action::Quit:
            if (options_.on_quit) options_.on_quit();
            break;
    }
}

}  // namespace vezha::chardev
