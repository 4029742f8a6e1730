// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bus/bus.h"
#include "bus/irq.h"
#include "devices/pci/msi.h"
#include "devices/pci/msix.h"
#include "devices/pci/registers.h"
#include "state/stateful.h"

namespace vezha::devices::pci {

class PciBus;

/// What a function says it is.
struct Identity {
    u16 vendor = 0;
    u16 device = 0;
    u32 class_code = 0;  ///< 24 bits: class, subclass, programming interface (0x020000: Ethernet)
    u8 revision = 0;
    u16 subsystem_vendor = 0;
    u16 subsystem = 0;
};

enum class BarKind : u8 { Io, Memory32, Memory64 };

/// Called for accesses to a capability's bytes. Offsets count from the capability's first byte. Mutex held.
struct CapabilityHooks {
    std::function<void(u16 offset, unsigned size)> before_read = nullptr;  ///< may refresh by set_config()
    std::function<void(u16 offset, unsigned size)> after_write = nullptr;
};

/// A PCI or PCI Express function: 4 KiB of configuration space, BARs, capabilities, interrupts. Derive from it; build
/// BARs and capabilities in the constructor, then give it to PciBus::add().
///
/// Threads: whoever reads or writes configuration space or a BAR holds mutex() (the Bus and PciBus do). Interrupts
/// (msix().notify, msi().notify, set_intx) and bus_master() are for any thread, with or without mutex().
/// Sources: PCI Local Bus 3.0, chapter 6; PCI Express Base 5.0, chapter 7.
class Function : public bus::Device, public state::Stateful {
  public:
    Function(bus::Bus& bus, bus::MsiSink& msi, std::string name, const Identity& identity, u8 header_type = 0);
    ~Function() override;
    Function(const Function&) = delete;
    Function& operator=(const Function&) = delete;

    const std::string& name() const { return name_; }
    /// The slot, once added to a bus.
    Slot slot() const { return slot_; }
    PciBus* parent() const { return parent_; }
    /// The other functions of this device exist too (header type bit 7). Before add().
    void set_multifunction() { config_[kHeaderType] |= 0x80; }

    /// An access of 1, 2 or 4 bytes within configuration space. Holds for every alignment.
    u32 config_read(u16 offset, unsigned size);
    void config_write(u16 offset, unsigned size, u32 value);

    /// For back ends: software allows us to read and write guest memory. Any thread.
    bool bus_master() const { return bus_master_.load(std::memory_order_acquire); }

    /// Where a BAR is now mapped, if it is. Mutex held.
    std::optional<u64> bar_base(unsigned bar) const { return bars_[bar].mapped_at; }
    u64 bar_size(unsigned bar) const { return bars_[bar].size; }
    BarKind bar_kind(unsigned bar) const { return bars_[bar].kind; }

    bool has_msix() const { return msix_ != nullptr; }
    Msix& msix() { return *msix_; }
    bool has_msi() const { return msi_ != nullptr; }
    Msi& msi() { return *msi_; }
    /// INTx: the level that the device wants; gated by Interrupt Disable, MSI and MSI-X. Any thread.
    void set_intx(bool asserted);

    // bus::Device: BAR accesses; `range` is the BAR's number.
    u64 read(u32 range, u64 offset, unsigned size) final;
    void write(u32 range, u64 offset, unsigned size, u64 value) final;

    // state::Stateful. Overriders call these first.
    std::string state_name() const override;  ///< "pci/00:03.0/virtio-blk"
    void save(state::Section& out) const override;
    Result<> load(const state::Section& in, u32 saved_version) override;
    /// Power-on state of configuration space and interrupts, then reset_device().
    void reset() final;

  protected:
    /// What stands behind the BARs, except for the MSI-X structures. Mutex held.
    virtual u64 bar_read(unsigned bar, u64 offset, unsigned size);
    virtual void bar_write(unsigned bar, u64 offset, unsigned size, u64 value);
    /// The device behind configuration space goes back to power-on state.
    virtual void reset_device() {}
    /// Function-level reset asked for by the guest (mutex held, on a vCPU's thread). Default: reset().
    virtual void function_level_reset() { reset(); }
    /// After a write to configuration space was applied, BARs and interrupts included. Mutex held.
    virtual void config_written(u16 /*offset*/, unsigned /*size*/) {}
    /// A BAR got or lost its address (the Bus follows after the access). Mutex held. For doorbells.
    virtual void bar_moved(unsigned /*bar*/, std::optional<u64> /*base*/) {}

    /// @param size a power of two; at least 16 (memory) or 4 (I/O). A Memory64 BAR takes two numbers.
    void add_bar(unsigned bar, BarKind kind, u64 size, bool prefetchable = false);
    /// Appends a capability. @param body what follows its two header bytes; @param writable mask for `body`
    /// (shorter: the rest is read-only). @return its offset in configuration space
    u8 add_capability(u8 id, std::span<const u8> body, std::span<const u8> writable = {}, CapabilityHooks hooks = {});
    /// At 0x100 and up. @param body what follows the four header bytes
    u16 add_extended_capability(u16 id, u8 version, std::span<const u8> body, std::span<const u8> writable = {});
    /// The PCI Express capability (version 2), with function-level reset for endpoints. An endpoint on the root bus
    /// becomes a root-complex integrated one. @return its offset
    u8 add_express_capability(PortType type = PortType::Endpoint, bool slot_implemented = false);
    /// D0 and D3hot, without wake-up.
    u8 add_power_management();
    /// The table and pending bits occupy [table_offset, ...) and [pba_offset, ...) of `bar`, which add_bar() made.
    void add_msix(u16 vectors, unsigned bar, u32 table_offset, u32 pba_offset);
    /// @param vectors a power of two up to 32
    void add_msi(u8 vectors);
    /// INTA to INTD: 1 to 4.
    void set_interrupt_pin(u8 pin) { config_[kInterruptPin] = pin; }

    template <class T>
    T config(u16 offset) const {
        T value;
        std::memcpy(&value, config_.data() + offset, sizeof value);
        return value;
    }
    /// Sets bytes as hardware does, whatever software may write there. Mutex held.
    template <class T>
    void set_config(u16 offset, T value) {
        std::memcpy(config_.data() + offset, &value, sizeof value);
    }
    /// Lets software change the bits of `mask`, or clear them by writing 1.
    template <class T>
    void set_writable(u16 offset, T mask) {
        std::memcpy(writable_.data() + offset, &mask, sizeof mask);
    }
    template <class T>
    void set_write_one_to_clear(u16 offset, T mask) {
        std::memcpy(clearable_.data() + offset, &mask, sizeof mask);
    }
    u8 express_offset() const { return express_; }
    bus::Bus& system_bus() { return bus_; }
    bus::MsiSink& msi_sink() { return sink_; }

  private:
    friend class PciBus;
    struct Bar {
        BarKind kind = BarKind::Memory32;
        u64 size = 0;  // 0: none
        std::optional<u64> mapped_at;
        std::unique_ptr<bus::Bus::Mapping> mapping;
    };
    struct Capability {
        u16 offset, size;
        CapabilityHooks hooks;
    };
    void attached(PciBus& parent, Slot slot, std::string address);
    std::optional<u64> wanted_base(unsigned bar) const;
    void update_bars();
    void update_interrupts();
    void drive_intx();
    void call_hooks(u16 offset, unsigned size, bool write);

    bus::Bus& bus_;
    bus::MsiSink& sink_;
    const std::string name_;
    PciBus* parent_ = nullptr;
    Slot slot_;
    std::string address_;  // "00:03.0"

    std::array<u8, kConfigSize> config_{}, writable_{}, clearable_{}, power_on_{};
    bool built_ = false;  // power_on_ holds the values of config_ at add()
    std::array<Bar, 6> bars_;
    std::vector<Capability> capabilities_;
    u16 next_capability_ = 0x40, last_link_ = kCapabilities, next_extended_ = 0x100, last_extended_ = 0;
    u8 express_ = 0, msix_offset_ = 0;
    std::unique_ptr<Msix> msix_;
    std::unique_ptr<Msi> msi_;
    std::atomic<bool> bus_master_{false};

    std::mutex intx_mutex_;  // after mutex(), before the interrupt router's
    bool intx_wanted_ = false, intx_allowed_ = true, intx_driven_ = false;
};

}  // namespace vezha::devices::pci
