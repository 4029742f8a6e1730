// SPDX-License-Identifier: Apache-2.0
// Compiled with -mgeneral-regs-only: the guest's vector registers are live here. No library calls.
#include <Zydis/Mnemonic.h>

#include "engine/dbt/guest_run.h"
#include "engine/dbt/string_instructions.h"

namespace vezha::engine::dbt {

StringForm string_form(const Context& ctx, const Instruction& insn) {
    StringForm f;
    switch (insn.info.mnemonic) {
    case ZYDIS_MNEMONIC_MOVSB: case ZYDIS_MNEMONIC_MOVSW: case ZYDIS_MNEMONIC_MOVSD: case ZYDIS_MNEMONIC_MOVSQ:
        f.what = StringForm::Move;
        break;
    case ZYDIS_MNEMONIC_STOSB: case ZYDIS_MNEMONIC_STOSW: case ZYDIS_MNEMONIC_STOSD: case ZYDIS_MNEMONIC_STOSQ:
        f.what = StringForm::Store;
        break;
    case ZYDIS_MNEMONIC_LODSB: case ZYDIS_MNEMONIC_LODSW: case ZYDIS_MNEMONIC_LODSD: case ZYDIS_MNEMONIC_LODSQ:
        f.what = StringForm::Load;
        break;
    case ZYDIS_MNEMONIC_SCASB: case ZYDIS_MNEMONIC_SCASW: case ZYDIS_MNEMONIC_SCASD: case ZYDIS_MNEMONIC_SCASQ:
        f.what = StringForm::Scan;
        break;
    default: f.what = StringForm::Compare; break;
    }
    switch (insn.info.mnemonic) {
    case ZYDIS_MNEMONIC_MOVSB: case ZYDIS_MNEMONIC_STOSB: case ZYDIS_MNEMONIC_LODSB: case ZYDIS_MNEMONIC_SCASB:
    case ZYDIS_MNEMONIC_CMPSB:
        f.size = 1;
        break;
    case ZYDIS_MNEMONIC_MOVSW: case ZYDIS_MNEMONIC_STOSW: case ZYDIS_MNEMONIC_LODSW: case ZYDIS_MNEMONIC_SCASW:
    case ZYDIS_MNEMONIC_CMPSW:
        f.size = 2;
        break;
    case ZYDIS_MNEMONIC_MOVSQ: case ZYDIS_MNEMONIC_STOSQ: case ZYDIS_MNEMONIC_LODSQ: case ZYDIS_MNEMONIC_SCASQ:
    case ZYDIS_MNEMONIC_CMPSQ:
        f.size = 8;
        break;
    default: f.size = 4; break;
    }
    f.address_mask = insn.info.address_width == 64 ? ~u64{0} : insn.info.address_width == 32 ? 0xffff'ffff : 0xffff;
    const auto attributes = insn.info.attributes;
    f.repeat = attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE);
    f.until_equal = attributes & ZYDIS_ATTRIB_HAS_REPNE;
    unsigned segment = x86::kDs;
    if (attributes & ZYDIS_ATTRIB_HAS_SEGMENT_CS) segment = x86::kCs;
    if (attributes & ZYDIS_ATTRIB_HAS_SEGMENT_SS) segment = x86::kSs;
    if (attributes & ZYDIS_ATTRIB_HAS_SEGMENT_ES) segment = x86::kEs;
    if (attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS) segment = x86::kFs;
    if (attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS) segment = x86::kGs;
    f.linear_mask = ctx.code64 ? ~u64{0} : 0xffff'ffff;
    f.source_base = ctx.code64 && segment != x86::kFs && segment != x86::kGs ? 0 : ctx.segment[segment].base;
    f.destination_base = ctx.code64 ? 0 : ctx.segment[x86::kEs].base;
    return f;
}

namespace {
u64 least(u64 a, u64 b) { return a < b ? a : b; }

void set_register(u64& r, u64 value, u64 mask) {
    if (mask == 0xffff) r = (r & ~u64{0xffff}) | (value & 0xffff);
    else r = value & mask;
}

void native_move(u8* to, const u8* from, u64 count, unsigned size) {
    switch (size) {
    case 1: asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory"); break;
    case 2: asm volatile("rep movsw" : "+D"(to), "+S"(from), "+c"(count) : : "memory"); break;
    case 4: asm volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(count) : : "memory"); break;
    default: asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory"); break;
    }
}
void native_store(u8* to, u64 value, u64 count, unsigned size) {
    switch (size) {
    case 1: asm volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory"); break;
    case 2: asm volatile("rep stosw" : "+D"(to), "+c"(count) : "a"(value) : "memory"); break;
    case 4: asm volatile("rep stosl" : "+D"(to), "+c"(count) : "a"(value) : "memory"); break;
    default: asm volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(value) : "memory"); break;
    }
}
u64 load(const u8* from, unsigned size) {
    switch (size) {
    case 1: return *from;
    case 2: return *reinterpret_cast<const u16*>(from);
    case 4: return *reinterpret_cast<const u32*>(from);
    default: return *reinterpret_cast<const u64*>(from);
    }
}
}  // namespace

u64 compare_flags(u64 left, u64 right, unsigned size) {
    u64 flags;
    switch (size) {
    case 1: asm("cmpb %b2, %b1\n\tpushfq\n\tpopq %0" : "=r"(flags) : "q"(left), "q"(right) : "cc", "memory"); break;
    case 2: asm("cmpw %w2, %w1\n\tpushfq\n\tpopq %0" : "=r"(flags) : "r"(left), "r"(right) : "cc", "memory"); break;
    case 4: asm("cmpl %k2, %k1\n\tpushfq\n\tpopq %0" : "=r"(flags) : "r"(left), "r"(right) : "cc", "memory"); break;
    default: asm("cmpq %2, %1\n\tpushfq\n\tpopq %0" : "=r"(flags) : "r"(left), "r"(right) : "cc", "memory"); break;
    }
    return flags & x86::rflags::kArithmetic;
}

void string_advance(Context& ctx, const StringForm& f, u64 count, bool down) {
    const u64 step = (down ? -u64{f.size} : u64{f.size}) * count;
    auto& rsi = ctx.gpr[x86::kRsi];
    auto& rdi = ctx.gpr[x86::kRdi];
    auto& rcx = ctx.gpr[x86::kRcx];
    if (f.reads()) set_register(rsi, rsi + step, f.address_mask);
    if (f.uses_destination()) set_register(rdi, rdi + step, f.address_mask);
    if (f.repeat) set_register(rcx, rcx - count, f.address_mask);
}

StringResult run_string(GuestRun& run, const Instruction& insn) {
    Context& ctx = run.ctx;
    const StringForm f = string_form(ctx, insn);
    const bool down = ctx.flags & x86::rflags::kDf;
    const unsigned size = f.size;
    auto& rax = ctx.gpr[x86::kRax];
    for (;;) {
        const u64 left = f.repeat ? ctx.gpr[x86::kRcx] & f.address_mask : 1;
        if (left == 0) return StringResult::Done;
        const u64 rsi = ctx.gpr[x86::kRsi] & f.address_mask, rdi = ctx.gpr[x86::kRdi] & f.address_mask;
        const u64 from = (f.source_base + rsi) & f.linear_mask, to = (f.destination_base + rdi) & f.linear_mask;
        // How many elements lie whole in the present pages, and before an index wraps.
        u64 count = down ? 1 : left;
        if (f.reads()) count = least(count, least((4096 - (from & 0xfff)) / size, (f.address_mask - rsi) / size + 1));
        if (f.uses_destination()) count = least(count, least((4096 - (to & 0xfff)) / size, (f.address_mask - rdi) / size + 1));
        if (count == 0) return StringResult::Slow;
        bool special = false;
        const u8* source = nullptr;
        u8* destination = nullptr;
        if (f.reads()) {
            source = data_pointer(run, from, false, special);
            if (!source) return special ? StringResult::Slow : StringResult::Fault;
        }
        if (f.uses_destination()) {
            destination = data_pointer(run, to, f.writes(), special);
            if (!destination) return special ? StringResult::Slow : StringResult::Fault;
        }
        switch (f.what) {
        case StringForm::Move: native_move(destination, source, count, size); break;
        case StringForm::Store: native_store(destination, rax, count, size); break;
        case StringForm::Load: {
            const u64 value = load(source + (count - 1) * size, size);
            if (size == 1) rax = (rax & ~u64{0xff}) | value;
            else if (size == 2) rax = (rax & ~u64{0xffff}) | value;
            else rax = value;
            break;
        }
        default: {
            u64 done = 0;
            bool stop = false;
            u64 flags = 0;
            while (done < count && !stop) {
                const u64 b = load(destination + done * size, size);
                const u64 a = f.what == StringForm::Scan ? rax : load(source + done * size, size);
                flags = compare_flags(a, b, size);
                ++done;
                stop = f.repeat && static_cast<bool>(flags & x86::rflags::kZf) == f.until_equal;
            }
            ctx.flags = (ctx.flags & ~x86::rflags::kArithmetic) | flags;
            string_advance(ctx, f, done, down);
            if (stop || !f.repeat) return StringResult::Done;
            if (ctx.attention.load(std::memory_order_relaxed)) return StringResult::Again;
            continue;
        }
        }
        string_advance(ctx, f, count, down);
        if (!f.repeat) return StringResult::Done;
        if (ctx.attention.load(std::memory_order_relaxed)) return StringResult::Again;
    }
}

}  // namespace vezha::engine::dbt
