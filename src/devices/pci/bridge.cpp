// SPDX-License-Identifier: Apache-2.0
#include "devices/pci/bridge.h"

namespace vezha::devices::pci {

Bridge::Bridge(bus::Bus& bus, bus::MsiSink& msi, std::string name, const Identity& identity)
    : Function(bus, msi, std::move(name), identity, /*header_type=*/1) {
    for (u16 at : {kPrimaryBus, kSecondaryBus, kSubordinateBus}) set_writable<u8>(at, 0xff);
    set_writable<u8>(0x1b, 0xff);  // secondary latency timer
    // I/O window: 16-bit; memory window; prefetchable window: 64-bit.
    set_writable<u16>(kIoBase, 0xf0f0);
    set_write_one_to_clear<u16>(kSecondaryStatus, kStatusErrors);
    set_writable<u32>(kMemoryBase, 0xfff0'fff0);
    set_writable<u32>(kPrefetchBase, 0xfff0'fff0);
    set_config<u32>(kPrefetchBase, 0x0001'0001);
    set_writable<u32>(kPrefetchBaseUpper, 0xffff'ffff);
    set_writable<u32>(kPrefetchLimitUpper, 0xffff'ffff);
    set_writable<u16>(kBridgeControl, 0x007f);
}

void Bridge::make_secondary(PciBus& parent, u8 device) { secondary_ = std::make_unique<PciBus>(parent, device); }

void Bridge::config_written(u16 offset, unsigned size) {
    // Secondary Bus Reset: the functions behind start again when the bit is set.
    if (offset > kBridgeControl || offset + size <= kBridgeControl || !(config_read(kBridgeControl, 1) & 0x40)) return;
    for (Function* function : secondary_->functions()) {
        std::lock_guard lock(function->mutex());
        function->reset();
    }
}

}  // namespace vezha::devices::pci
