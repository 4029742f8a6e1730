// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "base/types.h"

namespace vezha::net {

/// Appends `frame` to `packet` (a frame behind its VnetHeader) if both are TCP over IPv4 and `frame` is what follows in
/// the same stream: the guest then handles one large segment (VIRTIO_NET_F_GUEST_TSO4) in place of many. Headers alone
/// decide; the rules are those of Linux's generic receive offload. @return false: nothing was changed.
bool merge_tcp4(std::vector<u8>& packet, std::span<const u8> frame);

}  // namespace vezha::net
