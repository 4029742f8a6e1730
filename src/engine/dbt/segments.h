// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine/dbt/context.h"
#include "engine/dbt/guest_fault.h"
#include "engine/dbt/linear_memory.h"

/// Segment registers, descriptors and far control transfers (SDM vol. 3A, chapters 3, 5 and 8; vol. 2, JMP, CALL, RET,
/// IRET, MOV to segment register). All functions throw GuestFault and have changed nothing then.
namespace vezha::engine::dbt {

/// Real-address mode or virtual-8086 mode: selectors are paragraph numbers.
inline bool real_or_v86(const Context& ctx) {
    return !(ctx.cr0 & x86::cr0::kPe) || (ctx.flags & x86::rflags::kVm);
}
inline bool real_mode(const Context& ctx) { return !(ctx.cr0 & x86::cr0::kPe); }
inline bool v86_mode(const Context& ctx) { return (ctx.cr0 & x86::cr0::kPe) && (ctx.flags & x86::rflags::kVm); }
inline bool in_long_mode(const Context& ctx) { return ctx.efer & x86::efer::kLma; }
inline bool in_code64(const Context& ctx) { return in_long_mode(ctx) && ctx.segment[x86::kCs].long_mode(); }
inline unsigned iopl(const Context& ctx) { return (ctx.flags >> 12) & 3; }

/// A descriptor as it lies in the GDT or LDT. `high` is the second half of a 16-byte one (long mode system segments).
struct Descriptor {
    u64 low = 0, high = 0;
    u64 linear = 0;  ///< where it was read

    u16 attributes() const { return static_cast<u16>((low >> 40) & 0xf0ff); }
    unsigned type() const { return (low >> 40) & 15; }
    bool code_or_data() const { return (low >> 44) & 1; }
    unsigned dpl() const { return (low >> 45) & 3; }
    bool present() const { return (low >> 47) & 1; }
    bool long_mode() const { return (low >> 53) & 1; }
    bool default32() const { return (low >> 54) & 1; }
    bool code() const { return code_or_data() && (low >> 43 & 1); }
    bool conforming() const { return (low >> 42) & 1; }  ///< of a code segment
    bool readable() const { return !code() || (low >> 41 & 1); }
    bool writable() const { return code_or_data() && !code() && (low >> 41 & 1); }
    x86::Segment segment(u16 selector) const;

    // As a gate.
    u16 gate_selector() const { return static_cast<u16>(low >> 16); }
    u64 gate_offset(bool wide) const;
};

enum SystemType : u8 {
    kTss16Available = 1, kLdt = 2, kTss16Busy = 3, kCallGate16 = 4, kTaskGate = 5, kInterruptGate16 = 6, kTrapGate16 = 7,
    kTssAvailable = 9, kTssBusy = 11, kCallGate = 12, kInterruptGate = 14, kTrapGate = 15,
};

/// Reads a descriptor (8 bytes). A selector beyond its table raises `vector` with the selector (| ext).
Descriptor read_descriptor(Context& ctx, u16 selector, u8 vector = x86::kGeneralProtection, u32 ext = 0);
/// The same, but false beyond the table (LAR, LSL, VERR, VERW). Page faults still throw.
bool try_read_descriptor(Context& ctx, u16 selector, Descriptor& out);
/// Fetches the upper 8 bytes of a long mode system descriptor.
void read_upper_half(Context& ctx, u16 selector, Descriptor& descriptor, u8 vector = x86::kGeneralProtection);
void set_accessed(Context& ctx, Descriptor& descriptor);

/// MOV/POP/LDS... to ES, SS, DS, FS, GS in the current mode.
void load_segment(Context& ctx, x86::SegmentIndex index, u16 selector);
/// Puts a selector as real and virtual-8086 mode do.
void set_real_segment(Context& ctx, x86::SegmentIndex index, u16 selector);
void load_ldtr(Context& ctx, u16 selector);
void load_tr(Context& ctx, u16 selector);
/// CS with CPL; calls update_mode().
void set_cs(Context& ctx, const x86::Segment& cs, unsigned cpl);

/// Checks `size` bytes at `offset` of a segment for limit, type and (64-bit) canonical form.
/// @return the linear address. Raises #SS for the stack segment, else #GP.
u64 segment_linear(const Context& ctx, x86::SegmentIndex index, u64 offset, u64 size, bool write);
/// As a stack with this segment, which need not be loaded yet; raises #SS(error).
u64 stack_linear(const Context& ctx, const x86::Segment& ss, u64 offset, unsigned size, u32 error = 0);

/// Pushes and pops against a stack pointer that is only stored by commit().
class Stack {
  public:
    /// The current stack.
    explicit Stack(Context& ctx);
    /// Another: for changes of privilege.
    Stack(Context& ctx, const x86::Segment& ss, u64 sp, bool code64, Privilege privilege, u32 error = 0);
    void push(u64 value, unsigned size);
    u64 pop(unsigned size);
    u64 peek(u64 offset, unsigned size);
    void skip(u64 bytes) { set(sp_ + bytes); }
    u64 sp() const { return sp_; }
    void commit();

  private:
    void set(u64 value) { sp_ = (sp_ & ~mask_) | (value & mask_); }
    Context& ctx_;
    x86::Segment ss_;
    u64 sp_, mask_;
    bool code64_;
    Privilege privilege_;
    u32 error_;
};

/// The stack for a change to `cpl` from the TSS: SS:SP (legacy) or RSPn with a null SS (long mode; `ist` 1 to 7 picks
/// ISTn). Raises #TS, #SS, #NP, #GP as a transfer through a gate does.
struct InnerStack {
    x86::Segment ss;
    u64 sp = 0;
};
InnerStack inner_stack(Context& ctx, unsigned cpl, unsigned ist, u32 ext);

/// Far transfers; `size` is the operand size in bytes (2, 4, 8). They set CS, RIP (and SS, RSP) and the mode.
void far_jump(Context& ctx, u16 selector, u64 offset, unsigned size);
void far_call(Context& ctx, u16 selector, u64 offset, unsigned size, u64 return_rip);
void far_return(Context& ctx, unsigned size, u16 release);
void interrupt_return(Context& ctx, unsigned size);

/// Checks a branch target against the CS limit or canonical form. Raises #GP(0).
void check_target(const x86::Segment& cs, bool code64, u64 rip);

}  // namespace vezha::engine::dbt
