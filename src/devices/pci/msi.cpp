// SPDX-License-Identifier: Apache-2.0
#include "devices/pci/msi.h"

#include <algorithm>
#include <cstring>

namespace vezha::devices::pci {

namespace {
template <class T>
T get(std::span<const u8> bytes, usize at) {
    T value;
    std::memcpy(&value, bytes.data() + at, sizeof value);
    return value;
}
}  // namespace

bool Msi::enabled() const {
    std::lock_guard lock(mutex_);
    return enabled_;
}

u32 Msi::pending() const {
    std::lock_guard lock(mutex_);
    return pending_;
}

void Msi::notify(u8 vector) {
    std::lock_guard lock(mutex_);
    if (!enabled_ || vector >= vectors_) return;
    vector = static_cast<u8>(vector % granted_);
    if (!bus_master_ || (mask_ >> vector & 1)) pending_ |= 1u << vector;
    else send_locked(vector);
}

void Msi::send_locked(u8 vector) {
    pending_ &= ~(1u << vector);
    // The low bits of the data number the vector (6.8.1.3).
    const bus::MsiMessage message{message_.address, (message_.data & ~u32(granted_ - 1)) | vector};
    Cached& cached = routes_[vector];
    if (!cached.route) {
        if (auto created = sink_.new_route()) cached.route = *std::move(created);
        cached.set = false;
    }
    if (!cached.route) return sink_.send(message);
    if (!cached.set) cached.route->set(message);
    cached.set = true;
    cached.route->trigger();
}

void Msi::follow(std::span<const u8> capability, bool bus_master) {
    std::lock_guard lock(mutex_);
    const u16 control = get<u16>(capability, 2);
    enabled_ = control & 1;
    bus_master_ = bus_master;
    granted_ = static_cast<u8>(std::min<unsigned>(1u << std::min(control >> 4 & 7, 5), vectors_));
    const bus::MsiMessage message{get<u64>(capability, 4) & ~u64{3}, get<u16>(capability, 12)};
    mask_ = get<u32>(capability, 16);
    if (message != message_)
        for (Cached& cached : routes_) cached.set = false;
    message_ = message;
    if (!enabled_) pending_ = 0;
    for (u8 vector = 0; vector < vectors_; ++vector)
        if (bus_master_ && (pending_ & ~mask_) >> vector & 1) send_locked(vector);
}

void Msi::reset() {
    std::lock_guard lock(mutex_);
    enabled_ = bus_master_ = false;
    mask_ = pending_ = 0;
    granted_ = 1;
}

void Msi::save(state::Section& out) const { out.put_value("msi.pending", pending()); }

Result<> Msi::load(const state::Section& in) {
    const u32 pending = TRY(in.get_value<u32>("msi.pending"));
    std::lock_guard lock(mutex_);
    pending_ = pending & static_cast<u32>((u64{1} << vectors_) - 1);
    return {};
}

}  // namespace vezha::devices::pci
