// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/slow_access.h"

#include <Zydis/Zydis.h>
#include <cpuid.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "engine/dbt/code_cache.h"
#include "engine/dbt/decode.h"
#include "engine/dbt/string_instructions.h"

namespace vezha::engine::dbt {

namespace {

/// The pages of an access: one or two pieces.
struct Pieces {
    u64 gpa[2]{};
    u64 size[2]{};
    unsigned count = 0;
};

constexpr u64 kAbsent = ~u64{0};

/// @return false with ctx.fault set. Only bytes [first, needed) must be there; other pages may be kAbsent.
bool resolve(Context& ctx, u64 linear, u64 size, u64 needed, bool write, Pieces& out, u64 first = 0) {
    const bool user = ctx.cpl == 3;
    u64 done = 0;
    while (done < size) {
        const u64 at = ctx.code64 ? linear + done : (linear + done) & 0xffff'ffff;
        const WalkResult w = walk(ctx, at, write ? AccessKind::Write : AccessKind::Read, user);
        const u64 part = std::min(size - done, 4096 - (at & 0xfff));
        if (!w.ok && done < needed && done + part > first) {
            ctx.fault = w.fault;
            ctx.fault.pending = true;
            return false;
        }
        out.gpa[out.count] = w.ok ? w.gpa : kAbsent;
        out.size[out.count++] = part;
        done += part;
        if (out.count == 2) break;
    }
    return true;
}

void read_physical(Context& ctx, u64 gpa, u8* to, u64 size) {
    if (gpa == kAbsent) {
        std::memset(to, 0, size);
        return;
    }
    if (const u8* host = ram_pointer(ctx, gpa, false)) {
        std::memcpy(to, host, size);
        return;
    }
    while (size > 0) {
        u64 part = std::min<u64>(size, 8);
        part = std::bit_floor(part);
        const u64 value = physical_read(ctx, gpa, static_cast<unsigned>(part));
        std::memcpy(to, &value, part);
        to += part, gpa += part, size -= part;
    }
}

void write_physical(Context& ctx, u64 gpa, const u8* from, u64 size) {
    if (gpa == kAbsent) return;
    if (u8* host = ram_pointer(ctx, gpa, true)) {
        // One store where the guest made one, so that other processors see it whole.
        switch (size) {
        case 2: __atomic_store_n(reinterpret_cast<u16*>(host), static_cast<u16>(from[0] | from[1] << 8), __ATOMIC_RELAXED); break;
        case 4: { u32 v; std::memcpy(&v, from, 4); __atomic_store_n(reinterpret_cast<u32*>(host), v, __ATOMIC_RELAXED); break; }
        case 8: { u64 v; std::memcpy(&v, from, 8); __atomic_store_n(reinterpret_cast<u64*>(host), v, __ATOMIC_RELAXED); break; }
        default: std::memcpy(host, from, size); break;
        }
        return physical_written(ctx, gpa, size);
    }
    while (size > 0) {
        const u64 part = std::bit_floor(std::min<u64>(size, 8));
        u64 value = 0;
        std::memcpy(&value, from, part);
        physical_write(ctx, gpa, static_cast<unsigned>(part), value);
        from += part, gpa += part, size -= part;
    }
}

/// Offset and size of an XSAVE component in the standard format.
struct Component {
    u32 size = 0, offset = 0;
};
const Component& component(unsigned index) {
    static const auto table = [] {
        std::array<Component, 64> t{};
        for (unsigned i = 2; i < 20; ++i) {
            u32 a, b, c, d;
            __cpuid_count(0xd, i, a, b, c, d);
            t[i] = {a, b};
        }
        return t;
    }();
    return table[index];
}

u64 xsave_size(u64 features) {
    u64 size = 576;
    for (unsigned i = 2; i < 20; ++i)
        if (features >> i & 1) size = std::max<u64>(size, component(i).offset + component(i).size);
    return size;
}

constexpr unsigned kXmm = 160;

}  // namespace

bool read_guest(Context& ctx, u64 linear, void* to, u64 size) {
    Pieces p;
    if (!resolve(ctx, linear, size, size, false, p)) return false;
    u8* out = static_cast<u8*>(to);
    for (unsigned i = 0; i < p.count; ++i) {
        read_physical(ctx, p.gpa[i], out, p.size[i]);
        out += p.size[i];
    }
    return true;
}

bool write_guest(Context& ctx, u64 linear, const void* from, u64 size) {
    Pieces p;
    if (!resolve(ctx, linear, size, size, true, p)) return false;
    const u8* in = static_cast<const u8*>(from);
    for (unsigned i = 0; i < p.count; ++i) {
        write_physical(ctx, p.gpa[i], in, p.size[i]);
        in += p.size[i];
    }
    return true;
}

u64 physical_read(Context& ctx, u64 gpa, unsigned size) {
    if (const u8* host = ram_pointer(ctx, gpa, false)) {
        u64 value = 0;
        std::memcpy(&value, host, size);
        return value;
    }
    if ((ctx.apic_base & x86::apic_base::kEnable) && !(ctx.apic_base & x86::apic_base::kX2apic) &&
        (gpa & ~u64{0xfff}) == (ctx.apic_base & ~u64{0xfff}))
        return ctx.apics->mmio_read(ctx, static_cast<u32>(gpa & 0xfff), size);
    return ctx.bus->read(bus::Space::Mmio, gpa, size);
}

void physical_write(Context& ctx, u64 gpa, unsigned size, u64 value) {
    if (u8* host = ram_pointer(ctx, gpa, true)) {
        std::memcpy(host, &value, size);
        return physical_written(ctx, gpa, size);
    }
    if ((ctx.apic_base & x86::apic_base::kEnable) && !(ctx.apic_base & x86::apic_base::kX2apic) &&
        (gpa & ~u64{0xfff}) == (ctx.apic_base & ~u64{0xfff}))
        return ctx.apics->mmio_write(ctx, static_cast<u32>(gpa & 0xfff), size, value);
    if (ram_pointer(ctx, gpa, false)) return;  // ROM
    ctx.bus->write(bus::Space::Mmio, gpa, size, value);
}

void physical_written(Context& ctx, u64 gpa, u64 size) {
    if (ctx.memory->dirty_logging()) return ctx.memory->mark_dirty({gpa}, size);  // comes back through the observer
    run_of(ctx).cache->invalidate(gpa, size);
}

u64 prepare_access(GuestRun& run) {
    Context& ctx = run.ctx;
    const auto* site = reinterpret_cast<const MemorySite*>(run.code_base + run.memory_site);
    const u64 linear = run.arg_linear;
    u64 size = site->size, needed = size, first = 0;
    ++run.count_bounces;
    if (site->xsave) {
        const u64 wanted = (ctx.gpr[x86::kRax] & 0xffff'ffff) | ctx.gpr[x86::kRdx] << 32;
        const u64 features = wanted & ctx.xcr0;
        run.masked_eax = features & 0xffff'ffff;
        run.masked_edx = features >> 32;
        size = xsave_size(features);
        needed = 576;
    }
    if (site->masked) {
        // Only elements that the mask selects may fault.
        u64 mask = 0;
        if (ctx.xsave.bytes[512] & 0x20) std::memcpy(&mask, &ctx.xsave.bytes[component(5).offset + 8u * site->mask_register], 8);
        if (site->lanes < 64) mask &= (u64{1} << site->lanes) - 1;
        if (mask == 0) needed = 0;
        else if (site->packed) needed = static_cast<u64>(std::popcount(mask)) * site->element;
        else if (!site->broadcast) {
            needed = std::min<u64>(size, static_cast<u64>(64 - std::countl_zero(mask)) * site->element);
            first = static_cast<u64>(std::countr_zero(mask)) * site->element;
        }
    }
    Pieces p;
    if (!resolve(ctx, linear, size, needed, site->write, p, first)) {
        if (site->stack && ctx.fault.vector == x86::kGeneralProtection) ctx.fault.vector = x86::kStackFault;
        ctx.rip = site->rip;
        run.exit_reason = ExitReason::Fault;
        run.exit_link = 0;
        return 0;
    }
    run.bouncing.active = false;
    u8* host = p.count == 1 && p.gpa[0] != kAbsent ? ram_pointer(ctx, p.gpa[0], site->write) : nullptr;
    if (host && p.size[0] == size && (!site->write || run.cache->note_writable(p.gpa[0]))) {
        run.arg_offset = linear & 0xfff;
        run.arg_host = reinterpret_cast<u64>(host) - run.arg_offset;
        if (site->write && ctx.memory->dirty_logging()) ctx.memory->mark_dirty({p.gpa[0]}, size);
        return reinterpret_cast<u64>(run.code_base + site->resume);
    }
    u8* buffer = run.bounce + (linear & 63);
    if (site->read || site->masked) {
        u8* at = buffer;
        for (unsigned i = 0; i < p.count; ++i) {
            read_physical(ctx, p.gpa[i], at, p.size[i]);
            at += p.size[i];
        }
        if (at < buffer + size) std::memset(at, 0, static_cast<usize>(buffer + size - at));
    }
    if (site->write) {
        run.bouncing.active = true;
        run.bouncing.linear = linear;
        run.bouncing.gpa[0] = p.gpa[0];
        run.bouncing.gpa[1] = p.gpa[1];
        run.bouncing.first = static_cast<u32>(p.count ? p.size[0] : 0);
        run.bouncing.size = static_cast<u32>(p.size[0] + p.size[1]);
    }
    run.arg_offset = linear & 63;
    run.arg_host = reinterpret_cast<u64>(run.bounce);
    return reinterpret_cast<u64>(run.code_base + site->resume);
}

void commit_access(GuestRun& run) {
    auto& b = run.bouncing;
    b.active = false;
    const u8* buffer = run.bounce + (b.linear & 63);
    if (b.first) write_physical(run.ctx, b.gpa[0], buffer, b.first);
    if (b.size > b.first) write_physical(run.ctx, b.gpa[1], buffer + b.first, b.size - b.first);
}

namespace {

bool string_element(GuestRun& run, const Instruction& insn) {
    Context& ctx = run.ctx;
    const StringForm f = string_form(ctx, insn);
    const bool down = ctx.flags & x86::rflags::kDf;
    const u64 next = insn.rip + insn.info.length;
    const u64 left = f.repeat ? ctx.gpr[x86::kRcx] & f.address_mask : 1;
    if (left == 0) {
        ctx.rip = next;
        return true;
    }
    const u64 from = (f.source_base + (ctx.gpr[x86::kRsi] & f.address_mask)) & f.linear_mask;
    const u64 to = (f.destination_base + (ctx.gpr[x86::kRdi] & f.address_mask)) & f.linear_mask;
    u64 a = 0, b = 0;
    auto& rax = ctx.gpr[x86::kRax];
    bool stop = !f.repeat || left == 1;
    if (f.what == StringForm::Store || f.what == StringForm::Move) {
        // As many elements as fit both pages: pages with code are often filled as a whole.
        u64 count = 1;
        static thread_local u8 buffer[4096];
        if (!down) {
            count = std::min<u64>(left, std::max<u64>(1, (4096 - (to & 0xfff)) / f.size));
            if (f.what == StringForm::Move) {
                count = std::min<u64>(count, std::max<u64>(1, (4096 - (from & 0xfff)) / f.size));
                // Overlap must behave as element by element; devices get their own width.
                if (to - from < count * f.size) count = 1;
            }
            Pieces p;
            if (!resolve(ctx, to, f.size, f.size, true, p)) return false;
            if (!ram_pointer(ctx, p.gpa[0], true)) count = 1;
            if (f.what == StringForm::Move && count > 1) {
                Pieces q;
                if (!resolve(ctx, from, f.size, f.size, false, q)) return false;
                if (!ram_pointer(ctx, q.gpa[0], false)) count = 1;
            }
        }
        if (f.what == StringForm::Move) {
            if (!read_guest(ctx, from, buffer, count * f.size)) return false;
        } else {
            for (u64 i = 0; i < count; ++i) std::memcpy(buffer + i * f.size, &rax, f.size);
        }
        if (!write_guest(ctx, to, buffer, count * f.size)) return false;
        string_advance(ctx, f, count, down);
        if (!f.repeat || count == left) ctx.rip = next;
        return true;
    }
    if (f.reads() && !read_guest(ctx, from, &a, f.size)) return false;
    if (f.uses_destination() && !read_guest(ctx, to, &b, f.size)) return false;
    if (f.what == StringForm::Load) {
        if (f.size == 1) rax = (rax & ~u64{0xff}) | a;
        else if (f.size == 2) rax = (rax & ~u64{0xffff}) | a;
        else rax = a;
    } else {
        const u64 flags = compare_flags(f.what == StringForm::Scan ? rax : a, b, f.size);
        ctx.flags = (ctx.flags & ~x86::rflags::kArithmetic) | flags;
        stop |= static_cast<bool>(flags & x86::rflags::kZf) == f.until_equal;
    }
    string_advance(ctx, f, 1, down);
    if (stop) ctx.rip = next;
    return true;
}

// ---- Vector registers in the parked image (standard format; a component that is not in XSTATE_BV is zero).
void normalise(Context& ctx) {
    u64 present = 0;
    std::memcpy(&present, &ctx.xsave.bytes[512], 8);
    if (!(present & 2)) std::memset(&ctx.xsave.bytes[kXmm], 0, 256);
    for (const unsigned i : {2u, 5u, 6u, 7u})
        if (component(i).size && !(present >> i & 1)) std::memset(&ctx.xsave.bytes[component(i).offset], 0, component(i).size);
    present |= 2;
    for (const unsigned i : {2u, 5u, 6u, 7u})
        if (component(i).size) present |= u64{1} << i;
    std::memcpy(&ctx.xsave.bytes[512], &present, 8);
}
/// 64 bytes of ZMM register `index`.
void get_zmm(const Context& ctx, unsigned index, u8* out) {
    const u8* x = ctx.xsave.bytes.data();
    if (index >= 16) {
        std::memcpy(out, x + component(7).offset + 64 * (index - 16), 64);
        return;
    }
    std::memcpy(out, x + kXmm + 16 * index, 16);
    std::memcpy(out + 16, x + component(2).offset + 16 * index, 16);
    if (component(6).size) std::memcpy(out + 32, x + component(6).offset + 32 * index, 32);
    else std::memset(out + 32, 0, 32);
}
void set_zmm(Context& ctx, unsigned index, const u8* in) {
    u8* x = ctx.xsave.bytes.data();
    if (index >= 16) {
        std::memcpy(x + component(7).offset + 64 * (index - 16), in, 64);
        return;
    }
    std::memcpy(x + kXmm + 16 * index, in, 16);
    std::memcpy(x + component(2).offset + 16 * index, in + 16, 16);
    if (component(6).size) std::memcpy(x + component(6).offset + 32 * index, in + 32, 32);
}
int vector_index(ZydisRegister r) {
    if (r >= ZYDIS_REGISTER_XMM0 && r <= ZYDIS_REGISTER_XMM31) return r - ZYDIS_REGISTER_XMM0;
    if (r >= ZYDIS_REGISTER_YMM0 && r <= ZYDIS_REGISTER_YMM31) return r - ZYDIS_REGISTER_YMM0;
    if (r >= ZYDIS_REGISTER_ZMM0 && r <= ZYDIS_REGISTER_ZMM31) return r - ZYDIS_REGISTER_ZMM0;
    return -1;
}

/// VSIB loads and stores, element by element; the mask shows what is done, so a fault restarts (SDM vol. 2C, VPGATHERDD).
bool gather(GuestRun& run, const Instruction& insn) {
    Context& ctx = run.ctx;
    normalise(ctx);
    const bool evex = insn.info.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
    const ZydisDecodedOperand* memory = nullptr;
    int data = -1, mask_vector = -1;
    unsigned data_size = 0;
    bool store = false;
    for (unsigned i = 0; i < insn.info.operand_count; ++i) {
        const auto& o = insn.operands[i];
        if (o.type == ZYDIS_OPERAND_TYPE_MEMORY) {
            memory = &o;
            store = o.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
        } else if (o.type == ZYDIS_OPERAND_TYPE_REGISTER) {
            const int v = vector_index(o.reg.value);
            if (v < 0) continue;
            if (data < 0) data = v, data_size = o.size / 8u;
            else mask_vector = v;
        }
    }
    const u64 next = insn.rip + insn.info.length;
    if (!memory || data < 0) {  // VGATHERPF: hints
        ctx.rip = next;
        return true;
    }
    const auto name = insn.info.mnemonic;
    const bool wide_data = name == ZYDIS_MNEMONIC_VPGATHERDQ || name == ZYDIS_MNEMONIC_VPGATHERQQ || name == ZYDIS_MNEMONIC_VGATHERDPD ||
                           name == ZYDIS_MNEMONIC_VGATHERQPD || name == ZYDIS_MNEMONIC_VPSCATTERDQ ||
                           name == ZYDIS_MNEMONIC_VPSCATTERQQ || name == ZYDIS_MNEMONIC_VSCATTERDPD || name == ZYDIS_MNEMONIC_VSCATTERQPD;
    const bool wide_index = name == ZYDIS_MNEMONIC_VPGATHERQD || name == ZYDIS_MNEMONIC_VPGATHERQQ || name == ZYDIS_MNEMONIC_VGATHERQPS ||
                            name == ZYDIS_MNEMONIC_VGATHERQPD || name == ZYDIS_MNEMONIC_VPSCATTERQD ||
                            name == ZYDIS_MNEMONIC_VPSCATTERQQ || name == ZYDIS_MNEMONIC_VSCATTERQPS || name == ZYDIS_MNEMONIC_VSCATTERQPD;
    const unsigned element = wide_data ? 8 : 4;
    const unsigned length = insn.info.avx.vector_length / 8u;
    const unsigned count = std::min(length / element, length / (wide_index ? 8u : 4u));
    (void)data_size;
    u8 index_bytes[64], data_bytes[64], done_bytes[64]{};
    get_zmm(ctx, static_cast<unsigned>(vector_index(memory->mem.index)), index_bytes);
    get_zmm(ctx, static_cast<unsigned>(data), data_bytes);
    const unsigned k = evex ? static_cast<unsigned>(insn.info.avx.mask.reg - ZYDIS_REGISTER_K0) : 0;
    u64 kmask = 0;
    u8* k_at = &ctx.xsave.bytes[component(5).offset + 8 * k];
    if (evex) std::memcpy(&kmask, k_at, 8);
    else get_zmm(ctx, static_cast<unsigned>(mask_vector), done_bytes);
    const int base = gpr_index(memory->mem.base);
    u64 base_value = base >= 0 ? ctx.gpr[static_cast<unsigned>(base)] : 0;
    base_value += static_cast<u64>(memory->mem.disp.value);
    u64 segment = 0;
    if (memory->mem.segment == ZYDIS_REGISTER_FS) segment = ctx.segment[x86::kFs].base;
    else if (memory->mem.segment == ZYDIS_REGISTER_GS) segment = ctx.segment[x86::kGs].base;
    else if (!ctx.code64) segment = ctx.segment[memory->mem.segment == ZYDIS_REGISTER_SS ? x86::kSs : x86::kDs].base;
    bool ok = true;
    for (unsigned i = 0; i < count && ok; ++i) {
        const bool on = evex ? kmask >> i & 1 : done_bytes[i * element + element - 1] & 0x80;
        if (on) {
            i64 index;
            if (wide_index) {
                std::memcpy(&index, index_bytes + 8 * i, 8);
            } else {
                i32 narrow;
                std::memcpy(&narrow, index_bytes + 4 * i, 4);
                index = narrow;
            }
            u64 ea = base_value + static_cast<u64>(index) * memory->mem.scale;
            if (insn.info.address_width == 32) ea &= 0xffff'ffff;
            const u64 linear = ctx.code64 ? segment + ea : (segment + ea) & 0xffff'ffff;
            ok = store ? write_guest(ctx, linear, data_bytes + element * i, element)
                       : read_guest(ctx, linear, data_bytes + element * i, element);
            if (!ok) break;
        }
        if (evex) kmask &= ~(u64{1} << i);
        else std::memset(done_bytes + i * element, 0, element);
    }
    if (ok) {
        kmask = 0;
        std::memset(done_bytes, 0, sizeof done_bytes);
        const unsigned used = count * element;
        if (!store) std::memset(data_bytes + used, 0, 64 - used);
    }
    if (!store) set_zmm(ctx, static_cast<unsigned>(data), data_bytes);
    if (evex) std::memcpy(k_at, &kmask, 8);
    else set_zmm(ctx, static_cast<unsigned>(mask_vector), done_bytes);
    if (ok) ctx.rip = next;
    return ok;
}

/// ENTER, PUSHA, POPA.
bool odd(GuestRun& run, const Instruction& insn) {
    Context& ctx = run.ctx;
    const u64 size = insn.info.operand_width / 8u;
    const u64 stack_mask = ctx.code64 ? ~u64{0} : ctx.segment[x86::kSs].default32() ? 0xffff'ffff : 0xffff;
    const u64 base = ctx.code64 ? 0 : ctx.segment[x86::kSs].base;
    const u64 value_mask = mask_bytes(static_cast<unsigned>(size));
    auto& rsp = ctx.gpr[x86::kRsp];
    const auto linear = [&](u64 offset) { return ctx.code64 ? offset : (base + (offset & stack_mask)) & 0xffff'ffff; };
    const auto set_stack = [&](u64& r, u64 value) { r = stack_mask == 0xffff ? (r & ~stack_mask) | (value & stack_mask) : value & stack_mask; };
    u8 buffer[64 * 8];
    switch (insn.info.mnemonic) {
    case ZYDIS_MNEMONIC_PUSHA: case ZYDIS_MNEMONIC_PUSHAD:
        for (unsigned i = 0; i < 8; ++i) std::memcpy(buffer + (7 - i) * size, &ctx.gpr[i], size);
        if (!write_guest(ctx, linear(rsp - 8 * size), buffer, 8 * size)) return false;
        set_stack(rsp, rsp - 8 * size);
        break;
    case ZYDIS_MNEMONIC_POPA: case ZYDIS_MNEMONIC_POPAD:
        if (!read_guest(ctx, linear(rsp), buffer, 8 * size)) return false;
        for (unsigned i = 0; i < 8; ++i) {
            if (i == x86::kRsp) continue;
            u64 value = 0;
            std::memcpy(&value, buffer + (7 - i) * size, size);
            ctx.gpr[i] = size == 2 ? (ctx.gpr[i] & ~value_mask) | value : value;
        }
        set_stack(rsp, rsp + 8 * size);
        break;
    default: {  // ENTER (SDM vol. 2A)
        const u64 locals = insn.operands[0].imm.value.u & 0xffff;
        const u64 level = insn.operands[1].imm.value.u & 31;
        auto& rbp = ctx.gpr[x86::kRbp];
        const u64 frame = rsp - size;
        u64 count = 0;
        const u64 total = level ? level + 1 : 1;
        u8* top = buffer + (total - 1) * size;
        std::memcpy(top, &rbp, size);
        for (u64 i = 1; i < level; ++i) {
            if (!read_guest(ctx, linear(rbp - i * size), top - ++count * size, size)) return false;
        }
        if (level) std::memcpy(top - ++count * size, &frame, size);
        if (!write_guest(ctx, linear(rsp - total * size), buffer, total * size)) return false;
        set_stack(rsp, rsp - total * size - locals);
        rbp = size == 2 ? (rbp & ~u64{0xffff}) | (frame & 0xffff) : frame & value_mask;
        break;
    }
    }
    ctx.rip = insn.rip + insn.info.length;
    return true;
}

}  // namespace

bool execute_slowly(GuestRun& run, const SystemSite& site) {
    switch (site.kind) {
    case SiteKind::String: return string_element(run, site.instruction);
    case SiteKind::Gather: return gather(run, site.instruction);
    default: return odd(run, site.instruction);
    }
}

}  // namespace vezha::engine::dbt
