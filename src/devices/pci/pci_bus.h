// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "devices/pci/function.h"

namespace vezha::devices::pci {

/// Where INTx wires end: eight inputs, A to H, as a chipset routes them. set() may be called on any thread, with a
/// function's mutex held; one call per change of one function's output.
class IntxRouter {
  public:
    virtual ~IntxRouter() = default;
    /// @param device, pin (0: INTA) of a slot of the root bus
    virtual void set_intx(u8 device, u8 pin, bool asserted) = 0;
};

/// One PCI bus: who sits in which slot. Functions are added before the guest runs or with its vCPUs parked.
class PciBus {
  public:
    /// The root bus, number 0. @param router outlives the bus
    explicit PciBus(IntxRouter& router) : router_(&router) {}
    /// The bus behind a bridge that sits in `bridge_device` of `parent`.
    PciBus(PciBus& parent, u8 bridge_device) : parent_(&parent), bridge_device_(bridge_device) {}

    bool is_root() const { return parent_ == nullptr; }
    /// Puts a function in a slot; it is not owned and outlives the bus's use. @return AlreadyExists, OutOfRange
    Result<> add(Function& function, Slot slot);
    /// In the first device number without functions. @return NoSpace
    Result<Slot> add(Function& function, u8 first_device = 1);
    void remove(Function& function);
    Function* find(Slot slot) const { return slots_[slot.devfn()]; }
    std::vector<Function*> functions() const;

    /// A configuration access that has arrived at bus `bus` of the tree below this one. Takes the function's mutex.
    /// Reads of nobody are all ones.
    u32 config_read(u8 bus, Slot slot, u16 offset, unsigned size);
    void config_write(u8 bus, Slot slot, u16 offset, unsigned size, u32 value);

    /// A function's wire changed. Bridges swizzle pins (PCI-to-PCI Bridge 1.2, 9.1).
    void set_intx(u8 device, u8 pin, bool asserted);

  private:
    friend class Bridge;
    Function* locate(u8 bus, Slot slot);

    IntxRouter* router_ = nullptr;
    PciBus* parent_ = nullptr;
    u8 bridge_device_ = 0;
    std::array<Function*, 256> slots_{};
    std::vector<class Bridge*> bridges_;
};

}  // namespace vezha::devices::pci
