// SPDX-License-Identifier: Apache-2.0
#include "devices/pci/pci_bus.h"

#include <algorithm>

#include "devices/pci/bridge.h"

namespace vezha::devices::pci {

Result<> PciBus::add(Function& function, Slot slot) {
    if (slot.device > 31 || slot.function > 7)
        return fail(ErrorCode::OutOfRange, "{}: no PCI slot {:02x}.{}", function.name(), slot.device, slot.function);
    Function*& place = slots_[slot.devfn()];
    if (place)
        return fail(ErrorCode::AlreadyExists, "{}: PCI slot {:02x}.{} holds {}", function.name(), slot.device,
                    slot.function, place->name());
    place = &function;
    auto* bridge = dynamic_cast<Bridge*>(&function);
    if (bridge) {
        bridge->make_secondary(*this, slot.device);
        bridges_.push_back(bridge);
    }
    // Bus numbers change at run time, so names follow the path through the bridges.
    std::string address = fmt::format("{:02x}.{}", slot.device, slot.function);
    const PciBus* bus = this;
    for (; bus->parent_; bus = bus->parent_) address = fmt::format("{:02x}/{}", bus->bridge_device_, address);
    function.attached(*this, slot, "00:" + address);
    return {};
}

Result<Slot> PciBus::add(Function& function, u8 first_device) {
    for (u8 device = first_device; device < 32; ++device) {
        const bool used = std::any_of(&slots_[device * 8], &slots_[device * 8] + 8, [](Function* f) { return f; });
        if (used) continue;
        TRY(add(function, Slot{device, 0}));
        return Slot{device, 0};
    }
    return fail(ErrorCode::NoSpace, "{}: no free PCI slot", function.name());
}

void PciBus::remove(Function& function) {
    std::replace(slots_.begin(), slots_.end(), &function, static_cast<Function*>(nullptr));
    std::erase_if(bridges_, [&](Bridge* bridge) { return bridge == &function; });
}

std::vector<Function*> PciBus::functions() const {
    std::vector<Function*> all;
    std::copy_if(slots_.begin(), slots_.end(), std::back_inserter(all), [](Function* f) { return f; });
    return all;
}

Function* PciBus::locate(u8 bus, Slot slot) {
    if (slot.device > 31 || slot.function > 7) return nullptr;
    if (bus == 0 && is_root()) return slots_[slot.devfn()];
    for (Bridge* bridge : bridges_) {
        std::unique_lock lock(bridge->mutex());
        if (!bridge->forwards(bus)) continue;
        const bool here = bridge->secondary_number() == bus;
        PciBus& behind = bridge->secondary();
        lock.unlock();
        return here ? behind.slots_[slot.devfn()] : behind.locate(bus, slot);
    }
    return nullptr;
}

u32 PciBus::config_read(u8 bus, Slot slot, u16 offset, unsigned size) {
    Function* function = locate(bus, slot);
    if (!function) return static_cast<u32>(mask_bytes(size));
    std::lock_guard lock(function->mutex());
    return function->config_read(offset, size);
}

void PciBus::config_write(u8 bus, Slot slot, u16 offset, unsigned size, u32 value) {
    Function* function = locate(bus, slot);
    if (!function) return;
    std::lock_guard lock(function->mutex());
    function->config_write(offset, size, value);
}

void PciBus::set_intx(u8 device, u8 pin, bool asserted) {
    if (is_root()) return router_->set_intx(device, pin, asserted);
    parent_->set_intx(bridge_device_, static_cast<u8>((device + pin) % 4), asserted);
}

}  // namespace vezha::devices::pci
