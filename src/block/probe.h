// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string_view>

#include "base/types.h"

namespace vezha::block {

/// Bytes at the start of an image that probe_format() wants to see.
inline constexpr usize kProbeBytes = 512;

/// The format that an image's first bytes announce: "qcow2", "qed", "vmdk", "vdi", "vhdx", "vpc", or "raw" if none. The
/// bytes are a guest's to write when the disk is raw, so the answer serves to refuse, never to interpret silently.
std::string_view probe_format(std::span<const std::byte> head);

}  // namespace vezha::block
