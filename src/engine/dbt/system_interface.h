// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Zydis/DecoderTypes.h>

#include <memory>

#include "engine/dbt/context.h"

/// The seam between the translator (which runs ordinary instructions) and the system part (which knows privileged
/// instructions, descriptor tables, paging and interrupts). Everything here runs on the vCPU's own thread unless it says
/// otherwise, with all guest state in Context: exact at an instruction boundary, `rip` at the instruction in question.
///
/// Rules for the files compiled with -mgeneral-regs-only (see CMakeLists.txt: paging.cpp among them): the guest's vector
/// registers are live while they run, so they must not call library functions (memcpy of unknown size, logging, locks).
/// All other functions are called with the vector state parked in Context::xsave.
namespace vezha::engine::dbt {

/// One decoded guest instruction, as the translator hands it to the system part.
struct Instruction {
    ZydisDecodedInstruction info{};
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT]{};
    u64 rip = 0;      ///< its offset in CS
    u8 bytes[15]{};
};

enum class AccessKind : u8 { Read, Write, Execute };

/// The answer of the page tables (SDM vol. 3A, 4.5 to 4.7) for one access.
struct WalkResult {
    bool ok = false;
    u64 gpa = 0;        ///< of the very byte asked for
    u64 page_size = 0;  ///< 4 KiB, 2 MiB, 4 MiB, 1 GiB
    bool global = false;
    bool dirty = false; ///< the leaf's D bit is set (true without paging)
    Fault fault{};      ///< #PF (or #GP for a non-canonical address) if not ok
};

// ---- Provided by the system part --------------------------------------------------------------------------------

/// Walks for one access and sets A (and D for writes) atomically. `user`: the access counts as a user-mode one (CPL 3
/// and not an implicit system access). SMAP looks at Context::flags.AC unless `implicit_supervisor`. Does not touch ctx.fault.
/// In paging.cpp, -mgeneral-regs-only.
WalkResult walk(Context& ctx, u64 linear, AccessKind kind, bool user, bool implicit_supervisor = false);

/// What execute_system() did.
enum class Outcome : u8 {
    Next,    ///< done; the caller adds the instruction's length to rip (HLT too: mp_state says Halted)
    Jumped,  ///< rip and possibly the whole mode are new
    Fault,   ///< ctx.fault is set; nothing else changed; the caller delivers it
    Repeat,  ///< a REP INS/OUTS did a part: come back with the same rip (after looking at events)
};
/// Executes any instruction the translator does not translate: privileged, segment, far, I/O, flag-image (PUSHF, POPF, STI,
/// CLI), BCD arithmetic (AAA, DAA, ...), BOUND, ARPL, LAHF-like oddities are the translator's. Unknown or unsupported: #UD.
/// Does all checks of privilege and mode itself. Sets sti_shadow or mov_ss_shadow when the instruction starts one (the
/// caller clears older ones).
Outcome execute_system(Context& ctx, const Instruction& instruction);

/// Delivers ctx.fault (exception raised by the instruction at rip, or an injected one) through the IDT; double and triple
/// faults included (ctx.shutdown). Clears ctx.fault.pending. CR2 and RF as architected.
void deliver_fault(Context& ctx);
/// Called when attention has event bits or the vCPU sleeps: takes at most one of INIT, SIPI, NMI, interrupt by priority if
/// IF, shadows and mp_state permit (it wakes a halted vCPU) and clears what it consumed. Cheap if there is nothing.
/// @return true if something was taken (rip changed or mp_state changed)
bool service_events(Context& ctx);
/// True if service_events() would do something: for the sleep of HLT. Any time on the vCPU's thread.
bool has_deliverable_event(Context& ctx);

/// The local APICs of a VM and the messages between them.
class ApicFabric : public bus::MsiSink {
  public:
    /// Makes ctx.lapic; `index` is the APIC ID. Before the first run.
    virtual void add(Context& ctx, u32 index) = 0;
    /// The PIC's INTR may have changed. Any thread.
    virtual void ext_int_changed() = 0;
    /// Access to the xAPIC page; offset < 4096, any size. The vCPU's own thread.
    virtual u64 mmio_read(Context& ctx, u32 offset, unsigned size) = 0;
    virtual void mmio_write(Context& ctx, u32 offset, unsigned size, u64 value) = 0;
    virtual void save(Context& ctx, x86::LapicState& out) = 0;
    virtual void load(Context& ctx, const x86::LapicState& in) = 0;
    /// Time stops and goes on (Vm::paused/resumed).
    virtual void paused() = 0;
    virtual void resumed() = 0;
};
std::unique_ptr<ApicFabric> new_apic_fabric(const VmWiring& wiring);

/// Call when ctx.cpuid was set: what the engine keeps of it in Context.
void note_cpuid(Context& ctx);

/// Everything of the vCPU into the canonical form and back. The vCPU stands; the VM's time too, if the values are to be
/// consistent. load: InvalidFormat for a state that no processor can be in; ctx may be half loaded then.
x86::CpuState to_cpu_state(Context& ctx);
Result<> from_cpu_state(Context& ctx, const x86::CpuState& state);

/// Raises #DB with bits for DR6 (BS, B0-B3...; SDM vol. 3B, 17.2.3) as ctx.fault: the bits travel in Fault::address. Set
/// RF in flags first for an instruction breakpoint.
Fault debug_fault(u64 dr6_bits);

/// Host-side access to MSRs by number for save and load: no privilege or reserved-bit faults; false if unknown.
bool get_msr(Context& ctx, u32 index, u64& value);
bool set_msr(Context& ctx, u32 index, u64 value);

/// What the engine can show: every CPUID leaf, XCR0 (cpuid_support.cpp). Features that the engine does not run are hidden.
x86::CpuidTable supported_cpuid();
u64 supported_xcr0();
u64 host_tsc_hz();

// ---- Provided by the translator ---------------------------------------------------------------------------------

/// Recomputes cpl-independent mode members and the block key from cr0, cr4, efer, flags, segments, xcr0. Call after changing any
/// of them (also AC in flags, CS, SS, CPL). Cheap. Does not flush.
void update_mode(Context& ctx);

enum class FlushScope : u8 { All, NonGlobal, Page };
/// Forgets translations of this vCPU's software TLB. `linear` for Page (global entries too). No PCID tags at present: a
/// MOV to CR3 with or without the no-flush bit flushes NonGlobal; INVPCID flushes All, NonGlobal or Page likewise.
void flush_tlb(Context& ctx, FlushScope scope, u64 linear = 0);

/// Sets attention bits and wakes the vCPU if it sleeps. Any thread.
void request_attention(Context& ctx, u32 bits);

/// Physical memory as this vCPU sees it: RAM (with dirty marks and code invalidation), its xAPIC page, the bus. May not
/// cross a page. Vector state parked.
u64 physical_read(Context& ctx, u64 gpa, unsigned size);
void physical_write(Context& ctx, u64 gpa, unsigned size, u64 value);
/// Host pointer to RAM at gpa (the bytes to the end of its page), or null for MMIO and, for_write, for ROM. After writing
/// call physical_written(). General registers only.
u8* ram_pointer(Context& ctx, u64 gpa, bool for_write);
void physical_written(Context& ctx, u64 gpa, u64 size);

/// Saves the guest's vector and x87 state to ctx.xsave and gives the host its own control words; idempotent. It is
/// reloaded on the next entry into guest code.
void park_vector_state(Context& ctx);

}  // namespace vezha::engine::dbt
