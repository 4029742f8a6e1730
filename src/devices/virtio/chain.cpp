// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/chain.h"

#include <algorithm>

namespace vezha::devices::virtio {

ChainBuilder::ChainBuilder(const memory::GuestMemory& memory, Chain& chain) : memory_(memory), chain_(chain) {
    chain.pieces_.clear();
    chain.readable_count_ = 0;
    chain.readable_bytes_ = chain.writable_bytes_ = 0;
}

Result<> ChainBuilder::add(const DescriptorView& descriptor) {
    if (++count_ > kMaxDescriptors)
        return fail(ErrorCode::Corrupt, "a chain of more than {} descriptors", kMaxDescriptors);
    const bool write = descriptor.flags & kDescriptorWrite;
    if (!write && chain_.pieces_.size() > chain_.readable_count_)
        return fail(ErrorCode::Corrupt, "a readable descriptor after a writable one");
    if (chain_.readable_bytes_ + chain_.writable_bytes_ + descriptor.length > 0xffff'ffff)
        return fail(ErrorCode::Corrupt, "a chain of 4 GiB or more");
    if (descriptor.length == 0) return {};
    const memory::Gpa address{descriptor.address};
    if (u8* host = memory_.host_range(address, descriptor.length, write)) [[likely]] {
        chain_.pieces_.push_back({host, descriptor.length});
    } else {
        std::vector<std::span<u8>> pieces;
        TRY(memory_.host_pieces(address, descriptor.length, write, pieces).context("descriptor"));
        for (auto piece : pieces) chain_.pieces_.push_back({piece.data(), piece.size()});
    }
    if (write) {
        chain_.writable_bytes_ += descriptor.length;
    } else {
        chain_.readable_bytes_ += descriptor.length;
        chain_.readable_count_ = chain_.pieces_.size();
    }
    return {};
}

namespace {
template <class Piece>
usize walk(std::span<const iovec> pieces, u64 offset, u64 length, Piece&& piece) {
    usize done = 0;
    for (const iovec& part : pieces) {
        if (done == length) break;
        if (offset >= part.iov_len) {
            offset -= part.iov_len;
            continue;
        }
        const usize count = static_cast<usize>(std::min<u64>(part.iov_len - offset, length - done));
        piece(static_cast<u8*>(part.iov_base) + offset, done, count);
        done += count;
        offset = 0;
    }
    return done;
}
}  // namespace

usize copy_from(std::span<const iovec> pieces, u64 offset, std::span<u8> out) {
    return walk(pieces, offset, out.size(), [&](u8* at, usize done, usize count) { std::memcpy(out.data() + done, at, count); });
}

usize copy_to(std::span<const iovec> pieces, u64 offset, std::span<const u8> bytes) {
    return walk(pieces, offset, bytes.size(),
                [&](u8* at, usize done, usize count) { std::memcpy(at, bytes.data() + done, count); });
}

void slice(std::span<const iovec> pieces, u64 offset, u64 length, std::vector<iovec>& out) {
    walk(pieces, offset, length, [&](u8* at, usize, usize count) { out.push_back({at, count}); });
}

}  // namespace vezha::devices::virtio
