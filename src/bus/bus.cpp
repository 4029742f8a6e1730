// SPDX-License-Identifier: Apache-2.0
#include "bus/bus.h"

#include <unistd.h>

#include <algorithm>

namespace vezha::bus {

namespace {
// Accesses nest when a device's handler touches the bus again. Changes wait for the outermost one to end.
thread_local unsigned t_access_depth = 0;
thread_local std::vector<std::function<void()>> t_deferred;

usize index(Space space) { return static_cast<usize>(space); }
}  // namespace

Bus::Bus() = default;
Bus::~Bus() = default;

void Bus::after_access(std::function<void()> change) {
    if (t_access_depth == 0) return change();
    t_deferred.push_back(std::move(change));
}

template <class Access>
void Bus::with_topology(Access&& access) {
    if (t_access_depth > 0) {
        // The lock is held already; taking it again could deadlock with a waiting writer.
        ++t_access_depth;
        access();
        --t_access_depth;
        return;
    }
    {
        std::shared_lock lock(topology_);
        ++t_access_depth;
        access();
        --t_access_depth;
    }
    while (!t_deferred.empty()) [[unlikely]] {
        std::vector<std::function<void()>> changes;
        changes.swap(t_deferred);
        for (auto& change : changes) change();
    }
}

Result<std::unique_ptr<Bus::Mapping>> Bus::map(Space space, std::optional<u64> base, u64 size, Device& device, u32 range,
                                               std::string name, int priority) {
    const u64 limit = space == Space::Pio ? 0x1'0000 : ~u64{0};
    if (size == 0 || size > limit || (base && *base > limit - size))
        return fail(ErrorCode::OutOfRange, "'{}': {:#x} bytes at {:#x} do not fit the address space", name, size,
                    base.value_or(0));
    std::unique_lock lock(topology_);
    const u64 id = next_id_++;
    ranges_.push_back({id, space, base, size, &device, range, std::move(name), priority});
    flatten_locked();
    return std::unique_ptr<Mapping>(new Mapping(*this, id));
}

Bus::Mapping::~Mapping() {
    bus_.after_access([&bus = bus_, id = id_] {
        std::unique_lock lock(bus.topology_);
        std::erase_if(bus.ranges_, [id](const Range& r) { return r.id == id; });
        bus.flatten_locked();
    });
}

void Bus::Mapping::move(std::optional<u64> base) {
    bus_.after_access([&bus = bus_, id = id_, base] {
        std::unique_lock lock(bus.topology_);
        auto found = std::find_if(bus.ranges_.begin(), bus.ranges_.end(), [id](const Range& r) { return r.id == id; });
        if (found == bus.ranges_.end() || found->base == base) return;
        const u64 limit = found->space == Space::Pio ? 0x1'0000 : ~u64{0};
        found->base = base && *base <= limit - found->size ? base : std::nullopt;
        bus.flatten_locked();
    });
}

void Bus::flatten_locked() {
    for (Space space : {Space::Mmio, Space::Pio}) {
        std::vector<const Range*> visible;
        std::vector<u64> cuts;
        for (const Range& r : ranges_) {
            if (r.space != space || !r.base) continue;
            visible.push_back(&r);
            cuts.push_back(*r.base);
            cuts.push_back(*r.base + r.size);
        }
        // Highest priority first, later mapping first among equals.
        std::sort(visible.begin(), visible.end(), [](const Range* a, const Range* b) {
            return a->priority != b->priority ? a->priority > b->priority : a->id > b->id;
        });
        std::sort(cuts.begin(), cuts.end());
        cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
        auto& flat = flat_[index(space)];
        flat.clear();
        for (usize i = 0; i + 1 < cuts.size(); ++i) {
            auto top = std::find_if(visible.begin(), visible.end(), [&](const Range* r) {
                return *r->base <= cuts[i] && cuts[i + 1] <= *r->base + r->size;
            });
            if (top == visible.end()) continue;
            const Range& r = **top;
            if (!flat.empty() && flat.back().device == r.device && flat.back().range == r.range &&
                flat.back().range_base == *r.base && flat.back().last + 1 == cuts[i])
                flat.back().last = cuts[i + 1] - 1;
            else
                flat.push_back({cuts[i], cuts[i + 1] - 1, r.device, r.range, *r.base});
        }
    }
}

const Bus::Flat* Bus::find(Space space, u64 address) const {
    const auto& flat = flat_[index(space)];
    auto after = std::upper_bound(flat.begin(), flat.end(), address, [](u64 a, const Flat& f) { return a < f.start; });
    if (after == flat.begin()) return nullptr;
    const Flat& candidate = *std::prev(after);
    return address <= candidate.last ? &candidate : nullptr;
}

u64 Bus::read(Space space, u64 address, unsigned size) {
    u64 value = mask_bytes(size);
    with_topology([&] {
        const Flat* flat = find(space, address);
        if (!flat) return;
        std::lock_guard lock(flat->device->mutex());
        value = flat->device->read(flat->range, address - flat->range_base, size) & mask_bytes(size);
    });
    return value;
}

void Bus::write(Space space, u64 address, unsigned size, u64 value) {
    value &= mask_bytes(size);
    with_topology([&] {
        if (ring_doorbell(space, address, size, value)) return;
        const Flat* flat = find(space, address);
        if (!flat) return;
        std::lock_guard lock(flat->device->mutex());
        flat->device->write(flat->range, address - flat->range_base, size, value);
    });
}

bool Bus::ring_doorbell(Space space, u64 address, unsigned size, u64 value) const {
    // Sorted by address; several may share one with different matches.
    auto it = std::lower_bound(doorbells_.begin(), doorbells_.end(), address,
                               [](const Doorbell& d, u64 a) { return d.address < a; });
    for (; it != doorbells_.end() && it->address == address; ++it) {
        if (it->space != space || (it->size && it->size != size) || (it->match && *it->match != value)) continue;
        const u64 one = 1;
        [[maybe_unused]] ssize_t ignored = ::write(it->event_fd, &one, sizeof one);
        return true;
    }
    return false;
}

std::unique_ptr<Bus::DoorbellHandle> Bus::add_doorbell(const Doorbell& doorbell) {
    after_access([this, doorbell] {
        std::unique_lock lock(topology_);
        auto at = std::upper_bound(doorbells_.begin(), doorbells_.end(), doorbell.address,
                                   [](u64 a, const Doorbell& d) { return a < d.address; });
        doorbells_.insert(at, doorbell);
        if (listener_) listener_->doorbell_added(doorbell);
    });
    return std::unique_ptr<DoorbellHandle>(new DoorbellHandle(*this, doorbell));
}

Bus::DoorbellHandle::~DoorbellHandle() {
    bus_.after_access([&bus = bus_, doorbell = doorbell_] {
        std::unique_lock lock(bus.topology_);
        auto found = std::find(bus.doorbells_.begin(), bus.doorbells_.end(), doorbell);
        if (found == bus.doorbells_.end()) return;
        bus.doorbells_.erase(found);
        if (bus.listener_) bus.listener_->doorbell_removed(doorbell);
    });
}

void Bus::set_doorbell_listener(DoorbellListener* listener) {
    std::unique_lock lock(topology_);
    listener_ = listener;
    if (listener_)
        for (const Doorbell& doorbell : doorbells_) listener_->doorbell_added(doorbell);
}

std::vector<Bus::MappingInfo> Bus::mappings() const {
    std::shared_lock lock(topology_);
    std::vector<MappingInfo> out;
    for (const Range& r : ranges_)
        if (r.base) out.push_back({r.space, *r.base, r.size, r.name, r.priority});
    std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) {
        return a.space != b.space ? a.space < b.space : a.base < b.base;
    });
    return out;
}

}  // namespace vezha::bus
