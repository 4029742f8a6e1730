// SPDX-License-Identifier: Apache-2.0
#include "devices/platform/fw_cfg.h"

#include <algorithm>

#include "base/log.h"

namespace vezha::devices::platform {

namespace {
enum Range : u32 { kPorts, kDma };
constexpr u32 kDmaError = 1, kDmaRead = 2, kDmaSkip = 4, kDmaSelect = 8, kDmaWrite = 16;
constexpr u64 kDmaSignature = 0x51454d5520434647ull;  // "QEMU CFG", read big-endian
constexpr usize kNameSize = 56;
constexpr u16 kSelectorMask = 0x3fff;  // bits 14 and 15: write, architecture-specific

void put_be32(std::vector<u8>& out, u32 value) {
    for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<u8>(value >> shift));
}
}  // namespace

FwCfg::FwCfg(bus::Bus& bus, memory::GuestMemory& memory, u16 port) : memory_(memory) {
    set_item(kSignature, {'Q', 'E', 'M', 'U'});
    set_value<u32>(kId, 3);  // traditional interface and DMA
    rebuild_directory();
    map(bus, bus::Space::Pio, port, 2, kPorts, "fw-cfg");
    map(bus, bus::Space::Pio, port + 4u, 8, kDma, "fw-cfg-dma");
}

void FwCfg::set_item(u16 selector, std::vector<u8> bytes) { items_[selector].bytes = std::move(bytes); }

Result<u16> FwCfg::add_file(std::string name, std::vector<u8> bytes, std::function<void(std::span<const u8>)> on_written) {
    if (name.empty() || name.size() >= kNameSize)
        return fail(ErrorCode::OutOfRange, "fw_cfg file name '{}' is not 1 to {} bytes long", name, kNameSize - 1);
    if (file(name)) return fail(ErrorCode::AlreadyExists, "fw_cfg file '{}'", name);
    const u16 selector = std::max<u16>(kFirstFile, static_cast<u16>(items_.rbegin()->first + 1));
    if (selector > kSelectorMask) return fail(ErrorCode::NoSpace, "too many fw_cfg files");
    items_[selector] = {std::move(bytes), std::move(name), std::move(on_written)};
    rebuild_directory();
    return selector;
}

Result<> FwCfg::replace_file(std::string_view name, std::vector<u8> bytes) {
    std::lock_guard lock(mutex());
    for (auto& [selector, item] : items_) {
        if (item.name != name) continue;
        item.bytes = std::move(bytes);
        rebuild_directory();
        return {};
    }
    return fail(ErrorCode::NotFound, "fw_cfg file '{}'", name);
}

const std::vector<u8>* FwCfg::file(std::string_view name) const {
    for (const auto& [selector, item] : items_)
        if (!item.name.empty() && item.name == name) return &item.bytes;
    return nullptr;
}

void FwCfg::rebuild_directory() {
    std::vector<std::pair<u16, const Item*>> files;
    for (const auto& [selector, item] : items_)
        if (!item.name.empty()) files.emplace_back(selector, &item);
    // Sorted by name: readers that show the directory are deterministic whatever the order of creation.
    std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.second->name < b.second->name; });
    std::vector<u8> out;
    put_be32(out, static_cast<u32>(files.size()));
    for (const auto& [selector, item] : files) {
        put_be32(out, static_cast<u32>(item->bytes.size()));
        out.push_back(static_cast<u8>(selector >> 8));
        out.push_back(static_cast<u8>(selector));
        out.insert(out.end(), 2, 0);
        out.insert(out.end(), item->name.begin(), item->name.end());
        out.insert(out.end(), kNameSize - item->name.size(), 0);
    }
    items_[kFileDirectory].bytes = std::move(out);
}

void FwCfg::select(u16 selector) {
    selector_ = selector & kSelectorMask;
    offset_ = 0;
}

u8 FwCfg::next_byte() {
    auto found = items_.find(selector_);
    if (found == items_.end() || offset_ >= found->second.bytes.size()) return 0;
    return found->second.bytes[offset_++];
}

bool FwCfg::dma_transfer(u32 control, u64 address, u32 length) {
    if (control & kDmaSelect) select(static_cast<u16>(control >> 16));
    auto found = items_.find(selector_);
    Item* item = found == items_.end() ? nullptr : &found->second;
    const u64 left = item && offset_ < item->bytes.size() ? item->bytes.size() - offset_ : 0;
    if (control & kDmaRead) {
        const u32 real = static_cast<u32>(std::min<u64>(length, left));
        if (real && !memory_.write({address}, std::span(item->bytes).subspan(offset_, real))) return false;
        offset_ += real;
        // Past the end of an item, zeroes are read.
        static constexpr std::array<u8, 4096> kZeroes{};
        for (u64 done = real; done < length;) {
            const u64 part = std::min<u64>(length - done, kZeroes.size());
            if (!memory_.write({address + done}, std::span(kZeroes).first(part))) return false;
            done += part;
        }
        return true;
    }
    if (control & kDmaWrite) {
        if (!item || !item->on_written || length > left) return false;
        if (!memory_.read({address}, std::span(item->bytes).subspan(offset_, length))) return false;
        offset_ += length;
        item->on_written(item->bytes);
        return true;
    }
    if (control & kDmaSkip) offset_ += static_cast<u32>(std::min<u64>(length, left));
    return true;
}

void FwCfg::run_dma(u64 descriptor) {
    struct Descriptor {
        u32 control, length;
        u64 address;
    };
    static_assert(sizeof(Descriptor) == 16);
    auto fetched = memory_.read_object<Descriptor>({descriptor});
    if (!fetched) {
        LOG_GUEST_ERROR("fw-cfg", "DMA descriptor at {:#x} is not in memory", descriptor);
        return;
    }
    const u32 control = __builtin_bswap32(fetched->control), length = __builtin_bswap32(fetched->length);
    const u64 address = __builtin_bswap64(fetched->address);
    const bool done = address + length >= address && dma_transfer(control, address, length);
    if (!done) LOG_GUEST_ERROR("fw-cfg", "DMA of {} bytes at {:#x} failed (control {:#x})", length, address, control);
    const u32 answer = done ? 0 : __builtin_bswap32(kDmaError);
    if (!memory_.write_object({descriptor}, answer)) LOG_GUEST_ERROR("fw-cfg", "DMA descriptor cannot be written");
}

u64 FwCfg::read(u32 range, u64 offset, unsigned size) {
    if (range == kDma) {
        u64 value = 0;
        for (unsigned i = 0; i < size && offset + i < 8; ++i)
            value |= (kDmaSignature >> (56 - 8 * (offset + i)) & 0xff) << (8 * i);
        return value;
    }
    if (offset + size > 2 || offset != 1) return 0;
    return next_byte();
}

void FwCfg::write(u32 range, u64 offset, unsigned size, u64 value) {
    if (range == kPorts) {
        if (offset == 0 && size == 2) select(static_cast<u16>(value));
        return;  // writing data bytes was taken out of the interface long ago
    }
    // Big-endian address; its low half starts the transfer.
    if (offset == 0 && size == 8) return run_dma(__builtin_bswap64(value));
    if (offset == 0 && size == 4) {
        dma_address_ = u64{__builtin_bswap32(static_cast<u32>(value))} << 32;
    } else if (offset == 4 && size == 4) {
        const u64 descriptor = dma_address_ | __builtin_bswap32(static_cast<u32>(value));
        dma_address_ = 0;
        run_dma(descriptor);
    }
}

}  // namespace vezha::devices::platform
