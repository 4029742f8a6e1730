// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "base/fd.h"
#include "net/backend.h"

namespace vezha::net {

struct TapOptions {
    std::string name;      ///< the interface, made if it does not exist (and the host permits); ignored with `fds`
    u32 queue_pairs = 1;
    std::vector<int> fds;  ///< open tap descriptors, one per queue pair, taken over; made with IFF_VNET_HDR
};

/// A tap interface of the host, with the kernel's checksum and segmentation offloads in both directions.
/// Errors: PermissionDenied, Busy, NotFound (no tun driver); with hints.
Result<std::unique_ptr<Backend>> open_tap(const TapOptions& options);

}  // namespace vezha::net
