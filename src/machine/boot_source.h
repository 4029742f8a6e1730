// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "base/fd.h"
#include "machine/boot/boot.h"

namespace vezha::machine {

/// The kernel and initrd of a machine, open for its life, so that a reset loads them again. The files are mapped only
/// while they are copied into the guest.
class BootSource {
  public:
    /// @param initrd may be empty. @return what the host says, naming the flag and the file
    static Result<std::unique_ptr<BootSource>> open(const std::string& kernel, const std::string& initrd, std::string command_line);

    /// Copies everything into guest memory. @return the boot processor's state
    Result<x86::CpuState> load(memory::GuestMemory& memory, std::vector<boot::MapEntry> map, u64 rsdp) const;

  private:
    struct File {
        std::string flag, path;
        UniqueFd fd;
    };
    static Result<File> open_one(std::string flag, const std::string& path);
    File kernel_, initrd_;
    std::string command_line_;
};

}  // namespace vezha::machine
