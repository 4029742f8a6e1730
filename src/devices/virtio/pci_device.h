// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/event_loop.h"
#include "devices/pci/function.h"
#include "devices/virtio/features.h"
#include "devices/virtio/queue.h"

namespace vezha::devices::virtio {

/// What every virtio device is built into; all outlive it.
struct Wiring {
    bus::Bus& bus;
    bus::MsiSink& msi;
    memory::GuestMemory& memory;
};

struct QueueOptions {
    EventLoop* loop = nullptr;
    u16 size = 256;  ///< entries at most; a power of two
};

/// A modern virtio device on PCI: registers, negotiation, queues, interrupts, saved state. Derive one class per device.
///
/// Threads: registers are served on vCPU threads with mutex() held. on_queue() runs on the queue's loop without it.
/// A reset takes effect at once for the queues; the driver sees status 0 when nothing is in flight any more.
/// Lifetime: the most derived destructor calls shutdown() first. Source: virtio 1.2, 2 and 4.1.
class PciDevice : public pci::Function {
  public:
    ~PciDevice() override;

    /// Stops taking requests and waits until none is in flight. Main thread; the loops run (or are run here).
    /// The machine also does so before reset().
    void pause();
    void resume();

    /// Device status as the driver sees it. Any thread.
    u8 status() const { return status_.load(std::memory_order_acquire); }
    bool driver_ready() const { return (status() & (kStatusDriverOk | kStatusNeedsReset)) == kStatusDriverOk; }
    bool negotiated(unsigned feature) const { return features_.load(std::memory_order_acquire) >> feature & 1; }

    void save(state::Section& out) const override;
    Result<> load(const state::Section& in, u32 saved_version) override;

  protected:
    struct Kind {
        Type type;
        std::string name;  ///< "virtio-blk"
        u32 class_code;
        u64 features;  ///< the device's own; those of rings are added here
        usize config_size;
    };
    PciDevice(const Wiring& wiring, Kind kind, std::vector<QueueOptions> queues);

    /// Starts serving notifications; last act of create().
    Result<> start();
    /// Stops handlers on every loop. Idempotent.
    void shutdown();

    // For derived classes to say.
    /// A notification came for `index` or the device resumed. On the queue's loop.
    virtual void on_queue(u16 index) = 0;
    /// Features are agreed and queues may be used (also after load). mutex() held, or the VM stands still.
    virtual void on_driver_ready() {}
    /// Back to the state of an unused device, nothing in flight. mutex() held.
    virtual void on_reset() {}
    /// The driver wrote bytes of the configuration; those that `writable_config` allows are stored. mutex() held.
    virtual void on_config_written(u32 /*offset*/, u32 /*size*/) {}
    virtual void save_device(state::Section&) const {}
    virtual Result<> load_device(const state::Section&, u32 /*saved_version*/) { return {}; }

    // For derived classes to use.
    Queue& queue(u16 index) { return slots_[index]->queue; }
    u16 queue_count() const { return static_cast<u16>(slots_.size()); }
    EventLoop& queue_loop(u16 index) { return *slots_[index]->loop; }
    memory::GuestMemory& memory() { return memory_; }
    const memory::GuestMemory& memory() const { return memory_; }
    /// flush() and the interrupt that follows from it. Any thread.
    void complete(u16 index);
    /// complete() once for all of the loop's present events. The queue's loop.
    void complete_later(u16 index);
    /// Calls on_queue() again after other events had their turn. Any thread.
    void kick(u16 index);
    /// The driver broke the rules: it must reset us. virtio 1.2, 2.1.2. Any thread.
    void set_needs_reset(const Error& error);
    /// Pops; a broken ring becomes set_needs_reset() and false.
    bool pop(u16 index, Chain& chain);
    /// How many requests one on_queue() should take before it lets others go first.
    static constexpr u32 kBatch = 256;

    /// Reads or changes the device configuration. @param changed tells the driver. Any thread.
    template <class T>
    void set_device_config(u32 offset, T value) {
        std::lock_guard lock(device_config_mutex_);
        std::memcpy(device_config_.data() + offset, &value, sizeof value);
    }
    template <class T>
    T device_config(u32 offset) const {
        std::lock_guard lock(device_config_mutex_);
        T value;
        std::memcpy(&value, device_config_.data() + offset, sizeof value);
        return value;
    }
    void set_config_writable(u32 offset, u32 size);
    /// Tells the driver that the configuration changed. Any thread.
    void config_changed();
    u64 offered_features() const { return offered_; }

    void reset_device() final;
    void function_level_reset() override { reset(); }
    void config_written(u16 offset, unsigned size) override;
    u64 bar_read(unsigned bar, u64 offset, unsigned size) final;
    void bar_write(unsigned bar, u64 offset, unsigned size, u64 value) final;
    void bar_moved(unsigned bar, std::optional<u64> base) final;

  private:
    struct Slot {
        Slot(memory::GuestMemory& memory, const QueueOptions& options, EventFd event)
            : queue(memory, options.size), loop(options.loop), kick(std::move(event)) {}
        Queue queue;
        EventLoop* loop;
        EventFd kick;
        std::unique_ptr<EventLoop::Watch> watch;          // loop
        std::unique_ptr<bus::Bus::DoorbellHandle> doorbell;  // mutex()
        std::atomic<u16> vector{kNoVector};
        bool resetting = false;  // mutex(): queue_reset waits for the chains in flight
        bool completing = false; // loop: complete_later() is on its way
    };

    u64 common_read(u64 offset, unsigned size);
    void common_write(u64 offset, unsigned size, u64 value);
    void write_status(u8 value);
    void begin_reset();
    void finish_resets();
    void enable_queue(Slot& slot);
    void update_running();
    void interrupt(u16 vector, u8 isr_bit);
    bool idle() const;
    Slot* selected() { return queue_select_ < slots_.size() ? slots_[queue_select_].get() : nullptr; }
    void add_virtio_capability(u8 type, u32 offset, u32 length);
    void access_through_config(bool write);

    memory::GuestMemory& memory_;
    const u64 offered_;
    std::vector<std::unique_ptr<Slot>> slots_;
    bool started_ = false, paused_ = false;
    u8 access_capability_ = 0;

    // Guest-visible registers. mutex(), but for the atomics.
    u32 device_feature_select_ = 0, driver_feature_select_ = 0;
    u64 driver_features_ = 0;
    std::atomic<u64> features_{0};  // agreed at FEATURES_OK
    std::atomic<u8> status_{0};
    std::atomic<u16> config_vector_{kNoVector};
    u16 queue_select_ = 0;
    bool reset_pending_ = false;
    std::atomic<u8> config_generation_{0};
    std::mutex isr_mutex_;
    u8 isr_ = 0;

    mutable std::mutex device_config_mutex_;
    std::vector<u8> device_config_, config_mask_;
};

}  // namespace vezha::devices::virtio
