// SPDX-License-Identifier: Apache-2.0
#include "block/probe.h"

#include <cstring>

namespace vezha::block {

std::string_view probe_format(std::span<const std::byte> head) {
    struct Signature {
        std::string_view format;
        usize offset;
        std::string_view bytes;
    };
    using namespace std::string_view_literals;
    static constexpr Signature kSignatures[] = {
        {"qcow2", 0, "QFI\xfb"sv},
        {"qed", 0, "QED\0"sv},
        {"vmdk", 0, "KDMV"sv},
        {"vmdk", 0, "COWD"sv},
        {"vmdk", 0, "# Disk DescriptorFile"sv},
        {"vdi", 0x40, "\x7f\x10\xda\xbe"sv},
        {"vhdx", 0, "vhdxfile"sv},
        {"vpc", 0, "conectix"sv},
    };
    for (const Signature& signature : kSignatures) {
        if (head.size() < signature.offset + signature.bytes.size()) continue;
        if (std::memcmp(head.data() + signature.offset, signature.bytes.data(), signature.bytes.size()) == 0)
            return signature.format;
    }
    return "raw";
}

}  // namespace vezha::block
