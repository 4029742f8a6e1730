// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/apic_fabric.h"

#include <mutex>

#include "engine/dbt/tsc.h"

namespace vezha::engine::dbt {

namespace {

class FabricRoute final : public bus::MsiRoute {
  public:
    explicit FabricRoute(LocalApics& apics) : apics_(apics) {}
    void set(const bus::MsiMessage& message) override {
        std::lock_guard lock(mutex_);
        message_ = message;
    }
    void trigger() override {
        bus::MsiMessage message;
        {
            std::lock_guard lock(mutex_);
            message = message_;
        }
        apics_.send(message);
    }
    int event_fd() override { return -1; }

  private:
    LocalApics& apics_;
    std::mutex mutex_;
    bus::MsiMessage message_;
};

}  // namespace

std::unique_ptr<ApicFabric> new_apic_fabric(const VmWiring& wiring) { return std::make_unique<LocalApics>(wiring); }

LocalApics::LocalApics(const VmWiring& wiring) : wiring_(wiring), tsc_offset_(~__rdtsc() + 1) {
    outside_.clock = &wiring_.clock;
    outside_.tsc_hz = host_tsc_hz();
    outside_.eoi = [this](u8 vector) {
        if (wiring_.eoi) wiring_.eoi(vector);
    };
    outside_.send = [this](Lapic& source, const InterruptMessage& message, u32 shorthand) {
        switch (shorthand) {
            case 0: deliver(message); break;
            case 1: source.post(message); break;
            default:
                for (auto& apic : apics_)
                    if (shorthand == 2 || apic.get() != &source) apic->post(message);
        }
    };
}

LocalApics::~LocalApics() = default;

void LocalApics::add(Context& ctx, u32 index) {
    ctx.tsc_offset = tsc_offset() + ctx.tsc_adjust;
    apics_.push_back(std::make_unique<Lapic>(ctx, index, outside_));
    ctx.lapic = apics_.back().get();
    ctx.apics = this;
}

Lapic* LocalApics::find(u32 apic_id) const {
    if (apic_id < apics_.size() && apics_[apic_id]->apic_id() == apic_id) return apics_[apic_id].get();
    for (const auto& apic : apics_)
        if (apic->apic_id() == apic_id) return apic.get();
    return nullptr;
}

void LocalApics::deliver(const InterruptMessage& message, Lapic* except) {
    if (message.delivery == InterruptMessage::LowestPriority) {
        // The least busy; among equals they take turns.
        Lapic* best = nullptr;
        u32 best_priority = ~u32{0};
        const usize n = apics_.size();
        const u32 start = rotation_.fetch_add(1, std::memory_order_relaxed);
        for (usize i = 0; i < n; ++i) {
            Lapic& apic = *apics_[(start + i) % n];
            if (!apic.matches(message)) continue;
            if (const u32 priority = apic.arbitration_priority(); priority < best_priority) {
                best = &apic;
                best_priority = priority;
            }
        }
        if (best) best->post(message);
        return;
    }
    for (auto& apic : apics_)
        if (apic.get() != except && apic->matches(message)) apic->post(message);
}

// SDM vol. 3A, 11.11; bits 11:5 carry destination bits 14:8 (the "extended destination ID" of hypervisors).
void LocalApics::send(const bus::MsiMessage& message) {
    const auto address = static_cast<u32>(message.address);
    if (address >> 20 != 0xfee) return;
    InterruptMessage m{
        .vector = static_cast<u8>(message.data),
        .delivery = static_cast<InterruptMessage::Delivery>(message.data >> 8 & 7),
        .logical = (address & 4) != 0,
        .level = (message.data & (1 << 15)) != 0,
        .destination = (address >> 12 & 0xff) | (address >> 5 & 0x7f) << 8 |
                       static_cast<u32>(message.address >> 40) << 8,
    };
    // A redirection hint with a logical destination means one of the set.
    if ((address & 8) && m.logical && m.delivery == InterruptMessage::Fixed) m.delivery = InterruptMessage::LowestPriority;
    if (m.destination > 0xff) m.from_x2apic = true;
    if (m.delivery == InterruptMessage::ExtInt) return ext_int_changed();
    deliver(m);
}

Result<std::unique_ptr<bus::MsiRoute>> LocalApics::new_route() { return std::make_unique<FabricRoute>(*this); }

void LocalApics::ext_int_changed() {
    if (!apics_.empty()) request_attention(apics_.front()->context(), attention::kInterrupt);
}

u64 LocalApics::mmio_read(Context& ctx, u32 offset, unsigned size) {
    // Registers are 32 bits wide at 16-byte steps; narrower reads see their part (SDM says do not, hardware answers).
    const u32 within = offset & 15;
    if (within >= 4 || within + size > 4) return size == 8 && within == 0 ? ctx.lapic->mmio_read(offset) : 0;
    return (ctx.lapic->mmio_read(offset & ~15u) >> (8 * within)) & mask_bytes(size);
}

void LocalApics::mmio_write(Context& ctx, u32 offset, unsigned size, u64 value) {
    if ((offset & 15) || size < 4) return;
    ctx.lapic->mmio_write(offset, static_cast<u32>(value));
}

void LocalApics::save(Context& ctx, x86::LapicState& out) { ctx.lapic->save(out); }
void LocalApics::load(Context& ctx, const x86::LapicState& in) { ctx.lapic->load(in); }

void LocalApics::paused() {
    if (!paused_at_) paused_at_ = __rdtsc();
}

void LocalApics::resumed() {
    if (!paused_at_) return;
    const u64 gap = __rdtsc() - paused_at_;
    paused_at_ = 0;
    tsc_offset_ -= gap;
    for (auto& apic : apics_) {
        apic->context().tsc_offset -= gap;
        apic->tsc_changed();
    }
}

u64 LocalApics::saved_tsc(const Context& ctx) const { return (paused_at_ ? paused_at_ : __rdtsc()) + ctx.tsc_offset; }

void LocalApics::adopt_tsc(Context& ctx, u64 tsc) {
    const u64 host = paused_at_ ? paused_at_ : __rdtsc();
    const u64 offset = tsc - ctx.tsc_adjust - host;
    const auto distance = static_cast<i64>(offset - tsc_offset());
    // vCPUs are loaded one after the other: a second's difference is that, not another clock.
    const auto second = static_cast<i64>(outside_.tsc_hz);
    if (!tsc_adopted_ && (distance > second || distance < -second)) tsc_offset_ = offset;
    tsc_adopted_ = true;
    ctx.tsc_offset = tsc_offset() + ctx.tsc_adjust;
}

void set_tsc_adjust(Context& ctx, u64 value) {
    ctx.tsc_offset += value - ctx.tsc_adjust;
    ctx.tsc_adjust = value;
    if (ctx.lapic) ctx.lapic->tsc_changed();
}

void set_guest_tsc(Context& ctx, u64 value) { set_tsc_adjust(ctx, ctx.tsc_adjust + value - guest_tsc(ctx)); }

}  // namespace vezha::engine::dbt
