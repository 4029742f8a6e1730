// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "chardev/stream.h"

namespace vezha::chardev {

/// Output into a file, FIFO or device. There is no input.
class FileChardev final : public StreamChardev {
  public:
    static Result<std::unique_ptr<FileChardev>> create(EventLoop& loop, std::string path, bool append);
    ~FileChardev() override;
    std::string describe() const override { return "file:" + path_; }

  private:
    FileChardev(EventLoop& loop, std::string path, UniqueFd fd);
    void on_output_failed(int error_number) override;
    std::string path_;
    UniqueFd fd_;
};

/// Takes everything and gives nothing.
class NullChardev final : public Chardev {
  public:
    void attach(Events) override {}
    void write(std::span<const u8>) override {}
    void resume_input() override {}
    std::string describe() const override { return "null"; }
};

}  // namespace vezha::chardev
