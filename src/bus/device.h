// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mutex>

#include "base/types.h"

namespace vezha::bus {

/// A piece of hardware that answers accesses. The bus holds mutex() during read and write; whoever else enters the
/// device (timer, back end, control) takes it too. The mutex may be shared by several ranges of one device.
class Device {
  public:
    virtual ~Device() = default;
    /// @param range which of the device's mapped ranges (the number given to Bus::map)
    /// @param offset from the start of the range; @param size 1, 2, 4 or 8
    virtual u64 read(u32 range, u64 offset, unsigned size) = 0;
    virtual void write(u32 range, u64 offset, unsigned size, u64 value) = 0;
    std::mutex& mutex() { return mutex_; }

  private:
    std::mutex mutex_;
};

}  // namespace vezha::bus
