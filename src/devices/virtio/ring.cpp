// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/ring.h"

#include <algorithm>

namespace vezha::devices::virtio {

Result<> Ring::add_indirect(ChainBuilder& builder, const DescriptorView& table, bool packed) {
    if (table.flags & kDescriptorNext) return fail(ErrorCode::Corrupt, "an indirect descriptor with a next one");
    if (table.length == 0 || table.length % 16)
        return fail(ErrorCode::Corrupt, "an indirect table of {} bytes", table.length);
    const u32 entries = table.length / 16;
    if (entries > ChainBuilder::kMaxDescriptors && packed)
        return fail(ErrorCode::Corrupt, "an indirect table of {} descriptors", entries);
    // A table may span two pieces of memory; then each entry is copied by address.
    const u8* host = memory_.host_range({table.address}, table.length, false);
    u32 index = 0;
    // The builder's limit ends loops.
    for (;;) {
        struct Raw {
            u64 address;
            u32 length;
            u16 third, fourth;  // split: flags, next; packed: id, flags
        } raw;
        if (host) raw = fetch<Raw>(host + 16 * u64{index});
        else raw = TRY(memory_.read_object<Raw>({table.address + 16 * u64{index}}).context("indirect table"));
        const u16 flags = packed ? raw.fourth : raw.third;
        if (flags & kDescriptorIndirect) return fail(ErrorCode::Corrupt, "an indirect descriptor inside an indirect table");
        TRY(builder.add({raw.address, raw.length, flags}));
        if (packed) {
            if (++index == entries) return {};
        } else {
            if (!(flags & kDescriptorNext)) return {};
            index = raw.fourth;
            if (index >= entries) return fail(ErrorCode::Corrupt, "next descriptor {} of an indirect table of {}", index, entries);
        }
    }
}

void Ring::mark_written(const Chain& chain, u32 written) {
    for (const iovec& piece : chain.writable()) {
        if (written == 0) return;
        const u32 count = static_cast<u32>(std::min<u64>(piece.iov_len, written));
        memory_.mark_dirty_host(piece.iov_base, count);
        written -= count;
    }
}

}  // namespace vezha::devices::virtio
