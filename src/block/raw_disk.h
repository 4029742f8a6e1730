// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "block/disk.h"
#include "block/host_file.h"

namespace vezha::block {

struct RawOptions {
    bool read_only = false;
    CacheMode cache = CacheMode::Writeback;
    bool discard = true;  ///< the guest's discards give space back to the host
    AsyncIo async_io = AsyncIo::Auto;
    bool lock = true;
};

/// A raw image: the guest's bytes are the file's bytes. Regular files and block devices. A regular file whose size is no
/// multiple of a sector gets a last sector that ends in zeroes.
/// Errors: of open_host_file(), and Busy if another process uses the image.
Result<std::unique_ptr<Disk>> open_raw(const std::string& path, const RawOptions& options = {});
/// The same for a file that is open (and locked, if that is wanted).
std::unique_ptr<Disk> raw_disk(HostFile file, const RawOptions& options);

}  // namespace vezha::block
