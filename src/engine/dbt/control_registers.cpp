// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/control_registers.h"

#include "engine/dbt/guest_fault.h"
#include "engine/dbt/lapic.h"
#include "engine/dbt/paging.h"
#include "engine/dbt/segments.h"
#include "engine/dbt/system_interface.h"

namespace vezha::engine::dbt {

using namespace x86;

u64 allowed_cr4(const Context& ctx) {
    const auto one = ctx.cpuid.query(1, 0);
    const auto seven = ctx.cpuid.query(7, 0);
    u64 allowed = cr4::kTsd | cr4::kDe | cr4::kPse | cr4::kPae | cr4::kMce | cr4::kPge | cr4::kPce | cr4::kOsfxsr |
                  cr4::kOsxmmexcpt;
    if (one.ecx >> 17 & 1) allowed |= cr4::kPcide;
    if (one.ecx >> 26 & 1) allowed |= cr4::kOsxsave;
    if (seven.ebx & 1) allowed |= cr4::kFsgsbase;
    if (seven.ebx >> 7 & 1) allowed |= cr4::kSmep;
    if (seven.ebx >> 20 & 1) allowed |= cr4::kSmap;
    if (seven.ecx >> 2 & 1) allowed |= cr4::kUmip;
    if (seven.ecx >> 3 & 1) allowed |= cr4::kPke;
    return allowed;
}

u64 read_control(const Context& ctx, unsigned index) {
    switch (index) {
        case 0: return ctx.cr0;
        case 2: return ctx.cr2;
        case 3: return ctx.cr3;
        case 4: return ctx.cr4;
        case 8: return ctx.lapic ? ctx.lapic->cr8() : 0;
        default: raise_ud();
    }
}

void write_cr0(Context& ctx, u64 value) {
    if (value >> 32) raise_gp(0);
    constexpr u64 kKnown = cr0::kPe | cr0::kMp | cr0::kEm | cr0::kTs | cr0::kEt | cr0::kNe | cr0::kWp | cr0::kAm |
                           cr0::kNw | cr0::kCd | cr0::kPg;
    value = (value & kKnown) | cr0::kEt;
    if ((value & cr0::kPg) && !(value & cr0::kPe)) raise_gp(0);
    if ((value & cr0::kNw) && !(value & cr0::kCd)) raise_gp(0);
    const u64 old = ctx.cr0;
    const bool paging_on = (value & cr0::kPg) && !(old & cr0::kPg);
    const bool paging_off = !(value & cr0::kPg) && (old & cr0::kPg);
    if (paging_off && (ctx.cr4 & cr4::kPcide)) raise_gp(0);
    if (paging_off && in_code64(ctx)) raise_gp(0);
    if (paging_on && (ctx.efer & efer::kLme)) {
        // A 64-bit code segment would switch operand sizes under the running code (SDM vol. 3A, 9.8.5).
        if (!(ctx.cr4 & cr4::kPae) || ctx.segment[kCs].long_mode()) raise_gp(0);
        if (!ctx.tr.unusable() && !(ctx.tr.type() & 8)) raise_gp(0);
    } else if (paging_on && (ctx.cr4 & cr4::kPae)) {
        if (!load_pdptes(ctx, ctx.cr3)) raise_gp(0);
    }
    ctx.cr0 = value;
    if (paging_on && (ctx.efer & efer::kLme)) ctx.efer |= efer::kLma;
    if (paging_off) ctx.efer &= ~efer::kLma;
    if ((old ^ value) & cr0::kPe) ctx.cpl = 0;
    update_mode(ctx);
    if ((old ^ value) & (cr0::kPg | cr0::kWp | cr0::kPe)) flush_tlb(ctx, FlushScope::All);
}

void write_cr3(Context& ctx, u64 value) {
    if (in_long_mode(ctx)) {
        bool keep = false;
        if (ctx.cr4 & cr4::kPcide) {
            keep = value >> 63;
            value &= ~(u64{1} << 63);
        }
        if (value >> ctx.physical_bits) raise_gp(0);
        ctx.cr3 = value;
        (void)keep;  // permission to keep translations, not a duty
    } else {
        value &= 0xffff'ffff;
        if (uses_pdptes(ctx) && !load_pdptes(ctx, value)) raise_gp(0);
        ctx.cr3 = value;
    }
    flush_tlb(ctx, FlushScope::NonGlobal);
}

void write_cr4(Context& ctx, u64 value) {
    if (value & ~allowed_cr4(ctx)) raise_gp(0);
    const u64 changed = value ^ ctx.cr4;
    if (in_long_mode(ctx) && !(value & cr4::kPae)) raise_gp(0);
    if ((changed & value & cr4::kPcide) && (!in_long_mode(ctx) || (ctx.cr3 & 0xfff))) raise_gp(0);
    constexpr u64 kPaging = cr4::kPae | cr4::kPge | cr4::kPse | cr4::kPcide | cr4::kSmep | cr4::kSmap | cr4::kPke;
    if ((value & cr4::kPae) && (changed & kPaging) && (ctx.cr0 & cr0::kPg) && !in_long_mode(ctx) &&
        !load_pdptes(ctx, ctx.cr3))
        raise_gp(0);
    ctx.cr4 = value;
    update_mode(ctx);
    if (changed & kPaging) flush_tlb(ctx, FlushScope::All);
}

void write_control(Context& ctx, unsigned index, u64 value) {
    switch (index) {
        case 0: return write_cr0(ctx, value);
        case 2: ctx.cr2 = value; return;
        case 3: return write_cr3(ctx, value);
        case 4: return write_cr4(ctx, value);
        case 8:
            if (value >> 4) raise_gp(0);
            if (ctx.lapic) ctx.lapic->set_cr8(value);
            return;
        default: raise_ud();
    }
}

// SDM vol. 1, 13.3.
void write_xcr0(Context& ctx, u64 value) {
    const auto leaf = ctx.cpuid.query(0xd, 0);
    const u64 allowed = leaf.eax | u64{leaf.edx} << 32;
    constexpr u64 kAvx512 = 0xe0;
    if (!(value & 1) || (value & ~allowed)) raise_gp(0);
    if ((value & 4) && !(value & 2)) raise_gp(0);
    if ((value & kAvx512) && ((value & kAvx512) != kAvx512 || !(value & 4))) raise_gp(0);
    ctx.xcr0 = value;
    update_mode(ctx);
}

u64 read_debug(Context& ctx, unsigned index) {
    if (index == 4 || index == 5) {
        if (ctx.cr4 & cr4::kDe) raise_ud();
        index += 2;
    }
    return index < 4 ? ctx.dr[index] : index == 6 ? ctx.dr6 : ctx.dr7;
}

void write_debug(Context& ctx, unsigned index, u64 value) {
    if (index == 4 || index == 5) {
        if (ctx.cr4 & cr4::kDe) raise_ud();
        index += 2;
    }
    if (index < 4) {
        ctx.dr[index] = value;
    } else {
        if (value >> 32) raise_gp(0);
        ctx.flags &= ~rflags::kRf;  // for the instruction that follows
        if (index == 6) ctx.dr6 = (value & 0xe00f) | 0xffff'0ff0;
        else ctx.dr7 = (value & 0xffff'2bff) | 0x400;
    }
    update_mode(ctx);
}

}  // namespace vezha::engine::dbt
