// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "bus/irq.h"
#include "state/stream.h"

namespace vezha::devices::pci {

/// MSI-X of one function: the table, the pending bits and who may send. Source: PCI Local Bus 3.0, 6.8.2.
/// notify() is for any thread, with or without the function's mutex; a lock of this object, taken last but for the
/// interrupt controller's, guards everything.
class Msix {
  public:
    static constexpr u16 kMaxVectors = 2048;
    static constexpr u32 kEntrySize = 16;

    /// @param vectors 1 to kMaxVectors. Both structures lie in BAR `bar`.
    Msix(bus::MsiSink& sink, u16 vectors, u8 bar, u32 table_offset, u32 pba_offset);

    u16 vectors() const { return static_cast<u16>(entries_.size()); }
    u8 bar() const { return bar_; }
    u32 table_offset() const { return table_offset_; }
    u32 pba_offset() const { return pba_offset_; }
    u32 table_size() const { return vectors() * kEntrySize; }
    u32 pba_size() const { return static_cast<u32>((vectors() + 63) / 64 * 8); }

    /// Sends the vector's message, or marks it pending while it is masked. Does nothing for vectors that do not exist
    /// and while MSI-X is off. Any thread.
    void notify(u16 vector);
    bool enabled() const;
    /// The cached route of a vector, for vhost; nullptr if the engine has none. Owned here.
    bus::MsiRoute* route(u16 vector);

    // For Function, which holds the configuration space and the BAR.
    void set_control(bool enabled, bool function_masked, bool bus_master);
    bool covers(u8 bar, u64 offset, unsigned size) const;
    u64 read(u64 offset, unsigned size) const;
    void write(u64 offset, unsigned size, u64 value);
    void reset();
    void save(state::Section& out) const;
    Result<> load(const state::Section& in);

  private:
    struct Entry {
        bus::MsiMessage message;
        u32 control = 1;  // bit 0: masked
        bool pending = false;
        bool route_set = false;
        std::unique_ptr<bus::MsiRoute> route;
    };
    bool deliverable_locked(const Entry& entry) const {
        return enabled_ && bus_master_ && !function_masked_ && !(entry.control & 1);
    }
    void send_locked(Entry& entry);
    void flush_locked();
    bus::MsiRoute* route_locked(Entry& entry);

    bus::MsiSink& sink_;
    const u8 bar_;
    const u32 table_offset_, pba_offset_;
    mutable std::mutex mutex_;
    std::vector<Entry> entries_;
    bool enabled_ = false, function_masked_ = false, bus_master_ = false;
};

}  // namespace vezha::devices::pci
