// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/pci_device.h"

#include <sys/epoll.h>
#include <time.h>

#include <algorithm>
#include <bit>

#include "base/check.h"
#include "base/log.h"
#include "state/field.h"

namespace vezha::devices::virtio {

namespace {
constexpr u64 kRingFeatures =
    bit(kRingIndirect) | bit(kRingEventIndex) | bit(kVersion1) | bit(kRingPacked) | bit(kRingReset);
constexpr u8 kIsrQueue = 1, kIsrConfig = 2;
}  // namespace

PciDevice::PciDevice(const Wiring& wiring, Kind kind, std::vector<QueueOptions> queues)
    : Function(wiring.bus, wiring.msi, kind.name,
               {.vendor = 0x1af4, .device = static_cast<u16>(0x1040 + static_cast<u16>(kind.type)),
                .class_code = kind.class_code, .revision = 1, .subsystem_vendor = 0x1af4, .subsystem = 0x1100}),
      memory_(wiring.memory), offered_(kind.features | kRingFeatures), device_config_(kind.config_size),
      config_mask_(kind.config_size) {
    for (const QueueOptions& options : queues) {
        CHECK(options.loop && std::has_single_bit(options.size));
        auto event = EventFd::create();
        // Descriptors run out only when the host limits them far too low; create() reports it through start().
        if (!event) break;
        slots_.push_back(std::make_unique<Slot>(memory_, options, *std::move(event)));
    }
    started_ = slots_.size() == queues.size();
    set_interrupt_pin(1);
    add_bar(0, pci::BarKind::Memory64, kBarSize, true);
    const u16 vectors = static_cast<u16>(std::min<usize>(slots_.size() + 1, 256));
    add_msix(std::max<u16>(vectors, 2), 0, kMsixAt, kPbaAt);
    add_express_capability();
    add_power_management();
    add_virtio_capability(kCapCommon, kCommonAt, common::kSize);
    add_virtio_capability(kCapIsr, kIsrAt, 1);
    if (kind.config_size) add_virtio_capability(kCapDevice, kConfigAt, static_cast<u32>(kind.config_size));
    add_virtio_capability(kCapNotify, kNotifyAt, static_cast<u32>(std::max<usize>(slots_.size(), 1) * kNotifyMultiplier));
    add_virtio_capability(kCapPciAccess, 0, 0);
}

PciDevice::~PciDevice() { shutdown(); }

void PciDevice::add_virtio_capability(u8 type, u32 offset, u32 length) {
    // virtio 1.2, 4.1.4: { id, next, length, type, bar, id, 2 bytes of padding, offset, length }
    std::vector<u8> body(14);
    const u8 tail = type == kCapNotify || type == kCapPciAccess ? 4 : 0;
    body.resize(body.size() + tail);
    body[0] = static_cast<u8>(body.size() + 2);
    body[1] = type;
    std::memcpy(&body[6], &offset, 4);
    std::memcpy(&body[10], &length, 4);
    if (type == kCapNotify) std::memcpy(&body[14], &kNotifyMultiplier, 4);
    if (type != kCapPciAccess) {
        add_capability(pci::kCapVendor, body);
        return;
    }
    std::vector<u8> writable(body.size());
    writable[2] = 0xff;  // bar
    std::fill(writable.begin() + 6, writable.end(), u8{0xff});
    access_capability_ = add_capability(pci::kCapVendor, body, writable,
                                        {.before_read = [this](u16 at, unsigned size) { if (at + size > 16) access_through_config(false); },
                                         .after_write = [this](u16 at, unsigned size) { if (at + size > 16) access_through_config(true); }});
}

void PciDevice::access_through_config(bool write) {
    // virtio 1.2, 4.1.4.9: the data register stands for `length` bytes at `offset` of `bar`.
    const u8 bar = config<u8>(access_capability_ + 4);
    const u32 offset = config<u32>(access_capability_ + 8), length = config<u32>(access_capability_ + 12);
    if (bar != 0 || (length != 1 && length != 2 && length != 4) || offset % length || offset > kBarSize - length) return;
    if (write) this->write(bar, offset, length, config<u32>(access_capability_ + 16) & mask_bytes(length));
    else set_config<u32>(access_capability_ + 16, static_cast<u32>(read(bar, offset, length)));
}

Result<> PciDevice::start() {
    if (!started_) return fail(ErrorCode::OutOfRange, "{}: no file descriptors for {} queues", name(), slots_.size());
    for (u16 i = 0; i < slots_.size(); ++i) {
        Slot& slot = *slots_[i];
        Result<> outcome;
        slot.loop->run_exclusive([&] {
            auto watch = slot.loop->watch(slot.kick.fd(), EPOLLIN, [this, i, &slot](u32) {
                slot.kick.drain();
                if (bus_master()) on_queue(i);
            });
            if (watch) slot.watch = *std::move(watch);
            else outcome = Failure(watch.error());
        });
        TRY(outcome);
    }
    return {};
}

void PciDevice::shutdown() {
    if (slots_.empty()) return;
    pause();
    for (auto& slot : slots_) {
        slot->loop->run_exclusive([&] { slot->watch.reset(); });
        slot->doorbell.reset();
    }
}

// Pausing ---------------------------------------------------------------------------------------------------------------

bool PciDevice::idle() const {
    return std::all_of(slots_.begin(), slots_.end(), [](const auto& slot) { return slot->queue.in_flight() == 0; });
}

void PciDevice::pause() {
    {
        std::lock_guard lock(mutex());
        paused_ = true;
        update_running();
    }
    while (!idle()) {
        bool served = false;
        for (auto& slot : slots_)
            if (!slot->loop->running() || slot->loop->in_loop_thread()) {
                slot->loop->run_once(1);
                served = true;
                break;
            }
        const timespec moment{0, 100'000};
        if (!served) ::nanosleep(&moment, nullptr);
    }
    // The last handler may still be on its way out.
    for (auto& slot : slots_) slot->loop->run_exclusive([] {});
    for (u16 i = 0; i < slots_.size(); ++i) complete(i);  // what complete_later() still keeps
    std::lock_guard lock(mutex());
    finish_resets();
}

void PciDevice::resume() {
    {
        std::lock_guard lock(mutex());
        paused_ = false;
        update_running();
    }
    for (u16 i = 0; i < slots_.size(); ++i) kick(i);
}

void PciDevice::update_running() {
    const bool ready = driver_ready() && !paused_ && !reset_pending_;
    for (auto& slot : slots_) slot->queue.set_running(ready && slot->queue.enabled() && !slot->resetting);
}

// Queues and interrupts -------------------------------------------------------------------------------------------------

void PciDevice::kick(u16 index) { slots_[index]->kick.signal(); }

bool PciDevice::pop(u16 index, Chain& chain) {
    auto popped = queue(index).pop(chain);
    if (popped) return *popped;
    set_needs_reset(std::move(popped.error()).with_context(fmt::format("queue {}", index)));
    return false;
}

void PciDevice::complete(u16 index) {
    if (queue(index).flush()) interrupt(slots_[index]->vector.load(std::memory_order_relaxed), kIsrQueue);
}

void PciDevice::complete_later(u16 index) {
    Slot& slot = *slots_[index];
    if (slot.completing) return;
    slot.completing = true;
    slot.loop->before_wait([this, index, &slot] {
        slot.completing = false;
        complete(index);
    });
}

void PciDevice::interrupt(u16 vector, u8 isr_bit) {
    if (msix().enabled()) {
        if (vector != kNoVector) msix().notify(vector);
        return;
    }
    std::lock_guard lock(isr_mutex_);
    isr_ |= isr_bit;
    set_intx(true);
}

void PciDevice::config_changed() {
    config_generation_.fetch_add(1, std::memory_order_release);
    if (status() & kStatusDriverOk) interrupt(config_vector_.load(std::memory_order_relaxed), kIsrConfig);
}

void PciDevice::set_needs_reset(const Error& error) {
    LOG_GUEST_ERROR("virtio", "{}: {}; the driver must reset the device", state_name(), error.message());
    if (status_.fetch_or(kStatusNeedsReset) & kStatusNeedsReset) return;
    config_changed();
}

void PciDevice::set_config_writable(u32 offset, u32 size) {
    std::fill_n(config_mask_.begin() + offset, size, u8{0xff});
}

void PciDevice::bar_moved(unsigned, std::optional<u64> base) {
    for (u16 i = 0; i < slots_.size(); ++i) {
        slots_[i]->doorbell.reset();
        if (base)
            slots_[i]->doorbell = system_bus().add_doorbell({bus::Space::Mmio, *base + kNotifyAt + i * kNotifyMultiplier, 0,
                                                             std::nullopt, slots_[i]->kick.fd()});
    }
}

void PciDevice::config_written(u16 offset, unsigned size) {
    // Notifications that came before we were allowed to touch memory.
    if (offset <= pci::kCommand && offset + size > pci::kCommand && bus_master() && driver_ready())
        for (u16 i = 0; i < slots_.size(); ++i) kick(i);
}

// Registers -------------------------------------------------------------------------------------------------------------

u64 PciDevice::bar_read(unsigned, u64 offset, unsigned size) {
    if (offset < kIsrAt) return common_read(offset, size);
    if (offset < kConfigAt) {
        if (offset != kIsrAt) return 0;
        std::lock_guard lock(isr_mutex_);
        const u8 value = isr_;
        isr_ = 0;
        set_intx(false);
        return value;
    }
    if (offset < kNotifyAt) {
        u64 value = 0;
        std::lock_guard lock(device_config_mutex_);
        const u64 at = offset - kConfigAt;
        for (unsigned i = 0; i < size && at + i < device_config_.size(); ++i) value |= u64{device_config_[at + i]} << (8 * i);
        return value;
    }
    return 0;
}

void PciDevice::bar_write(unsigned, u64 offset, unsigned size, u64 value) {
    if (offset < kIsrAt) return common_write(offset, size, value);
    if (offset >= kConfigAt && offset < kNotifyAt) {
        const u64 at = offset - kConfigAt;
        if (at >= device_config_.size()) return;
        {
            std::lock_guard lock(device_config_mutex_);
            for (unsigned i = 0; i < size && at + i < device_config_.size(); ++i)
                if (config_mask_[at + i]) device_config_[at + i] = static_cast<u8>(value >> (8 * i));
        }
        return on_config_written(static_cast<u32>(at), size);
    }
    if (offset >= kNotifyAt && offset < kMsixAt) {
        // Writes that no doorbell took: through configuration space, or misaligned.
        const u64 index = (offset - kNotifyAt) / kNotifyMultiplier;
        if (index < slots_.size()) kick(static_cast<u16>(index));
    }
}

u64 PciDevice::common_read(u64 offset, unsigned size) {
    using namespace common;
    finish_resets();
    const Slot* slot = selected();
    // The registers as they lie in memory, read in any size.
    std::array<u8, kSize + 8> bytes{};
    const auto put = [&]<class T>(u64 at, T value) { std::memcpy(bytes.data() + at, &value, sizeof value); };
    put(kDeviceFeatureSelect, device_feature_select_);
    put(kDeviceFeature, device_feature_select_ < 2 ? static_cast<u32>(offered_ >> (32 * device_feature_select_)) : u32{0});
    put(kDriverFeatureSelect, driver_feature_select_);
    put(kDriverFeature, driver_feature_select_ < 2 ? static_cast<u32>(driver_features_ >> (32 * driver_feature_select_)) : u32{0});
    put(kConfigVector, config_vector_.load());
    put(kNumQueues, static_cast<u16>(slots_.size()));
    put(kStatus, status());
    put(kConfigGeneration, config_generation_.load(std::memory_order_acquire));
    put(kQueueSelect, queue_select_);
    put(kQueueVector, kNoVector);
    if (slot) {
        const RingLayout& layout = slot->queue.layout();
        put(kQueueSize, layout.size);
        put(kQueueVector, slot->vector.load());
        put(kQueueEnable, static_cast<u16>(slot->queue.enabled()));
        put(kQueueNotifyOff, queue_select_);
        put(kQueueDesc, layout.descriptors.value);
        put(kQueueDriver, layout.driver.value);
        put(kQueueDevice, layout.device.value);
        put(kQueueNotifyData, queue_select_);
        put(kQueueReset, static_cast<u16>(slot->resetting));
    }
    if (offset >= kSize) return 0;
    u64 value = 0;
    std::memcpy(&value, bytes.data() + offset, size);
    return value;
}

void PciDevice::common_write(u64 offset, unsigned size, u64 value) {
    using namespace common;
    finish_resets();
    Slot* slot = selected();
    const bool configurable = slot && !slot->queue.enabled() && !reset_pending_ && !slot->resetting;
    const auto vector = [&] { return value < msix().vectors() ? static_cast<u16>(value) : kNoVector; };
    const auto half = [&](memory::Gpa& address, bool high) {
        if (!configurable) return;
        if (size == 8 && !high) address.value = value;
        else if (high) address.value = (address.value & 0xffff'ffff) | value << 32;
        else address.value = (address.value & ~u64{0xffff'ffff}) | (value & 0xffff'ffff);
    };
    switch (offset) {
        case kDeviceFeatureSelect: device_feature_select_ = static_cast<u32>(value); break;
        case kDriverFeatureSelect: driver_feature_select_ = static_cast<u32>(value); break;
        case kDriverFeature:
            if (driver_feature_select_ < 2 && !(status() & kStatusFeaturesOk)) {
                const unsigned shift = 32 * driver_feature_select_;
                driver_features_ = (driver_features_ & ~(u64{0xffff'ffff} << shift)) | (value & 0xffff'ffff) << shift;
            }
            break;
        case kConfigVector: config_vector_ = vector(); break;
        case kStatus: write_status(static_cast<u8>(value)); break;
        case kQueueSelect: queue_select_ = static_cast<u16>(value); break;
        case kQueueSize:
            if (configurable && value > 0 && value <= slot->queue.max_size()) slot->queue.layout().size = static_cast<u16>(value);
            break;
        case kQueueVector:
            if (slot) slot->vector = vector();
            break;
        case kQueueEnable:
            if (configurable && value == 1 && (status() & kStatusFeaturesOk)) enable_queue(*slot);
            break;
        case kQueueDesc: if (slot) half(slot->queue.layout().descriptors, false); break;
        case kQueueDesc + 4: if (slot) half(slot->queue.layout().descriptors, true); break;
        case kQueueDriver: if (slot) half(slot->queue.layout().driver, false); break;
        case kQueueDriver + 4: if (slot) half(slot->queue.layout().driver, true); break;
        case kQueueDevice: if (slot) half(slot->queue.layout().device, false); break;
        case kQueueDevice + 4: if (slot) half(slot->queue.layout().device, true); break;
        case kQueueReset:
            if (slot && value == 1 && negotiated(kRingReset) && slot->queue.enabled() && !reset_pending_) {
                slot->resetting = true;
                slot->queue.set_running(false);
                finish_resets();
            }
            break;
        default: break;
    }
}

void PciDevice::write_status(u8 value) {
    if (reset_pending_) return;
    if (value == 0) return begin_reset();
    u8 now = status();
    // Bits are only ever added (2.1.1).
    u8 next = static_cast<u8>(now | (value & (kStatusAcknowledge | kStatusDriver | kStatusDriverOk | kStatusFeaturesOk | kStatusFailed)));
    if ((next & kStatusFeaturesOk) && !(now & kStatusFeaturesOk)) {
        if ((driver_features_ & ~offered_) || !(driver_features_ & bit(kVersion1))) {
            LOG_GUEST_ERROR("virtio", "{}: driver accepts features {:#x}, offered are {:#x}", state_name(), driver_features_, offered_);
            next &= static_cast<u8>(~kStatusFeaturesOk);
        } else {
            features_ = driver_features_;
        }
    }
    if (!(next & kStatusFeaturesOk)) next &= static_cast<u8>(~kStatusDriverOk);
    status_.fetch_or(next);
    if ((next & kStatusDriverOk) && !(now & kStatusDriverOk)) {
        on_driver_ready();
        update_running();
        for (u16 i = 0; i < slots_.size(); ++i) kick(i);
    }
}

void PciDevice::enable_queue(Slot& slot) {
    slot.queue.layout().event_index = negotiated(kRingEventIndex);
    if (auto enabled = slot.queue.enable(negotiated(kRingPacked)); !enabled) return set_needs_reset(enabled.error());
    if (driver_ready() && !paused_) {
        slot.queue.set_running(true);
        slot.kick.signal();
    }
}

void PciDevice::begin_reset() {
    reset_pending_ = true;
    for (auto& slot : slots_) slot->queue.set_running(false);
    finish_resets();
}

void PciDevice::finish_resets() {
    if (!reset_pending_) {
        for (auto& slot : slots_)
            if (slot->resetting && slot->queue.in_flight() == 0) {
                slot->resetting = false;
                slot->queue.reset();
                slot->vector = kNoVector;
            }
        return;
    }
    if (!idle()) return;
    reset_pending_ = false;
    for (auto& slot : slots_) {
        slot->queue.reset();
        slot->resetting = false;
        slot->vector = kNoVector;
    }
    device_feature_select_ = driver_feature_select_ = 0;
    driver_features_ = 0;
    queue_select_ = 0;
    config_vector_ = kNoVector;
    on_reset();
    features_ = 0;
    {
        std::lock_guard lock(isr_mutex_);
        isr_ = 0;
        set_intx(false);
    }
    status_ = 0;
}

void PciDevice::reset_device() { begin_reset(); }

// Saved state -----------------------------------------------------------------------------------------------------------

namespace {
struct SavedRegisters {
    u64 driver_features, features;
    u32 device_feature_select, driver_feature_select;
    u16 config_vector, queue_select;
    u8 status, config_generation, isr, padding;
};
struct SavedQueue {
    u64 descriptors, driver, device;
    u16 size, vector, available, used;
    u8 available_wrap, used_wrap, enabled, padding;
    u32 padding2;
};
static_assert(sizeof(SavedRegisters) == 32 && sizeof(SavedQueue) == 40);
}  // namespace

void PciDevice::save(state::Section& out) const {
    Function::save(out);
    const SavedRegisters registers{driver_features_, features_, device_feature_select_, driver_feature_select_, config_vector_,
                                   queue_select_, status_, config_generation_, isr_, 0};
    out.put_value("virtio.registers", registers);
    std::vector<SavedQueue> queues;
    for (const auto& slot : slots_) {
        const RingLayout& layout = slot->queue.layout();
        const RingPosition position = slot->queue.position();
        queues.push_back({layout.descriptors.value, layout.driver.value, layout.device.value, layout.size, slot->vector,
                          position.available, position.used, position.available_wrap, position.used_wrap,
                          slot->queue.enabled(), 0, 0});
    }
    out.put("virtio.queues", state::Codec<std::vector<SavedQueue>>::encode(queues));
    out.put("virtio.config", device_config_);
    save_device(out);
}

Result<> PciDevice::load(const state::Section& in, u32 saved_version) {
    TRY(Function::load(in, saved_version));
    const auto registers = TRY(in.get_value<SavedRegisters>("virtio.registers"));
    const std::vector<u8>* queue_bytes = in.get("virtio.queues");
    const std::vector<u8>* config = in.get("virtio.config");
    if (!queue_bytes || !config) return fail(ErrorCode::InvalidFormat, "{}: state is incomplete", state_name());
    std::vector<SavedQueue> queues;
    TRY(state::Codec<std::vector<SavedQueue>>::decode(*queue_bytes, queues));
    if (queues.size() != slots_.size() || config->size() != device_config_.size())
        return Failure(Error(ErrorCode::Unsupported, fmt::format("{}: saved with {} queues, this device has {}", state_name(),
                                                                 queues.size(), slots_.size()))
                           .with_hint("restore with the same device options as the saved machine"));
    if (registers.features & ~offered_)
        return fail(ErrorCode::Unsupported, "{}: the guest uses features {:#x} that this device does not offer", state_name(),
                    registers.features & ~offered_);
    if (registers.status & kStatusDriverOk && !(registers.status & kStatusFeaturesOk))
        return fail(ErrorCode::InvalidFormat, "{}: device status {:#x}", state_name(), registers.status);
    const auto vector = [&](u16 saved) { return saved < msix().vectors() ? saved : kNoVector; };
    driver_features_ = registers.driver_features;
    features_ = registers.features;
    device_feature_select_ = registers.device_feature_select;
    driver_feature_select_ = registers.driver_feature_select;
    config_vector_ = vector(registers.config_vector);
    queue_select_ = registers.queue_select;
    config_generation_ = registers.config_generation;
    status_ = registers.status;
    reset_pending_ = false;
    {
        std::lock_guard isr_lock(isr_mutex_);
        isr_ = registers.isr & (kIsrQueue | kIsrConfig);
    }
    for (usize i = 0; i < slots_.size(); ++i) {
        Slot& slot = *slots_[i];
        const SavedQueue& saved = queues[i];
        slot.queue.reset();
        slot.resetting = false;
        slot.vector = vector(saved.vector);
        if (saved.size > slot.queue.max_size())
            return fail(ErrorCode::Unsupported, "{}: queue {} has {} entries, at most {} here", state_name(), i, saved.size,
                        slot.queue.max_size());
        slot.queue.layout() = {{saved.descriptors}, {saved.driver}, {saved.device}, saved.size, negotiated(kRingEventIndex)};
        if (saved.enabled)
            TRY(slot.queue.enable(negotiated(kRingPacked), {saved.available, saved.used, saved.available_wrap, saved.used_wrap}));
    }
    {
        std::lock_guard config_lock(device_config_mutex_);
        // Only what the driver may write is the guest's; the rest describes the device that we are.
        for (usize i = 0; i < config->size(); ++i)
            if (config_mask_[i]) device_config_[i] = (*config)[i];
    }
    TRY(load_device(in, saved_version));
    if (driver_ready()) on_driver_ready();
    update_running();
    return {};
}

}  // namespace vezha::devices::virtio
