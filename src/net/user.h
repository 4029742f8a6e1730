// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "net/backend.h"

namespace vezha::net {

/// A port of the host that leads into the guest.
struct PortForward {
    std::string host_address = "127.0.0.1";  ///< IPv4 or IPv6; "" or "*": every address of the host
    u16 host_port = 0;
    u16 guest_port = 0;
    bool udp = false;
};
/// `[ADDRESS:]HOST:GUEST[/tcp|/udp]`; an IPv6 address in brackets.
Result<PortForward> parse_port_forward(std::string_view text);

struct UserOptions {
    std::vector<PortForward> forwards;
    bool restrict = false;  ///< the guest reaches nothing outside; forwards work
    std::string host_name;  ///< that DHCP tells the guest
    bool ipv6 = true;
};

/// User-mode network: the guest is behind NAT in 10.0.2.0/24 with DHCP (10.0.2.15), a gateway that is the host's loopback
/// (10.0.2.2) and a name server (10.0.2.3); no privilege needed. One queue. Takes checksum and segmentation offload,
/// since the host computes faster than an emulated guest.
/// Errors: a port in use, a privileged port, an address the host does not have; with hints.
Result<std::unique_ptr<Backend>> open_user(const UserOptions& options);

}  // namespace vezha::net
