// SPDX-License-Identifier: Apache-2.0
#include "devices/pci/host_bridge.h"

#include "base/check.h"

namespace vezha::devices::pci {

namespace {
constexpr u16 kPciExBar = 0x60;
constexpr u64 kEcamSizes[3] = {256 * kMiB, 128 * kMiB, 64 * kMiB};
}  // namespace

HostBridge::HostBridge(bus::Bus& bus, bus::MsiSink& msi, PciBus& root, Options options)
    : Function(bus, msi, "host-bridge", {0x8086, 0x29c0, 0x060000, 2, 0x8086, 0x29c0}), access_(root) {
    set_config<u64>(kPciExBar, options.ecam_base ? *options.ecam_base | 1 : 0);
    set_writable<u64>(kPciExBar, 0xf'fc00'0007ull);
    // PAM0 to PAM6, SMRAM: stored only; the memory behind them is always RAM, or ROM for everybody.
    for (u16 at = 0x90; at <= 0x96; ++at) set_writable<u8>(at, 0x33);
    set_writable<u8>(0x9d, 0x4f);
    set_config<u8>(0x9d, 0x02);
    auto must = [](auto mapped) {
        CHECK(mapped.has_value());
        return *std::move(mapped);
    };
    address_ports_ = must(bus.map(bus::Space::Pio, 0xcf8, 4, access_, ConfigAccess::kAddress, "pci-address"));
    data_ports_ = must(bus.map(bus::Space::Pio, 0xcfc, 4, access_, ConfigAccess::kData, "pci-data"));
    for (unsigned i = 0; i < 3; ++i)
        ecam_[i] = must(bus.map(bus::Space::Mmio, std::nullopt, kEcamSizes[i], access_, ConfigAccess::kEcam, "pci-ecam", -2));
    place_ecam();
    CHECK(root.add(*this, Slot{0, 0}).has_value());
}

void HostBridge::config_written(u16 offset, unsigned size) {
    if (offset < kPciExBar + 8 && offset + size > kPciExBar) place_ecam();
}

void HostBridge::place_ecam() {
    const u64 value = config<u64>(kPciExBar);
    const unsigned length = value >> 1 & 3;
    for (unsigned i = 0; i < 3; ++i) {
        const bool shown = (value & 1) && length == i;
        ecam_[i]->move(shown ? std::optional<u64>(value & 0xf'fc00'0000ull & ~(kEcamSizes[i] - 1)) : std::nullopt);
    }
}

void HostBridge::save(state::Section& out) const {
    Function::save(out);
    out.put_value("config_address", access_.address);
}

Result<> HostBridge::load(const state::Section& in, u32 saved_version) {
    TRY(Function::load(in, saved_version));
    access_.address = TRY(in.get_value<u32>("config_address"));
    place_ecam();
    return {};
}

u64 HostBridge::ConfigAccess::access(u8 bus, Slot slot, u16 offset, unsigned size, const u64* value) {
    // Functions take at most four bytes at once.
    u64 result = 0;
    for (unsigned done = 0; done < size; done += 4) {
        const unsigned part = std::min(size - done, 4u);
        const u16 at = static_cast<u16>(offset + done);
        if (value) root_.config_write(bus, slot, at, part, static_cast<u32>(*value >> (8 * done)));
        else result |= u64{root_.config_read(bus, slot, at, part)} << (8 * done);
    }
    return result;
}

namespace {
Slot slot_of(u64 devfn) { return {static_cast<u8>(devfn >> 3 & 31), static_cast<u8>(devfn & 7)}; }
}  // namespace

u64 HostBridge::ConfigAccess::read(u32 range, u64 offset, unsigned size) {
    if (range == kAddress) return offset == 0 && size == 4 ? address : mask_bytes(size);
    if (range == kEcam)
        return access(static_cast<u8>(offset >> 20), slot_of(offset >> 12), static_cast<u16>(offset & 0xfff), size, nullptr);
    if (!(address & 0x8000'0000) || offset + size > 4) return mask_bytes(size);
    const u16 at = static_cast<u16>((address & 0xfc) + offset);
    return access(static_cast<u8>(address >> 16), slot_of(address >> 8), at, size, nullptr);
}

void HostBridge::ConfigAccess::write(u32 range, u64 offset, unsigned size, u64 value) {
    if (range == kAddress) {
        if (offset == 0 && size == 4) address = static_cast<u32>(value) & 0x80ff'fffc;
        return;
    }
    if (range == kEcam) {
        access(static_cast<u8>(offset >> 20), slot_of(offset >> 12), static_cast<u16>(offset & 0xfff), size, &value);
        return;
    }
    if (!(address & 0x8000'0000) || offset + size > 4) return;
    access(static_cast<u8>(address >> 16), slot_of(address >> 8), static_cast<u16>((address & 0xfc) + offset), size, &value);
}

}  // namespace vezha::devices::pci
