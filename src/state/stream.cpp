// SPDX-License-Identifier: Apache-2.0
#include "state/stream.h"

#include <cstring>

#include "base/bytes.h"

namespace vezha::state {

void Section::put(std::string_view name, std::span<const u8> bytes) {
    fields_.insert_or_assign(std::string(name), std::vector<u8>(bytes.begin(), bytes.end()));
}

const std::vector<u8>* Section::get(std::string_view name) const {
    auto found = fields_.find(name);
    return found == fields_.end() ? nullptr : &found->second;
}

std::vector<u8> Section::encode() const {
    std::vector<u8> out;
    auto append = [&out](const void* data, usize size) {
        const u8* bytes = static_cast<const u8*>(data);
        out.insert(out.end(), bytes, bytes + size);
    };
    for (const auto& [name, bytes] : fields_) {
        const u16 name_length = static_cast<u16>(name.size());
        const u32 size = static_cast<u32>(bytes.size());
        append(&name_length, sizeof name_length);
        append(name.data(), name.size());
        append(&size, sizeof size);
        append(bytes.data(), bytes.size());
    }
    return out;
}

Result<Section> Section::decode(std::span<const u8> bytes) {
    Section section;
    ByteReader in(std::as_bytes(bytes));
    usize at = 0;
    while (at < bytes.size()) {
        const u16 name_length = TRY(in.le<u16>(at));
        auto name = TRY(in.slice(at + 2, name_length));
        const u32 size = TRY(in.le<u32>(at + 2 + name_length));
        auto data = TRY(in.slice(at + 6 + name_length, size));
        std::string_view key(reinterpret_cast<const char*>(name.data()), name.size());
        if (section.get(key)) return fail(ErrorCode::InvalidFormat, "field '{}' occurs twice", key);
        section.put(key, {reinterpret_cast<const u8*>(data.data()), data.size()});
        at += 6 + name_length + size;
    }
    return section;
}

}  // namespace vezha::state
