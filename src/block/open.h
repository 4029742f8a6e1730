// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "block/raw_disk.h"

namespace vezha::block {

struct OpenOptions : RawOptions {
    /// "auto": raw, unless the image's first bytes announce a format, which is then refused rather than taken for raw.
    /// "raw": raw whatever it contains.
    std::string format = "auto";
};

/// Opens an image for a virtual machine. Errors: of open_raw(); Unsupported for a format that we do not read.
Result<std::unique_ptr<Disk>> open(const std::string& path, const OpenOptions& options = {});

/// "none", "writeback", "unsafe".
Result<CacheMode> parse_cache_mode(std::string_view text);
/// "auto", "io_uring", "threads".
Result<AsyncIo> parse_async_io(std::string_view text);

}  // namespace vezha::block
