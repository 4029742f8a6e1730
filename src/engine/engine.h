// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "arch/x86/cpu_state.h"
#include "arch/x86/cpuid.h"
#include "base/result.h"
#include "bus/bus.h"
#include "bus/clock.h"
#include "bus/irq.h"
#include "memory/guest_memory.h"

/// The only thing the rest of the program knows of running guest code. Two implementations: engine/kvm, engine/dbt.
namespace vezha::engine {

/// What an engine can do on this host.
struct Capabilities {
    std::string name;  ///< "kvm" or "dbt"
    x86::CpuidTable cpuid;
    u64 xcr0 = 3;
    u64 tsc_hz = 0;
    u32 max_vcpus = 0;
    u8 physical_address_bits = 40;
    bool dirty_ring = false;
    bool msr_filter = false;
    bool smm = false;
    bool in_kernel_doorbells = false;  ///< doorbells and MSI routes bypass our process
};

/// Why Vcpu::run() came back. HLT does not: a halted vCPU sleeps inside run().
enum class Exit : u8 {
    Kicked,       ///< kick() was called; nothing else happened
    Shutdown,     ///< triple fault
    Reset,        ///< the guest asked for a processor reset through the engine (INIT to the BSP, ...)
    DebugStop,    ///< breakpoint or single step of a debugger outside the guest
    Error,        ///< the engine cannot go on; last_error() says why with registers and code bytes
};

/// One virtual processor. Everything but kick(), and what is marked, belongs to the thread that calls run().
class Vcpu {
  public:
    virtual ~Vcpu() = default;
    /// Runs guest code until an Exit. A kick that came before makes it return at once.
    virtual Exit run() = 0;
    /// Makes run() return soon. Any thread; sticky until the next return of run().
    virtual void kick() = 0;
    /// Delivers an NMI as the architecture says. Any thread.
    virtual void nmi() = 0;
    /// Set by run() before Exit::Error.
    virtual Error last_error() const = 0;

    /// Not while run() is executing; any thread that owns the pause.
    virtual Result<x86::CpuState> save() = 0;
    virtual Result<> load(const x86::CpuState& state) = 0;
    /// Host thread id of the last run(), for query-cpus-fast; 0 before.
    virtual int thread_id() const = 0;
};

/// Wiring that an engine needs from the machine. References outlive the Vm.
struct VmWiring {
    memory::GuestMemory& memory;
    bus::Bus& bus;
    bus::Clock& clock;
    /// The PIC's INTR, for vCPU 0; may be null (machines without one).
    bus::ExtIntSource* ext_int = nullptr;
    /// Called with the vector when a local APIC completes (EOI) a level-triggered interrupt; IOAPIC. Any thread.
    std::function<void(u8 vector)> eoi = nullptr;
};

/// One virtual machine's processors and interrupt fabric.
class Vm {
  public:
    virtual ~Vm() = default;
    virtual const Capabilities& capabilities() const = 0;
    /// Create all before the first run. `index` is also the APIC ID.
    virtual Result<std::unique_ptr<Vcpu>> new_vcpu(u32 index, const x86::CpuModel& model) = 0;
    /// Messages to the local APICs. Lives as long as the Vm.
    virtual bus::MsiSink& msi() = 0;
    /// Tells that ExtIntSource::pending() may have changed. Any thread; cheap.
    virtual void ext_int_changed() = 0;
    /// Tells the engine what IOAPIC pin `pin` would send now and whether it is level-triggered and unmasked, so that the
    /// engine knows which EOIs to report (KVM: routing entries of the split irqchip). Any thread.
    virtual void set_ioapic_route(u32 pin, const bus::MsiMessage& message, bool level, bool masked) = 0;
    /// Fetches what vCPUs wrote since dirty logging was switched on or last collected into the regions' bitmaps. The
    /// engine follows GuestMemory::set_dirty_logging through set_dirty_logging() here.
    virtual Result<> set_dirty_logging(bool on) = 0;
    virtual Result<> collect_dirty() = 0;
    /// The VM is paused or about to run again: clocks that the guest sees directly (TSC, kvmclock) stop and go on.
    virtual void paused() = 0;
    virtual void resumed() = 0;
    /// Counters for people: exits by reason, translations, ... (name, value).
    virtual std::vector<std::pair<std::string, u64>> statistics() const = 0;
};

}  // namespace vezha::engine
