// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "net/backend.h"

namespace vezha::net {

struct SocketOptions {
    std::string address;  ///< a UNIX socket's path (it has a '/'), or ADDRESS:PORT for TCP
    bool listen = false;  ///< false: connect, and again each second while the other side is away
};

/// A cable between two virtual machines: Ethernet frames over a stream socket, each after its length in 32 bits,
/// big-endian (as QEMU's socket netdev). One peer at a time; without one, packets are dropped.
Result<std::unique_ptr<Backend>> open_socket(const SocketOptions& options);

/// No network: packets vanish.
std::unique_ptr<Backend> open_none();

}  // namespace vezha::net
