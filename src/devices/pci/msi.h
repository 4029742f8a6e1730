// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <mutex>
#include <span>

#include "bus/irq.h"
#include "state/stream.h"

namespace vezha::devices::pci {

/// MSI of one function, with 64-bit addresses and per-vector masks. Source: PCI Local Bus 3.0, 6.8.1.
/// The registers lie in configuration space (Function); this follows them. notify() is for any thread.
class Msi {
  public:
    static constexpr u8 kSize = 24;  ///< bytes of the capability

    /// @param vectors a power of two up to 32
    Msi(bus::MsiSink& sink, u8 vectors, u8 offset) : sink_(sink), vectors_(vectors), offset_(offset) {}

    void notify(u8 vector);
    bool enabled() const;
    u8 vectors() const { return vectors_; }
    u8 offset() const { return offset_; }  ///< of the capability in configuration space

    // For Function.
    /// @param capability the kSize bytes of the capability as they stand in configuration space
    void follow(std::span<const u8> capability, bool bus_master);
    u32 pending() const;
    void reset();
    void save(state::Section& out) const;
    Result<> load(const state::Section& in);

  private:
    void send_locked(u8 vector);

    bus::MsiSink& sink_;
    const u8 vectors_, offset_;
    mutable std::mutex mutex_;  // innermost but for the interrupt controller's
    bool enabled_ = false, bus_master_ = false;
    u8 granted_ = 1;  // vectors that software allows us
    u32 mask_ = 0, pending_ = 0;
    bus::MsiMessage message_;
    struct Cached {
        std::unique_ptr<bus::MsiRoute> route;
        bool set = false;
    };
    std::array<Cached, 32> routes_;
};

}  // namespace vezha::devices::pci
