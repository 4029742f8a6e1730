// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "base/fd.h"

namespace vezha {

/// Listens on a UNIX stream socket. A socket file that nobody listens on any more is replaced; one in use is Busy.
/// The descriptor does not block. Whoever may open the socket is `mode`.
Result<UniqueFd> listen_unix(const std::string& path, unsigned mode = 0600);
/// Connects to a UNIX stream socket; the descriptor does not block afterwards.
Result<UniqueFd> connect_unix(const std::string& path);
/// Takes a waiting client without blocking; WouldBlock if there is none.
Result<UniqueFd> accept_client(int listener);

}  // namespace vezha
