// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "chardev/stream.h"

namespace vezha::chardev {

/// A new pseudo-terminal; `screen $(name)` attaches to it. We hold the other side open, so that leaving and coming back
/// are no events.
class PtyChardev final : public StreamChardev {
  public:
    static Result<std::unique_ptr<PtyChardev>> create(EventLoop& loop);
    ~PtyChardev() override;
    std::string describe() const override { return "pty:" + name_; }
    const std::string& device_name() const { return name_; }

  private:
    PtyChardev(EventLoop& loop, UniqueFd master, UniqueFd slave, std::string name);
    UniqueFd master_, slave_;
    std::string name_;
};

}  // namespace vezha::chardev
