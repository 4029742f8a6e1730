// SPDX-License-Identifier: Apache-2.0
#include "devices/pci/msix.h"

#include "base/check.h"
#include "base/log.h"

namespace vezha::devices::pci {

Msix::Msix(bus::MsiSink& sink, u16 vectors, u8 bar, u32 table_offset, u32 pba_offset)
    : sink_(sink), bar_(bar), table_offset_(table_offset), pba_offset_(pba_offset), entries_(vectors) {
    CHECK(vectors > 0 && vectors <= kMaxVectors && bar < 6);
    CHECK(is_aligned(table_offset, 8) && is_aligned(pba_offset, 8));
}

bool Msix::enabled() const {
    std::lock_guard lock(mutex_);
    return enabled_;
}

void Msix::notify(u16 vector) {
    std::lock_guard lock(mutex_);
    if (!enabled_ || vector >= entries_.size()) return;
    Entry& entry = entries_[vector];
    if (deliverable_locked(entry)) send_locked(entry);
    else entry.pending = true;
}

bus::MsiRoute* Msix::route(u16 vector) {
    std::lock_guard lock(mutex_);
    return vector < entries_.size() ? route_locked(entries_[vector]) : nullptr;
}

bus::MsiRoute* Msix::route_locked(Entry& entry) {
    if (!entry.route) {
        auto created = sink_.new_route();
        if (!created) {
            log_debug("msix", "no cached route: {}", created.error().message());
            return nullptr;
        }
        entry.route = *std::move(created);
        entry.route_set = false;
    }
    if (!entry.route_set) {
        entry.route->set(entry.message);
        entry.route_set = true;
    }
    return entry.route.get();
}

void Msix::send_locked(Entry& entry) {
    entry.pending = false;
    if (bus::MsiRoute* route = route_locked(entry)) route->trigger();
    else sink_.send(entry.message);
}

void Msix::flush_locked() {
    for (Entry& entry : entries_)
        if (entry.pending && deliverable_locked(entry)) send_locked(entry);
}

void Msix::set_control(bool enabled, bool function_masked, bool bus_master) {
    std::lock_guard lock(mutex_);
    if (enabled_ && !enabled)
        for (Entry& entry : entries_) entry.pending = false;
    enabled_ = enabled;
    function_masked_ = function_masked;
    bus_master_ = bus_master;
    flush_locked();
}

bool Msix::covers(u8 bar, u64 offset, unsigned size) const {
    auto within = [&](u64 start, u64 length) { return offset >= start && offset + size <= start + length; };
    return bar == bar_ && (within(table_offset_, table_size()) || within(pba_offset_, pba_size()));
}

u64 Msix::read(u64 offset, unsigned size) const {
    std::lock_guard lock(mutex_);
    u64 value = 0;
    // Byte by byte: rare accesses, every size and alignment right.
    for (unsigned i = 0; i < size; ++i) {
        const u64 at = offset + i;
        u8 byte = 0;
        if (at >= table_offset_ && at < table_offset_ + table_size()) {
            const u64 in_table = at - table_offset_;
            const Entry& entry = entries_[in_table / kEntrySize];
            const u64 field = in_table % kEntrySize;
            const u64 word = field < 8 ? entry.message.address : entry.message.data | u64{entry.control} << 32;
            byte = static_cast<u8>(word >> (8 * (field % 8)));
        } else {
            const u64 first = (at - pba_offset_) * 8;
            for (unsigned bit = 0; bit < 8 && first + bit < entries_.size(); ++bit)
                byte |= static_cast<u8>(entries_[first + bit].pending << bit);
        }
        value |= u64{byte} << (8 * i);
    }
    return value;
}

void Msix::write(u64 offset, unsigned size, u64 value) {
    std::lock_guard lock(mutex_);
    Entry* touched = nullptr;
    for (unsigned i = 0; i < size; ++i) {
        const u64 at = offset + i;
        if (at < table_offset_ || at >= table_offset_ + table_size()) continue;  // the PBA is read-only
        const u64 in_table = at - table_offset_;
        Entry& entry = entries_[in_table / kEntrySize];
        const u64 field = in_table % kEntrySize;
        const unsigned shift = 8 * (field % 8);
        const u64 bits = ((value >> (8 * i)) & 0xff) << shift, cleared = ~(u64{0xff} << shift);
        if (field < 8) {
            entry.message.address = ((entry.message.address & cleared) | bits) & ~u64{3};
        } else {
            const u64 word = ((entry.message.data | u64{entry.control} << 32) & cleared) | bits;
            entry.message.data = static_cast<u32>(word);
            entry.control = static_cast<u32>(word >> 32) & 1;
        }
        entry.route_set = false;
        touched = &entry;
    }
    if (!touched) return;
    // vhost signals the route without us, so it must follow at once.
    if (touched->route && !(touched->control & 1)) route_locked(*touched);
    if (touched->pending && deliverable_locked(*touched)) send_locked(*touched);
}

void Msix::reset() {
    std::lock_guard lock(mutex_);
    enabled_ = function_masked_ = bus_master_ = false;
    for (Entry& entry : entries_) {
        entry.message = {};
        entry.control = 1;
        entry.pending = entry.route_set = false;
    }
}

void Msix::save(state::Section& out) const {
    std::lock_guard lock(mutex_);
    std::vector<u8> bytes;
    bytes.reserve(entries_.size() * 17);
    for (const Entry& entry : entries_) {
        auto put = [&](u64 value, unsigned size) {
            for (unsigned i = 0; i < size; ++i) bytes.push_back(static_cast<u8>(value >> (8 * i)));
        };
        put(entry.message.address, 8);
        put(entry.message.data, 4);
        put(entry.control, 4);
        put(entry.pending, 1);
    }
    out.put("msix.table", bytes);
}

Result<> Msix::load(const state::Section& in) {
    const std::vector<u8>* bytes = in.get("msix.table");
    std::lock_guard lock(mutex_);
    if (!bytes || bytes->size() != entries_.size() * 17)
        return fail(ErrorCode::InvalidFormat, "the MSI-X table is missing or not of {} vectors", entries_.size());
    const u8* at = bytes->data();
    auto get = [&](unsigned size) {
        u64 value = 0;
        for (unsigned i = 0; i < size; ++i) value |= u64{*at++} << (8 * i);
        return value;
    };
    for (Entry& entry : entries_) {
        entry.message.address = get(8) & ~u64{3};
        entry.message.data = static_cast<u32>(get(4));
        entry.control = static_cast<u32>(get(4)) & 1;
        entry.pending = get(1) & 1;
        entry.route_set = false;
    }
    return {};
}

}  // namespace vezha::devices::pci
