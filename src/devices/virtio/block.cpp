// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/block.h"

#include <algorithm>
#include <bit>

#include "base/log.h"

namespace vezha::devices::virtio {

namespace {

// Feature bits, 5.2.3.
constexpr unsigned kSegMax = 2, kGeometry = 4, kReadOnly = 5, kBlockSize = 6, kFlush = 9, kTopology = 10, kConfigWce = 11,
                   kMultiQueue = 12, kDiscard = 13, kWriteZeroes = 14;

// Request types and status, 5.2.6.
constexpr u32 kIn = 0, kOut = 1, kFlushRequest = 4, kGetId = 8, kDiscardRequest = 11, kWriteZeroesRequest = 13;
constexpr u8 kOk = 0, kIoError = 1, kUnsupported = 2;

constexpr u32 kSectorSize = 512;
constexpr u32 kIdBytes = 20;
constexpr u32 kMaxSegments = 256;             // of one discard or write-zeroes request
constexpr u32 kMaxRangeSectors = 0x40'0000;   // 2 GiB per segment
constexpr u32 kUnmapFlag = 1;

/// 5.2.4
struct Config {
    u64 capacity;  // sectors
    u32 size_max, seg_max;
    u16 cylinders;
    u8 heads, sectors;
    u32 blk_size;
    u8 physical_block_exp, alignment_offset;
    u16 min_io_size;
    u32 opt_io_size;
    u8 writeback, unused0;
    u16 num_queues;
    u32 max_discard_sectors, max_discard_seg, discard_sector_alignment;
    u32 max_write_zeroes_sectors, max_write_zeroes_seg;
    u8 write_zeroes_may_unmap, unused1[3];
    u32 max_secure_erase_sectors, max_secure_erase_seg, secure_erase_sector_alignment;
};
static_assert(sizeof(Config) == 72 && offsetof(Config, writeback) == 32 && offsetof(Config, max_write_zeroes_sectors) == 48);

struct Range {
    u64 sector;
    u32 sectors, flags;
};

u64 features(const block::Geometry& geometry, const BlockOptions& options) {
    u64 out = bit(kSegMax) | bit(kGeometry) | bit(kBlockSize) | bit(kFlush) | bit(kTopology) | bit(kConfigWce);
    if (options.queues.size() > 1) out |= bit(kMultiQueue);
    if (geometry.read_only || options.read_only) return out | bit(kReadOnly);
    if (geometry.can_discard) out |= bit(kDiscard);
    if (geometry.can_write_zeroes) out |= bit(kWriteZeroes);
    return out;
}

}  // namespace

Result<std::unique_ptr<VirtioBlock>> VirtioBlock::create(const Wiring& wiring, block::Disk& disk, BlockOptions options) {
    if (options.queues.empty() || options.queues.size() > 255)
        return fail(ErrorCode::InvalidArgument, "a virtio disk has 1 to 255 queues, not {}", options.queues.size());
    std::unique_ptr<VirtioBlock> device(new VirtioBlock(wiring, disk, std::move(options)));
    for (u16 i = 0; i < device->queue_count(); ++i) {
        Result<> outcome;
        EventLoop& loop = device->queue_loop(i);
        loop.run_exclusive([&] {
            auto queue = disk.attach(loop);
            if (queue) device->states_[i].disk = *std::move(queue);
            else outcome = Failure(queue.error());
        });
        TRY(outcome);
    }
    TRY(device->start());
    return device;
}

VirtioBlock::VirtioBlock(const Wiring& wiring, block::Disk& disk, BlockOptions options)
    : PciDevice(wiring, {Type::Block, "virtio-blk", 0x010000, features(disk.geometry(), options), sizeof(Config)}, options.queues),
      disk_(disk), options_(std::move(options)), read_only_(options_.read_only || disk.geometry().read_only),
      states_(options_.queues.size()) {
    const block::Geometry geometry = disk.geometry();
    const u64 sectors = geometry.size / kSectorSize;
    const u32 block = std::max(geometry.block_size, kSectorSize);
    Config config{};
    config.capacity = sectors;
    u16 smallest = options_.queues[0].size;
    for (const auto& queue : options_.queues) smallest = std::min(smallest, queue.size);
    config.seg_max = smallest > 4 ? smallest - 2u : 1;  // header and status take two
    config.heads = 16;
    config.sectors = 63;
    config.cylinders = static_cast<u16>(std::clamp<u64>(sectors / (16 * 63), 2, 65535));
    config.blk_size = block;
    const u32 optimal = std::max(std::bit_ceil(geometry.optimal_io), block);
    const u32 physical = std::clamp<u32>(optimal, block, std::max<u32>(4096, block));
    config.physical_block_exp = static_cast<u8>(std::countr_zero(physical / std::bit_floor(block)));
    config.min_io_size = static_cast<u16>(std::min<u32>(physical / block, 0xffff));
    config.opt_io_size = optimal / block;
    config.writeback = options_.write_cache;
    config.num_queues = static_cast<u16>(options_.queues.size());
    config.max_discard_sectors = config.max_write_zeroes_sectors = kMaxRangeSectors;
    config.max_discard_seg = config.max_write_zeroes_seg = kMaxSegments;
    config.discard_sector_alignment = block / kSectorSize;
    config.write_zeroes_may_unmap = geometry.can_discard;
    set_device_config(0, config);
    set_config_writable(offsetof(Config, writeback), 1);
}

VirtioBlock::~VirtioBlock() {
    shutdown();
    for (u16 i = 0; i < queue_count(); ++i) queue_loop(i).run_exclusive([&] { states_[i].disk.reset(); });
}

void VirtioBlock::size_changed() {
    set_device_config<u64>(0, disk_.geometry().size / kSectorSize);
    config_changed();
}

void VirtioBlock::on_driver_ready() {
    // Without either feature the driver counts on write-through (5.2.6.2).
    if (!negotiated(kConfigWce) && !negotiated(kFlush)) write_through_ = true;
    else write_through_ = device_config<u8>(offsetof(Config, writeback)) == 0;
}

void VirtioBlock::on_reset() { set_device_config<u8>(offsetof(Config, writeback), options_.write_cache); }

void VirtioBlock::on_config_written(u32 offset, u32 size) {
    constexpr u32 at = offsetof(Config, writeback);
    if (offset > at || offset + size <= at || !negotiated(kConfigWce)) return;
    const u8 value = device_config<u8>(at) & 1;
    set_device_config<u8>(at, value);
    write_through_ = value == 0;
}

void VirtioBlock::on_queue(u16 index) {
    QueueState& state = states_[index];
    for (u32 budget = kBatch; budget > 0; --budget) {
        if (state.free.empty()) {
            state.slots.push_back(std::make_unique<Slot>());
            state.free.push_back(state.slots.back().get());
        }
        Slot& slot = *state.free.back();
        if (!pop(index, slot.chain)) return;
        state.free.pop_back();
        slot.queue = index;
        begin(slot);
    }
    kick(index);
}

void VirtioBlock::begin(Slot& slot) {
    slot.status = kOk;
    slot.written = 0;
    slot.flush_after = false;
    slot.parts = 1;  // ours, so that parts that end at once do not end the request
    Header header{};
    if (!read_object(slot.chain.readable(), 0, header) || slot.chain.writable_bytes() == 0) {
        // No place to say what is wrong.
        set_needs_reset(Error(ErrorCode::Corrupt, "a block request without header or status"));
        queue(slot.queue).push(slot.chain, 0);
        states_[slot.queue].free.push_back(&slot);
        return;
    }
    switch (header.type) {
        case kIn: transfer(slot, header, false); break;
        case kOut: transfer(slot, header, true); break;
        case kFlushRequest: {
            block::Request request;
            request.op = block::Op::Flush;
            submit(slot, std::move(request));
            break;
        }
        case kGetId: {
            std::array<u8, kIdBytes> id{};
            std::memcpy(id.data(), options_.serial.data(), std::min<usize>(options_.serial.size(), kIdBytes));
            const u64 room = std::min<u64>(slot.chain.writable_bytes() - 1, kIdBytes);
            slot.written = copy_to(slot.chain.writable(), 0, std::span(id).first(room));
            break;
        }
        case kDiscardRequest: discard_or_zero(slot, false); break;
        case kWriteZeroesRequest: discard_or_zero(slot, true); break;
        default: slot.status = kUnsupported; break;
    }
    part_done(slot, {});
}

void VirtioBlock::transfer(Slot& slot, const Header& header, bool write) {
    const u64 length = write ? slot.chain.readable_bytes() - sizeof(Header) : slot.chain.writable_bytes() - 1;
    const block::Geometry geometry = disk_.geometry();
    const u64 sectors = geometry.size / kSectorSize;
    if (header.sector > sectors || length > (sectors - header.sector) * kSectorSize || length % kSectorSize ||
        (header.sector * kSectorSize | length) % geometry.block_size || (write && read_only_)) {
        slot.status = kIoError;
        return;
    }
    if (length == 0) return;
    block::Request request;
    request.op = write ? block::Op::Write : block::Op::Read;
    request.offset = header.sector * kSectorSize;
    request.length = length;
    request.pieces.reserve(slot.chain.readable().size() + slot.chain.writable().size());
    if (write) slice(slot.chain.readable(), sizeof(Header), length, request.pieces);
    else slice(slot.chain.writable(), 0, length, request.pieces);
    request.force_unit_access = write && write_through_;
    if (!write) slot.written = length;
    submit(slot, std::move(request));
}

void VirtioBlock::discard_or_zero(Slot& slot, bool zero) {
    if (!negotiated(zero ? kWriteZeroes : kDiscard)) {
        slot.status = kUnsupported;
        return;
    }
    const u64 length = slot.chain.readable_bytes() - sizeof(Header);
    const block::Geometry geometry = disk_.geometry();
    const u64 sectors = geometry.size / kSectorSize;
    if (length == 0 || length % sizeof(Range) || length / sizeof(Range) > kMaxSegments || read_only_) {
        slot.status = kIoError;
        return;
    }
    std::vector<Range> ranges(length / sizeof(Range));
    copy_from(slot.chain.readable(), sizeof(Header), {reinterpret_cast<u8*>(ranges.data()), static_cast<usize>(length)});
    // All are checked before the first has an effect (5.2.6.2).
    for (const Range& range : ranges) {
        const u32 known = zero ? kUnmapFlag : 0;
        if (range.flags & ~known) {
            slot.status = kUnsupported;
            return;
        }
        if (range.sectors > kMaxRangeSectors || range.sector > sectors || range.sectors > sectors - range.sector ||
            (range.sector * kSectorSize | u64{range.sectors} * kSectorSize) % geometry.block_size) {
            slot.status = kIoError;
            return;
        }
    }
    slot.flush_after = write_through_;
    for (const Range& range : ranges) {
        if (range.sectors == 0) continue;
        block::Request request;
        request.op = zero ? block::Op::WriteZeroes : block::Op::Discard;
        request.offset = range.sector * kSectorSize;
        request.length = u64{range.sectors} * kSectorSize;
        request.may_unmap = range.flags & kUnmapFlag;
        submit(slot, std::move(request));
    }
}

void VirtioBlock::submit(Slot& slot, block::Request request) {
    ++slot.parts;
    request.done = [this, &slot](Result<> result) { part_done(slot, result); };
    states_[slot.queue].disk->submit(std::move(request));
}

void VirtioBlock::part_done(Slot& slot, const Result<>& result) {
    if (!result) {
        slot.status = result.error().code() == ErrorCode::Unsupported ? kUnsupported : kIoError;
        slot.written = 0;
    }
    if (--slot.parts > 0) return;
    if (slot.flush_after && slot.status == kOk) {
        slot.flush_after = false;
        block::Request request;
        request.op = block::Op::Flush;
        return submit(slot, std::move(request));
    }
    finish(slot);
}

void VirtioBlock::finish(Slot& slot) {
    // The status is the last writable byte. The used length counts from the start, so it says so only when all is written.
    const u64 at = slot.chain.writable_bytes() - 1;
    write_object(slot.chain.writable(), at, slot.status);
    const iovec& last = slot.chain.writable().back();
    memory().mark_dirty_host(static_cast<u8*>(last.iov_base) + last.iov_len - 1, 1);
    const u64 written = slot.written == at ? at + 1 : slot.written ? slot.written : at == 0 ? 1 : 0;
    queue(slot.queue).push(slot.chain, written);
    states_[slot.queue].free.push_back(&slot);
    complete_later(slot.queue);
}

}  // namespace vezha::devices::virtio
