// SPDX-License-Identifier: Apache-2.0
#include "machine/pci_setup.h"

#include <algorithm>

#include "devices/pci/bridge.h"

namespace vezha::machine {

using devices::pci::BarKind;
using devices::pci::Function;

namespace {
// PCI-to-PCI Bridge Architecture 1.2, 3.2.
constexpr u16 kIoBase = 0x1c, kMemoryBase = 0x20, kPrefetchableBase = 0x24;
}  // namespace

Result<> assign_pci_resources(devices::pci::PciBus& root, const PciWindows& windows) {
    struct Wish {
        Function* function;
        unsigned bar;
        u64 size;
        BarKind kind;
    };
    std::vector<Wish> wishes;
    for (Function* function : root.functions())
        for (unsigned bar = 0; bar < 6; ++bar)
            if (const u64 size = function->bar_size(bar)) wishes.push_back({function, bar, size, function->bar_kind(bar)});
    // The largest first: then everything is aligned to its size without gaps.
    std::stable_sort(wishes.begin(), wishes.end(), [](const Wish& a, const Wish& b) { return a.size > b.size; });
    u64 next32 = windows.base32, next64 = windows.base64, next_io = windows.io_base;
    for (const Wish& wish : wishes) {
        u64& next = wish.kind == BarKind::Io ? next_io : wish.kind == BarKind::Memory64 ? next64 : next32;
        const u64 end = wish.kind == BarKind::Io ? windows.io_end : wish.kind == BarKind::Memory64 ? windows.end64 : windows.end32;
        const u64 base = align_up(next, wish.size);
        if (base + wish.size > end) return fail(ErrorCode::NoSpace, "no PCI address space left for {}", wish.function->name());
        next = base + wish.size;
        std::lock_guard lock(wish.function->mutex());
        const u16 offset = static_cast<u16>(devices::pci::kBar0 + 4 * wish.bar);
        // Chipset functions that have an address already keep it.
        if (wish.function->bar_base(wish.bar)) continue;
        wish.function->config_write(offset, 4, static_cast<u32>(base));
        if (wish.kind == BarKind::Memory64) wish.function->config_write(static_cast<u16>(offset + 4), 4, static_cast<u32>(base >> 32));
    }
    u8 last_bus = 0;
    for (Function* function : root.functions()) {
        auto* bridge = dynamic_cast<devices::pci::Bridge*>(function);
        if (!bridge) continue;
        ++last_bus;
        std::lock_guard lock(bridge->mutex());
        // Its windows stay closed (base above limit) while nothing is behind it.
        bridge->config_write(devices::pci::kSecondaryBus, 1, last_bus);
        bridge->config_write(devices::pci::kSubordinateBus, 1, last_bus);
        bridge->config_write(kMemoryBase, 4, 0x0000'fff0);
        bridge->config_write(kPrefetchableBase, 4, 0x0000'fff0);
        bridge->config_write(kIoBase, 2, 0x00f0);
    }
    return {};
}

}  // namespace vezha::machine
