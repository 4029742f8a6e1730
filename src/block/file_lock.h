// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "base/result.h"

namespace vezha::block {

/// Locks an image for as long as `fd`'s open file description lives: writers exclude all others, readers exclude
/// writers. Open file description locks on byte ranges that QEMU's tools look at too, so that neither program opens what
/// the other writes. Errors: Busy, naming the process that holds the image where the host lets us see it.
Result<> lock_image(int fd, const std::string& path, bool writer);

}  // namespace vezha::block
