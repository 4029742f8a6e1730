// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "chardev/open.h"
#include "chardev/stream.h"
#include "chardev/terminal.h"

namespace vezha::chardev {

/// Recognises the escape key in what a user types: Ctrl-A, then x (quit), h or ? (help), Ctrl-A or a (a real Ctrl-A);
/// after Ctrl-A any other key is swallowed. State is kept between reads.
class EscapeKey {
  public:
    enum class Action : u8 { None, Quit, Help };
    static constexpr char kKey = 0x01;
    /// Removes escapes from `bytes` and returns the first action found; what follows an action is kept for the guest.
    Action filter(std::string& bytes);

  private:
    bool armed_ = false;
};

/// Standard input and output: a terminal in raw mode, pipes or files. The end of input ends nothing else.
class StdioChardev final : public StreamChardev {
  public:
    static Result<std::unique_ptr<StdioChardev>> create(EventLoop& loop, OpenOptions options, int input = 0, int output = 1);
    ~StdioChardev() override;
    std::string describe() const override { return "stdio"; }

  private:
    StdioChardev(EventLoop& loop, OpenOptions options) : StreamChardev(loop), options_(std::move(options)) {}
    void filter_input(std::string& bytes) override;
    void tell_user(std::string_view text);

    /// A descriptor that does not block. Setting O_NONBLOCK on an inherited one would change it for our parent too, so a
    /// description of our own is opened where the host allows; otherwise the flag is put back at the end.
    struct Port {
        UniqueFd own;
        int fd = -1;
        int restore_flags = -1;
    };
    static Port make_port(int fd, int access);

    OpenOptions options_;
    Port input_port_, output_port_;
    std::unique_ptr<RawTerminal> terminal_;
    EscapeKey escape_;
};

}  // namespace vezha::chardev
