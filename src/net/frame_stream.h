// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "base/result.h"

namespace vezha::net {

/// Cuts a byte stream into frames, each after its length in 32 bits, big-endian. The other side is not trusted: a length
/// beyond kMaxFrame is an error, after which the stream is of no use.
class FrameStream {
  public:
    /// Where the next bytes are to be read; never empty.
    std::span<u8> room();
    /// `size` bytes have been put into room().
    void filled(usize size) { end_ += size; }
    /// The next whole frame, valid until the next call of room(); empty if there is none yet.
    Result<std::span<const u8>> next();

  private:
    std::vector<u8> buffer_ = std::vector<u8>(256 * kKiB);
    usize begin_ = 0, end_ = 0;
};

}  // namespace vezha::net
