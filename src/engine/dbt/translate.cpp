// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/translate.h"

#include <Zydis/Zydis.h>

#include <bit>

#include "base/check.h"

namespace vezha::engine::dbt {

namespace {

constexpr unsigned kMaxInstructions = 32;
constexpr int kRcx = 1, kRsp = 4;
using enum Assembler::Width;

/// A guest address as the translator computes it: [segment base +] base + index * scale + displacement, truncated.
struct Address {
    int base = -1, index = -1;
    unsigned scale = 1;
    i64 displacement = 0;
    unsigned width = 64;
    int segment = -1;        ///< whose base is added; -1: none
    bool plus_al = false;    ///< XLAT
    bool stack = false;      ///< through SS
    int limit_check = 0;     ///< of how many bytes, outside 64-bit mode; negative: of a store
    int bit_register = -1;   ///< BT family: plus the unit that this bit offset lies in
    unsigned bit_unit = 0;   ///< operand size in bits
};

enum class Access : u8 { Read = 1, Write = 2, ReadWrite = 3 };

class Translator {
  public:
    Translator(CodeCache& cache, const Thunks& thunks, const BlockSource& source)
        : cache_(cache), thunks_(thunks), source_(source), mode_(source.mode), a_(cache.at()), slot_(key::slot(mode_)),
          bounce_(mode_ & key::kBounce) {}

    TranslateStatus run(Block*& out);

  private:
    // ---- Decoding
    bool decode_block(TranslateStatus& status);
    void liveness();
    u8 flags_needed_at(u64 rip) const;
    void choose_scratch();

    // ---- Pieces of code
    bool code64() const { return (mode_ & key::kCodeMask) == key::kCode64; }
    bool code16() const { return (mode_ & key::kCodeMask) == key::kCode16; }
    u64 truncate_rip(u64 rip, unsigned width) const { return width == 64 ? rip : width == 32 ? rip & 0xffff'ffff : rip & 0xffff; }
    unsigned stack_width() const { return code64() ? 64 : mode_ & key::kStack32 ? 32 : 16; }
    Assembler::Width width(unsigned bits) const { return bits == 64 ? k64 : bits == 32 ? k32 : k16; }
    bool segment_has_base(ZydisRegister segment) const;
    Address operand_address(const Decoded& d, const ZydisDecodedOperand& o) const;
    Address stack_address(i64 displacement) const;
    void emit_address(const Address& address, const Decoded* checked = nullptr);
    /// After this, [s1_ + s2_] is the host's copy of the guest's bytes. Registers other than the pair are the guest's.
    void emit_access(const Decoded& d, const Address& address, unsigned size, Access access);
    /// To be called when the instruction's store is done.
    void emit_access_done(const Decoded& d, Access access);
    void emit_slow_paths();
    void to_default_pair();
    void from_default_pair();
    void move_stack(i64 by);
    void emit_prefixes(const Decoded& d);
    void emit_registers_only(const Decoded& d);
    void emit_with_memory(const Decoded& d, int base, int index);

    // ---- Instructions
    void emit(const Decoded& d, bool last);
    void emit_plain(const Decoded& d);
    void emit_push(const Decoded& d);
    void emit_pop(const Decoded& d);
    void emit_leave(const Decoded& d);
    void emit_lea(const Decoded& d);
    void emit_branch(const Decoded& d);
    void emit_loop(const Decoded& d);
    void emit_store_word(unsigned size, u64 value);

    // ---- Ways out
    void exit_direct(u64 rip);
    void exit_indirect(u64 from, i64 undo);  ///< to the RIP in s1_
    void exit_site(const Decoded& d, SiteKind kind);
    void exit_raise(const Decoded& d, u8 vector, bool has_error_code);
    void exit_reason(ExitReason reason, u64 rip);
    void poll(const Decoded& first);

    struct SlowPath {
        u8* jump;
        Address address;
        unsigned size;
        Access access;
        bool rcx_saved;
        const u8* resume;
        u64 rip;
        const Decoded* decoded;
    };
    struct Stub {  // leaves to the dispatcher and lets it patch `link`
        u8* link;
        u64 rip;
    };

    CodeCache& cache_;
    const Thunks& thunks_;
    const BlockSource& source_;
    const u64 mode_;
    Assembler a_;
    const unsigned slot_;
    const bool bounce_;
    int s1_ = kScratch1, s2_ = kScratch2;
    std::vector<Decoded>& code_ = decoded_buffer();
    unsigned count_ = 0;
    u64 end_rip_ = 0;
    bool raise_at_end_ = false;  // undecodable bytes follow
    u8 raise_vector_ = 6;
    std::vector<SlowPath> slow_;
    std::vector<Stub> stubs_;
    Block* block_ = nullptr;
    u8* poll_ = nullptr;
    struct Miss {
        u8* jump;
        u64 from;
        i64 undo;
        bool rcx_saved;
    };
    std::vector<Miss> misses_;
    struct LimitFailure {
        u8* jump;
        const Decoded* decoded;
        bool stack;
    };
    std::vector<LimitFailure> limits_;

    static std::vector<Decoded>& decoded_buffer() {
        static thread_local std::vector<Decoded> buffer(kMaxInstructions + 1);
        return buffer;
    }
};

// ---------------------------------------------------------------------------------------------------------- decoding

bool ends_block(const Decoded& d) {
    switch (d.kind) {
    case Kind::Plain:
        return d.xsave;
    case Kind::Push: case Kind::Pop: case Kind::Leave: case Kind::Lea: case Kind::Nothing:
        return false;
    default: return true;
    }
}

bool Translator::decode_block(TranslateStatus& status) {
    u64 rip = source_.rip;
    usize offset = 0;
    u16 used = 0;
    const bool one = mode_ & (key::kSingle | key::kBounce);
    const unsigned limit = one || !source_.crossing.empty() ? 1 : kMaxInstructions;
    while (count_ < limit) {
        const auto rest = !source_.crossing.empty() ? source_.crossing : source_.bytes.subspan(offset);
        if (rest.empty()) break;
        Decoded& d = code_[count_];
        const ZyanStatus result = decode_one(rest, rip, mode_, d);
        if (!ZYAN_SUCCESS(result)) {
            if (result == ZYDIS_STATUS_NO_MORE_DATA && rest.size() < 15) {
                if (count_ > 0) break;
                status = TranslateStatus::NeedsNextPage;
                return false;
            }
            if (count_ > 0) break;  // fault when control gets there
            raise_at_end_ = true;
            raise_vector_ = result == ZYDIS_STATUS_INSTRUCTION_TOO_LONG || result == ZYDIS_STATUS_NO_MORE_DATA ? 13 : 6;
            break;
        }
        // Two registers (not RCX, RSP) must stay free for scratch.
        const u16 together = used | d.registers;
        if (std::popcount(static_cast<unsigned>(~together & 0xffed)) < 2 && count_ > 0) break;
        used = together;
        if (d.xsave && d.kind == Kind::Plain && !bounce_ && count_ > 0) break;
        ++count_;
        offset += d.insn.info.length;
        rip = truncate_rip(rip + d.insn.info.length, code64() ? 64 : 32);
        if (ends_block(d)) break;
    }
    end_rip_ = rip;
    block_->guest_size = count_ ? static_cast<u32>(offset) : 1;
    status = TranslateStatus::Done;
    return true;
}

/// Flags that code at `rip` (in this page) may read before writing them: a short look.
u8 Translator::flags_needed_at(u64 rip) const {
    u64 at = (source_.gpa & 0xfff) + (rip - source_.rip);
    const u8* page = source_.bytes.data() - (source_.gpa & 0xfff);
    static thread_local Decoded d;
    u8 unknown = kAllFlags;
    for (int i = 0; i < 3 && unknown; ++i) {
        if (at >= 4096 || !ZYAN_SUCCESS(decode_one({page + at, 4096 - at}, rip, mode_, d))) return unknown;
        if (d.flags_read & unknown) return unknown;
        unknown &= static_cast<u8>(~d.flags_written);
        if (ends_block(d)) return unknown;
        at += d.insn.info.length;
    }
    return unknown;
}

void Translator::liveness() {
    u8 live = kAllFlags;
    if (count_ > 0 && !bounce_) {
        const Decoded& last = code_[count_ - 1];
        if (last.kind == Kind::JumpIf || last.kind == Kind::Jump) {
            const auto& o = last.insn.operands[0];
            live = kAllFlags;
            if (o.type == ZYDIS_OPERAND_TYPE_IMMEDIATE && source_.crossing.empty()) {
                live = flags_needed_at(end_rip_ + o.imm.value.u);
                if (last.kind == Kind::JumpIf && live != kAllFlags) live |= flags_needed_at(end_rip_);
            }
        }
    }
    for (unsigned i = count_; i-- > 0;) {
        Decoded& d = code_[i];
        if (d.kind != Kind::Jump || d.insn.operands[0].type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
            live = static_cast<u8>((live & ~d.flags_written) | d.flags_read);
        d.flags_live = live;
    }
}

void Translator::choose_scratch() {
    u16 used = 1 << kRcx | 1 << kRsp;
    for (unsigned i = 0; i < count_; ++i) used |= code_[i].registers;
    static constexpr int kPreference[] = {10, 11, 9, 8, 15, 14, 13, 12, 5, 3, 7, 6, 2, 0};
    int found[2], n = 0;
    for (const int r : kPreference)
        if (!(used >> r & 1) && n < 2) found[n++] = r;
    CHECK(n == 2);
    // The default pair keeps its order, so that it needs no shuffling.
    s1_ = found[0];
    s2_ = found[1];
    block_->scratch[0] = static_cast<u8>(s1_);
    block_->scratch[1] = static_cast<u8>(s2_);
}

// --------------------------------------------------------------------------------------------------------- addresses

bool Translator::segment_has_base(ZydisRegister segment) const {
    if (segment == ZYDIS_REGISTER_FS || segment == ZYDIS_REGISTER_GS) return true;
    if (code64()) return false;
    if (segment == ZYDIS_REGISTER_CS) return true;
    return !(mode_ & key::kFlatData);
}

int segment_index(ZydisRegister segment) {
    switch (segment) {
    case ZYDIS_REGISTER_ES: return x86::kEs;
    case ZYDIS_REGISTER_CS: return x86::kCs;
    case ZYDIS_REGISTER_SS: return x86::kSs;
    case ZYDIS_REGISTER_FS: return x86::kFs;
    case ZYDIS_REGISTER_GS: return x86::kGs;
    default: return x86::kDs;
    }
}

Address Translator::operand_address(const Decoded& d, const ZydisDecodedOperand& o) const {
    Address address;
    address.width = d.insn.info.address_width;
    address.displacement = o.mem.disp.has_displacement ? o.mem.disp.value : 0;
    if (o.mem.base == ZYDIS_REGISTER_RIP || o.mem.base == ZYDIS_REGISTER_EIP) {
        address.displacement += static_cast<i64>(d.insn.rip + d.insn.info.length);
    } else {
        address.base = gpr_index(o.mem.base);
        address.index = gpr_index(o.mem.index);
        address.scale = o.mem.scale ? o.mem.scale : 1;
    }
    address.stack = o.mem.segment == ZYDIS_REGISTER_SS;
    if (segment_has_base(o.mem.segment)) address.segment = segment_index(o.mem.segment);
    if (d.insn.info.mnemonic == ZYDIS_MNEMONIC_XLAT) {
        address.plus_al = true;
        address.base = 3;
        address.index = -1;
    }
    return address;
}

Address Translator::stack_address(i64 displacement) const {
    Address address;
    address.base = kRsp;
    address.stack = true;
    address.displacement = displacement;
    address.width = stack_width();
    if (!code64() && !(mode_ & key::kFlatData)) address.segment = x86::kSs;
    return address;
}

/// s1 = the linear address. `checked`: with the check of the segment's limit, whose failure is that instruction's fault.
void Translator::emit_address(const Address& x, const Decoded* checked) {
    const bool large = x.displacement != static_cast<i32>(x.displacement);
    if (x.base < 0 && x.index < 0) {
        u64 value = static_cast<u64>(x.displacement);
        if (x.width == 32) value &= 0xffff'ffff;
        if (x.width == 16) value &= 0xffff;
        a_.move_immediate(s1_, value);
    } else {
        int base = x.base, index = x.index;
        i64 displacement = x.displacement;
        if (large && x.width == 64) {  // only MOV with an absolute address, which has no base
            a_.move_immediate(s1_, static_cast<u64>(displacement));
            a_.lea(k64, s1_, s1_, base);
            base = s1_;
            displacement = 0;
        }
        if (x.plus_al) {
            a_.rex(false, s1_, 0, -1);  // movzx s1d, al
            a_.byte(0x0f);
            a_.byte(0xb6);
            a_.byte(0xc0 | (static_cast<unsigned>(s1_) & 7) << 3);
            a_.lea(x.width == 64 ? k64 : k32, s1_, s1_, base, 1);
        } else {
            a_.lea(x.width == 64 ? k64 : k32, s1_, base, index, x.scale, static_cast<i32>(displacement));
        }
        if (x.width == 16) a_.zero_extend16(s1_, s1_);
    }
    if (x.bit_register >= 0) {
        // The unit's number is the bit offset, as a signed number, over the unit's size.
        const unsigned shift = x.bit_unit == 64 ? 6 : x.bit_unit == 32 ? 5 : 4;
        a_.gs_store(s1_, at::kArgLinear);
        a_.move_immediate(s1_, shift);
        if (x.bit_unit == 64) {
            a_.sarx(s2_, x.bit_register, s1_);
        } else {
            a_.rex(true, s2_, x.bit_register, -1);  // movsxd / movsx
            if (x.bit_unit == 32) {
                a_.byte(0x63);
            } else {
                a_.byte(0x0f);
                a_.byte(0xbf);
            }
            a_.byte(0xc0 | (static_cast<unsigned>(s2_) & 7) << 3 | (static_cast<unsigned>(x.bit_register) & 7));
            a_.sarx(s2_, s2_, s1_);
        }
        a_.gs_load(s1_, at::kArgLinear);
        a_.lea(x.width == 64 ? k64 : k32, s1_, s1_, s2_, x.bit_unit / 8);
        if (x.width == 16) a_.zero_extend16(s1_, s1_);
    }
    if (x.segment >= 0 && x.limit_check && checked) {
        // limit - (offset + size - 1) must not be negative; flags stay.
        const bool write = x.limit_check < 0;
        a_.gs_store(kRcx, at::gpr(kRcx));
        a_.lea(k64, kRcx, s1_, -1, 1, (write ? -x.limit_check : x.limit_check) - 1);
        a_.bytes(reinterpret_cast<const u8*>("\x48\xf7\xd1"), 3);  // not rcx
        a_.gs_load(s2_, at::segment_limit(static_cast<unsigned>(x.segment), write));
        a_.lea(k64, kRcx, kRcx, s2_, 1, 1);
        a_.pext_gs(kRcx, kRcx, at::kSignMask);
        u8* good = a_.short_forward(0xe3);
        limits_.push_back({a_.jump_forward(), checked, x.segment == x86::kSs});
        a_.bind_short(good);
        a_.gs_load(kRcx, at::gpr(kRcx));
    }
    if (x.segment >= 0) {
        a_.gs_load(s2_, at::segment_base(static_cast<unsigned>(x.segment)));
        a_.lea(code64() ? k64 : k32, s1_, s1_, s2_);
    }
}

void Translator::emit_access(const Decoded& d, const Address& wanted, unsigned size, Access access) {
    const bool write = access != Access::Read;
    Address address = wanted;
    if (address.segment >= 0 && !code64()) address.limit_check = write ? -static_cast<int>(size) : static_cast<int>(size);
    SlowPath slow{.jump = nullptr, .address = address, .size = size, .access = access, .rcx_saved = false, .resume = nullptr,
                  .rip = d.insn.rip, .decoded = &d};
    if (bounce_) {
        slow.jump = a_.jump_forward();
        slow.rcx_saved = false;
        slow.resume = a_.at();
        slow_.push_back(slow);
        return;
    }
    emit_address(address, &d);
    const u32 tags = write ? at::tlb_write(slot_) : at::tlb_read(slot_);
    if (d.flags_live == 0) {
        a_.pext_gs(s2_, s1_, at::kTlbIndexMask);
        a_.gs_op_indexed(0x03, s1_, s2_, tags);  // add s1, tag: the offset in the page, if it matches
        a_.rex(true, 0, s1_, -1);                // cmp s1, 4096 - size
        a_.byte(0x81);
        a_.byte(0xf8 | (static_cast<unsigned>(s1_) & 7));
        a_.u32le(4096 - size);
        slow.jump = a_.jcc_forward(7);  // ja
        a_.gs_op_indexed(0x8b, s2_, s2_, at::tlb_host(slot_));
        slow.rcx_saved = false;
    } else {
        a_.gs_store(kRcx, at::gpr(kRcx));
        a_.pext_gs(kRcx, s1_, at::kTlbIndexMask);
        a_.gs_op_indexed(0x8b, s2_, kRcx, at::tlb_host(slot_));
        a_.gs_op_indexed(0x8b, kRcx, kRcx, tags);
        a_.lea(k64, s1_, s1_, kRcx);
        if (size > 1) a_.lea(k64, kRcx, s1_, -1, 1, static_cast<i32>(size - 1));
        else a_.move(k64, kRcx, s1_);
        a_.pext_gs(kRcx, kRcx, at::kPageMask);
        u8* hit = a_.short_forward(0xe3);  // jrcxz
        slow.jump = a_.jump_forward();
        a_.bind_short(hit);
        a_.gs_load(kRcx, at::gpr(kRcx));
        slow.rcx_saved = true;
    }
    slow.resume = a_.at();
    slow_.push_back(slow);
}

void Translator::emit_access_done(const Decoded&, Access access) {
    if (!bounce_ || access == Access::Read) return;
    to_default_pair();
    // The thunk saves and restores everything; resume right behind.
    a_.gs_store_immediate32(at::kMemorySite, 0);
    u8* slot = a_.at() - 4;
    a_.jump(thunks_.bounce_commit);
    const u32 resume = static_cast<u32>(a_.at() - cache_.base());
    std::memcpy(slot, &resume, 4);
    from_default_pair();
}

void Translator::to_default_pair() {
    for (const int s : {s1_, s2_})
        if (s != kScratch1 && s != kScratch2) a_.gs_load(s, at::gpr(s));
    for (const int r : {kScratch1, kScratch2})
        if (r != s1_ && r != s2_) a_.gs_store(r, at::gpr(r));
}

void Translator::from_default_pair() {
    for (const int r : {kScratch1, kScratch2})
        if (r != s1_ && r != s2_) a_.gs_load(r, at::gpr(r));
    for (const int s : {s1_, s2_})
        if (s != kScratch1 && s != kScratch2) a_.gs_store(s, at::gpr(s));
}

void Translator::emit_slow_paths() {
    for (const SlowPath& slow : slow_) {
        a_.bind(slow.jump);
        if (slow.rcx_saved) a_.gs_load(kRcx, at::gpr(kRcx));
        emit_address(slow.address, bounce_ ? slow.decoded : nullptr);
        a_.gs_store(s1_, at::kArgLinear);
        a_.gs_store_immediate32(at::kMemorySite, 0);
        u8* site_offset = a_.at() - 4;
        to_default_pair();
        a_.jump(bounce_ ? thunks_.bounce_prepare : thunks_.tlb_miss);
        a_.align(8);
        MemorySite site{.rip = slow.rip, .resume = 0, .size = static_cast<u16>(slow.size), .slot = static_cast<u8>(slot_),
                        .read = slow.access != Access::Write, .write = slow.access != Access::Read,
                        .locked = slow.decoded->locked, .masked = slow.decoded->masked, .xsave = slow.decoded->xsave};
        site.stack = slow.address.stack;
        const auto& info = slow.decoded->insn.info;
        if (site.masked && info.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX) {
            site.mask_register = static_cast<u8>(info.avx.mask.reg - ZYDIS_REGISTER_K0);
            site.element = static_cast<u8>(slow.decoded->insn.operands[slow.decoded->memory].element_size / 8);
            site.lanes = static_cast<u8>(info.avx.vector_length / 8u / (site.element ? site.element : 1u));
            site.broadcast = info.avx.broadcast.mode != ZYDIS_BROADCAST_MODE_INVALID && slow.size == site.element;
            site.packed = info.meta.category == ZYDIS_CATEGORY_COMPRESS || info.meta.category == ZYDIS_CATEGORY_EXPAND;
        } else {
            site.masked = false;
        }
        site.resume = static_cast<u32>(a_.at() + sizeof site - cache_.base());
        const u32 offset = static_cast<u32>(a_.at() - cache_.base());
        std::memcpy(site_offset, &offset, 4);
        a_.bytes(reinterpret_cast<const u8*>(&site), sizeof site);
        from_default_pair();
        a_.gs_load(s1_, at::kArgOffset);
        a_.gs_load(s2_, at::kArgHost);
        a_.jump(slow.resume);
    }
}

void Translator::move_stack(i64 by) {
    a_.lea(width(stack_width()), kRsp, kRsp, -1, 1, static_cast<i32>(by));
}

// ------------------------------------------------------------------------------------------------------- re-encoding

bool is_prefix(u8 byte) {
    switch (byte) {
    case 0x66: case 0x67: case 0xf0: case 0xf2: case 0xf3: case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65:
        return true;
    default: return false;
    }
}

/// The prefixes of an instruction: where they end, and the REX that counts (the last byte before the opcode).
struct Prefixes {
    unsigned end = 0;
    u8 rex = 0;
    bool has66 = false;
};
Prefixes scan_prefixes(const Decoded& d, bool code64) {
    Prefixes p;
    for (; p.end < d.insn.info.length; ++p.end) {
        const u8 byte = d.insn.bytes[p.end];
        if (is_prefix(byte)) {
            p.rex = 0;
            p.has66 |= byte == 0x66;
        } else if (code64 && (byte & 0xf0) == 0x40) {
            p.rex = byte;
        } else {
            break;
        }
    }
    return p;
}

/// Legacy prefixes that still mean something: no segments, no address size; operand size as 64-bit mode reads it.
void Translator::emit_prefixes(const Decoded& d) {
    const Prefixes prefixes = scan_prefixes(d, code64());
    bool want66 = prefixes.has66;
    if (code16() && !d.vector_like && d.insn.info.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY)
        want66 = d.insn.info.operand_width == 16;
    if (want66) a_.byte(0x66);
    for (unsigned i = 0; i < prefixes.end; ++i)
        if (const u8 p = d.insn.bytes[i]; p == 0xf0 || p == 0xf2 || p == 0xf3) a_.byte(p);
}

void Translator::emit_registers_only(const Decoded& d) {
    const auto& info = d.insn.info;
    if (code64()) return a_.bytes(d.insn.bytes, info.length);
    unsigned at = 0;
    while (at < info.length && is_prefix(d.insn.bytes[at])) ++at;
    emit_prefixes(d);
    const u8 opcode = d.insn.bytes[at];
    if (info.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY && opcode >= 0x40 && opcode <= 0x4f) {  // INC/DEC r: REX in 64-bit code
        a_.byte(0xff);
        a_.byte(0xc0 | (opcode & 15));
        return;
    }
    a_.bytes(d.insn.bytes + at, info.length - at);
}

/// The instruction with its memory operand replaced by [base + index] (index -1: none).
void Translator::emit_with_memory(const Decoded& d, int base, int index) {
    const auto& info = d.insn.info;
    const u8* bytes = d.insn.bytes;
    const auto [at, rex, has66] = scan_prefixes(d, code64());
    (void)has66;
    const unsigned x = index >= 8 ? 1 : 0, b = base >= 8 ? 1 : 0;
    emit_prefixes(d);
    if (info.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY) {
        if (!(info.attributes & ZYDIS_ATTRIB_HAS_MODRM)) {  // MOV AL/AX/EAX/RAX with an absolute address
            const u8 new_rex = static_cast<u8>((rex & 0x48) | x << 1 | b);
            if (new_rex) a_.byte(0x40 | new_rex);
            static constexpr u8 kMove[4] = {0x8a, 0x8b, 0x88, 0x89};
            a_.byte(kMove[bytes[at] & 3]);
            a_.memory(0, base, index, 1, 0);
            return;
        }
        const u8 new_rex = static_cast<u8>((rex & 0x4c) | x << 1 | b);
        if (new_rex || rex) a_.byte(0x40 | new_rex);
        a_.bytes(bytes + at, info.raw.modrm.offset - at);
    } else if (info.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
        u8 first, second;
        if (bytes[at] == 0xc5) {
            first = static_cast<u8>((bytes[at + 1] & 0x80) | 0x61);
            second = bytes[at + 1] & 0x7f;
        } else {
            first = bytes[at + 1];
            second = bytes[at + 2];
        }
        if (!code64()) first |= 0x80, second |= 0x40;
        first = static_cast<u8>((first & 0x9f) | (x ? 0 : 0x40) | (b ? 0 : 0x20));
        a_.byte(0xc4);
        a_.byte(first);
        a_.byte(second);
        a_.byte(bytes[info.raw.modrm.offset - 1]);
    } else {  // EVEX
        a_.byte(0x62);
        u8 first = bytes[at + 1];
        if (!code64()) first |= 0x90;
        a_.byte((first & 0x9f) | (x ? 0 : 0x40) | (b ? 0 : 0x20));
        a_.byte(bytes[at + 2]);
        a_.byte(bytes[at + 3]);
        a_.byte(bytes[info.raw.modrm.offset - 1]);
    }
    const unsigned reg = (bytes[info.raw.modrm.offset] >> 3) & 7;
    a_.memory(static_cast<int>(reg), base, index, 1, 0);
    unsigned tail = info.raw.modrm.offset + 1u;
    if (info.raw.sib.offset) tail = info.raw.sib.offset + 1u;
    if (info.raw.disp.size) tail = info.raw.disp.offset + info.raw.disp.size / 8u;
    a_.bytes(bytes + tail, info.length - tail);
}

// ------------------------------------------------------------------------------------------------------ instructions

bool is_bit_test(ZydisMnemonic m) {
    return m == ZYDIS_MNEMONIC_BT || m == ZYDIS_MNEMONIC_BTS || m == ZYDIS_MNEMONIC_BTR || m == ZYDIS_MNEMONIC_BTC;
}

void Translator::emit_plain(const Decoded& d) {
    const auto& info = d.insn.info;
    if (d.memory < 0) return emit_registers_only(d);
    const auto& o = d.insn.operands[d.memory];
    Address address = operand_address(d, o);
    const bool writes = o.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE, reads = o.actions & ZYDIS_OPERAND_ACTION_MASK_READ;
    Access access = writes && reads ? Access::ReadWrite : writes ? Access::Write : Access::Read;
    unsigned size = o.size / 8u;
    if (size == 0) size = 1;
    if (d.xsave) size = 4096;
    const bool partial = d.masked || info.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ || info.mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU ||
                         info.mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU || d.xsave;
    if (partial && access == Access::Write) access = Access::ReadWrite;  // the rest of the buffer must hold what was there

    const bool by_register = is_bit_test(info.mnemonic) && d.insn.operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
    if (by_register) {
        address.bit_register = gpr_index(d.insn.operands[1].reg.value);
        address.bit_unit = info.operand_width;
        size = info.operand_width / 8u;
    }
    emit_access(d, address, size, access);
    if (by_register) {
        // The instruction adds the unit itself: take it off the host address. NOT leaves the flags alone.
        a_.lea(k64, s1_, s1_, s2_);
        a_.gs_store(s1_, at::kTemporary);
        a_.move_immediate(s1_, address.bit_unit == 64 ? 6 : address.bit_unit == 32 ? 5 : 4);
        if (address.bit_unit == 64) {
            a_.sarx(s2_, address.bit_register, s1_);
        } else {
            a_.rex(true, s2_, address.bit_register, -1);
            if (address.bit_unit == 32) {
                a_.byte(0x63);
            } else {
                a_.byte(0x0f);
                a_.byte(0xbf);
            }
            a_.byte(0xc0 | (static_cast<unsigned>(s2_) & 7) << 3 | (static_cast<unsigned>(address.bit_register) & 7));
            a_.sarx(s2_, s2_, s1_);
        }
        a_.rex(true, 0, s2_, -1);  // not s2
        a_.byte(0xf7);
        a_.byte(0xd0 | (static_cast<unsigned>(s2_) & 7));
        a_.gs_load(s1_, at::kTemporary);
        a_.lea(k64, s1_, s1_, s2_, address.bit_unit / 8, static_cast<i32>(address.bit_unit / 8));
        emit_with_memory(d, s1_, -1);
    } else if (info.mnemonic == ZYDIS_MNEMONIC_XLAT) {
        a_.op_memory(k32, 0x8a, 0, s1_, s2_);
    } else if (partial && !d.masked && !d.xsave) {  // MASKMOV: the address is implied in RDI
        a_.lea(k64, s1_, s1_, s2_);
        a_.gs_store(7, at::kTemporary);
        a_.move(k64, 7, s1_);
        a_.bytes(d.insn.bytes + (is_prefix(d.insn.bytes[0]) && d.insn.bytes[0] != 0x66 ? 1 : 0),
                 info.length - (is_prefix(d.insn.bytes[0]) && d.insn.bytes[0] != 0x66 ? 1u : 0u));
        a_.gs_load(7, at::kTemporary);
    } else if (d.xsave) {
        a_.gs_load(0, at::kMaskedEax, k32);
        a_.gs_load(2, at::kMaskedEdx, k32);
        emit_with_memory(d, s1_, s2_);
        a_.gs_load(0, at::gpr(0));
        a_.gs_load(2, at::gpr(2));
    } else if (d.high8 && (s1_ >= 8 || s2_ >= 8)) {
        // AH to BH cannot be named beside R8 to R15: borrow a low register for the address.
        int low = -1;
        for (const int r : {7, 6, 5, 3, 2, 0})
            if (!(d.registers >> r & 1) && r != s1_ && r != s2_) low = r;
        CHECK(low >= 0);
        a_.lea(k64, s1_, s1_, s2_);
        a_.gs_store(low, at::kTemporary);
        a_.move(k64, low, s1_);
        emit_with_memory(d, low, -1);
        a_.gs_load(low, at::kTemporary);
    } else {
        emit_with_memory(d, s1_, s2_);
    }
    emit_access_done(d, access);
}

void Translator::emit_lea(const Decoded& d) {
    const auto& o = d.insn.operands[1];
    if (code64() && o.mem.base != ZYDIS_REGISTER_RIP && o.mem.base != ZYDIS_REGISTER_EIP) {
        a_.bytes(d.insn.bytes, d.insn.info.length);
        return;
    }
    Address address = operand_address(d, o);
    address.segment = -1;
    const int to = gpr_index(d.insn.operands[0].reg.value);
    emit_address(address);
    a_.move(width(d.insn.info.operand_width), to, s1_);
}

/// Stores a constant at [s1 + s2]; uses up the pair.
void Translator::emit_store_word(unsigned size, u64 value) {
    if (size == 8 && !Assembler::fits32(value)) {
        a_.lea(k64, s1_, s1_, s2_);
        a_.move_immediate(s2_, value);
        a_.store(k64, s2_, s1_);
        return;
    }
    a_.op_memory(size == 8 ? k64 : size == 4 ? k32 : k16, 0xc7, 0, s1_, s2_);
    if (size == 2) {
        a_.byte(static_cast<u8>(value));
        a_.byte(static_cast<u8>(value >> 8));
    } else {
        a_.u32le(static_cast<u32>(value));
    }
}

void Translator::emit_push(const Decoded& d) {
    const auto& o = d.insn.operands[0];
    const unsigned size = d.insn.info.operand_width / 8u;
    const auto w = width(size * 8);
    if (o.type == ZYDIS_OPERAND_TYPE_MEMORY) {
        emit_access(d, operand_address(d, o), size, Access::Read);
        a_.load(w, s1_, s1_, s2_);
        a_.gs_store(s1_, at::kTemporary);
    }
    emit_access(d, stack_address(-static_cast<i64>(size)), size, Access::Write);
    if (o.type == ZYDIS_OPERAND_TYPE_REGISTER) {
        a_.store(w, gpr_index(o.reg.value), s1_, s2_);
    } else if (o.type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        emit_store_word(size, o.imm.value.u);
    } else {
        a_.lea(k64, s1_, s1_, s2_);
        a_.gs_load(s2_, at::kTemporary);
        a_.store(w, s2_, s1_);
    }
    emit_access_done(d, Access::Write);
    move_stack(-static_cast<i64>(size));
}

void Translator::emit_pop(const Decoded& d) {
    const auto& o = d.insn.operands[0];
    const unsigned size = d.insn.info.operand_width / 8u;
    const auto w = width(size * 8);
    emit_access(d, stack_address(0), size, Access::Read);
    if (o.type == ZYDIS_OPERAND_TYPE_REGISTER) {
        const int to = gpr_index(o.reg.value);
        if (to == kRsp) {
            a_.load(w, to, s1_, s2_);
            return;
        }
        a_.load(w, to, s1_, s2_);
        move_stack(size);
        return;
    }
    a_.load(w, s1_, s1_, s2_);
    a_.gs_store(s1_, at::kTemporary);
    Address address = operand_address(d, o);
    if (address.base == kRsp) address.displacement += size;  // computed after the increment
    emit_access(d, address, size, Access::Write);
    a_.lea(k64, s1_, s1_, s2_);
    a_.gs_load(s2_, at::kTemporary);
    a_.store(w, s2_, s1_);
    emit_access_done(d, Access::Write);
    move_stack(size);
}

void Translator::emit_leave(const Decoded& d) {
    const unsigned size = d.insn.info.operand_width / 8u;
    Address address = stack_address(0);
    address.base = 5;
    emit_access(d, address, size, Access::Read);
    a_.load(width(size * 8), s1_, s1_, s2_);
    a_.lea(width(stack_width()), kRsp, 5, -1, 1, static_cast<i32>(size));
    a_.move(width(size * 8), 5, s1_);
}

unsigned condition_code(const Decoded& d) {
    const unsigned at = scan_prefixes(d, d.insn.info.machine_mode == ZYDIS_MACHINE_MODE_LONG_64).end;
    return (d.insn.bytes[at] == 0x0f ? d.insn.bytes[at + 1] : d.insn.bytes[at]) & 15;
}

void Translator::emit_loop(const Decoded& d) {
    const auto& info = d.insn.info;
    const u64 next = end_rip_, target = truncate_rip(next + d.insn.operands[0].imm.value.u, code64() ? 64 : info.operand_width);
    const ZydisMnemonic m = info.mnemonic;
    const bool counts = m == ZYDIS_MNEMONIC_LOOP || m == ZYDIS_MNEMONIC_LOOPE || m == ZYDIS_MNEMONIC_LOOPNE;
    const unsigned counter = counts ? info.address_width
                                    : m == ZYDIS_MNEMONIC_JCXZ ? 16u : m == ZYDIS_MNEMONIC_JECXZ ? 32u : 64u;
    u8* to_next = nullptr;
    u8* to_next2 = nullptr;
    if (counter != 16) {
        if (counter == 32) a_.byte(0x67);
        const unsigned opcode = m == ZYDIS_MNEMONIC_LOOP ? 0xe2 : m == ZYDIS_MNEMONIC_LOOPE ? 0xe1 : m == ZYDIS_MNEMONIC_LOOPNE ? 0xe0 : 0xe3;
        u8* taken = a_.short_forward(opcode);
        u8* not_taken = a_.jump_forward();
        a_.bind_short(taken);
        exit_direct(target);
        a_.bind(not_taken);
        exit_direct(next);
        return;
    }
    if (counts) a_.lea(k16, kRcx, kRcx, -1, 1, -1);
    a_.gs_store(kRcx, at::gpr(kRcx));
    a_.zero_extend16(kRcx, kRcx);
    u8* is_zero = a_.short_forward(0xe3);
    u8* not_zero = a_.jump_forward();
    a_.bind_short(is_zero);
    a_.gs_load(kRcx, at::gpr(kRcx));
    exit_direct(counts ? next : target);
    a_.bind(not_zero);
    a_.gs_load(kRcx, at::gpr(kRcx));
    if (!counts) return exit_direct(next);
    if (m == ZYDIS_MNEMONIC_LOOPE) to_next = a_.jcc_forward(5);
    if (m == ZYDIS_MNEMONIC_LOOPNE) to_next2 = a_.jcc_forward(4);
    exit_direct(target);
    if (to_next) a_.bind(to_next);
    if (to_next2) a_.bind(to_next2);
    if (to_next || to_next2) exit_direct(next);
}

void Translator::emit_branch(const Decoded& d) {
    const auto& info = d.insn.info;
    const auto& o = d.insn.operands[0];
    const unsigned rip_width = code64() ? 64u : info.operand_width;
    const unsigned size = code64() ? 8u : info.operand_width / 8u;
    const bool direct = o.type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    switch (d.kind) {
    case Kind::JumpIf: {
        u8* taken = a_.jcc_forward(condition_code(d));
        exit_direct(end_rip_);
        a_.bind(taken);
        exit_direct(truncate_rip(end_rip_ + o.imm.value.u, rip_width));
        return;
    }
    case Kind::Return: {
        emit_access(d, stack_address(0), size, Access::Read);
        a_.load(size == 8 ? k64 : k32, s1_, s1_, s2_);
        if (size == 2) a_.zero_extend16(s1_, s1_);
        const u64 drop = info.operand_count_visible && direct ? o.imm.value.u & 0xffff : 0;
        move_stack(static_cast<i64>(size + drop));
        return exit_indirect(d.insn.rip, -static_cast<i64>(size + drop));
    }
    default: break;
    }
    // JMP and CALL: find the target, then push.
    const bool in_register = o.type == ZYDIS_OPERAND_TYPE_REGISTER;
    if (o.type == ZYDIS_OPERAND_TYPE_MEMORY) {
        emit_access(d, operand_address(d, o), size, Access::Read);
        a_.load(size == 8 ? k64 : k32, s1_, s1_, s2_);
        if (size == 2) a_.zero_extend16(s1_, s1_);
    } else if (in_register) {
        const int from = gpr_index(o.reg.value);
        if (size == 2) a_.zero_extend16(s1_, from);
        else a_.move(size == 8 ? k64 : k32, s1_, from);
    }
    if (d.kind == Kind::Call) {
        if (!direct) a_.gs_store(s1_, at::kTemporary);
        emit_access(d, stack_address(-static_cast<i64>(size)), size, Access::Write);
        emit_store_word(size, truncate_rip(end_rip_, rip_width));
        emit_access_done(d, Access::Write);
        move_stack(-static_cast<i64>(size));
        if (!direct) a_.gs_load(s1_, at::kTemporary);
    }
    if (direct) exit_direct(truncate_rip(end_rip_ + o.imm.value.u, rip_width));
    else exit_indirect(d.insn.rip, d.kind == Kind::Call ? static_cast<i64>(size) : 0);
}

void Translator::emit(const Decoded& d, bool last) {
    block_->origins.push_back({static_cast<u32>(a_.at() - block_->entry), static_cast<u32>(d.insn.rip - source_.rip)});
    switch (d.kind) {
    case Kind::Plain:
        if (d.xsave && !bounce_) {
            to_default_pair();
            exit_reason(ExitReason::Bounce, d.insn.rip);
            return;
        }
        emit_plain(d);
        break;
    case Kind::Push: emit_push(d); break;
    case Kind::Pop: emit_pop(d); break;
    case Kind::Leave: emit_leave(d); break;
    case Kind::Lea: emit_lea(d); break;
    case Kind::Nothing:
        if (d.insn.info.raw.modrm.mod == 3) emit_registers_only(d);  // some reserved forms are #UD
        break;
    case Kind::Jump: case Kind::JumpIf: case Kind::Call: case Kind::Return: return emit_branch(d);
    case Kind::Loop: return emit_loop(d);
    case Kind::String: return exit_site(d, SiteKind::String);
    case Kind::System: return exit_site(d, SiteKind::System);
    case Kind::Gather: return exit_site(d, SiteKind::Gather);
    case Kind::Odd: return exit_site(d, SiteKind::Odd);
    case Kind::Pause: return exit_site(d, SiteKind::Pause);
    case Kind::Raise: return exit_raise(d, d.vector, d.vector == 13);
    }
    if (last) exit_direct(end_rip_);
}

// ----------------------------------------------------------------------------------------------------------- way out

void Translator::exit_reason(ExitReason reason, u64 rip) {
    a_.gs_store_immediate64(at::kRip, rip);
    a_.gs_store_immediate32(at::kExitReason, static_cast<u32>(reason));
    a_.gs_store_immediate32(at::kExitLink, 0);
    a_.jump(thunks_.leave);
}

void Translator::exit_direct(u64 rip) {
    const u64 offset = (source_.gpa & 0xfff) + (rip - source_.rip);
    const bool chain = !(mode_ & (key::kSingle | key::kBounce)) && source_.crossing.empty();
    if (chain && offset < 4096) {
        to_default_pair();
        a_.align(4, 1);
        a_.byte(0xe9);
        stubs_.push_back({a_.at(), rip});
        a_.u32le(0);
        return;
    }
    if (!(mode_ & key::kFlatCode) || (mode_ & (key::kSingle | key::kBounce))) {
        to_default_pair();
        return exit_reason(ExitReason::Lookup, rip);
    }
    a_.move_immediate(s1_, rip);
    exit_indirect(source_.rip, 0);
}

void Translator::exit_indirect(u64 from, i64 undo) {
    if (s1_ != kScratch1 || s2_ != kScratch2) {
        a_.gs_store(s1_, at::kTemporary);
        to_default_pair();
        a_.gs_load(kScratch1, at::kTemporary);
    }
    if (!(mode_ & key::kFlatCode) || (mode_ & (key::kSingle | key::kBounce))) {
        misses_.push_back({a_.jump_forward(), from, undo, false});
        return;
    }
    a_.gs_store(kRcx, at::gpr(kRcx));
    a_.rorx(kScratch2, kScratch1, 12);
    a_.lea(k64, kScratch2, kScratch2, kScratch1);
    a_.pext_gs(kRcx, kScratch2, at::kJumpMask);
    a_.gs_op_indexed(0x8b, kScratch2, kRcx, at::jump_target(slot_));
    a_.gs_op_indexed(0x8b, kRcx, kRcx, at::jump_tag(slot_));
    a_.lea(k64, kRcx, kRcx, kScratch1);
    u8* hit = a_.short_forward(0xe3);
    misses_.push_back({a_.jump_forward(), from, undo, true});
    a_.bind_short(hit);
    a_.gs_load(kRcx, at::gpr(kRcx));
    a_.rex(false, 0, kScratch2, -1);
    a_.byte(0xff);
    a_.byte(0xe0 | (kScratch2 & 7));
}

void Translator::exit_site(const Decoded& d, SiteKind kind) {
    SystemSite* site = cache_.new_site();
    site->kind = kind;
    site->instruction = d.insn;
    a_.gs_store_immediate64(at::kExitSite, reinterpret_cast<u64>(site));
    to_default_pair();
    exit_reason(ExitReason::System, d.insn.rip);
}

void Translator::exit_raise(const Decoded& d, u8 vector, bool has_error_code) {
    SystemSite* site = cache_.new_site();
    site->kind = SiteKind::Raise;
    site->fault = {.pending = true, .vector = vector, .has_error_code = has_error_code};
    a_.gs_store_immediate64(at::kExitSite, reinterpret_cast<u64>(site));
    to_default_pair();
    exit_reason(ExitReason::System, d.insn.rip);
}

void Translator::poll(const Decoded& first) {
    u8* out = nullptr;
    if (first.flags_live == 0) {
        a_.gs_op(k32, 0x83, 7, at::kAttention);  // cmp dword gs:[attention], 0
        a_.byte(0);
        out = a_.jcc_forward(5);
    } else {
        a_.gs_store(kRcx, at::gpr(kRcx));
        a_.gs_load(kRcx, at::kAttention, k32);
        u8* quiet = a_.short_forward(0xe3);
        a_.gs_load(kRcx, at::gpr(kRcx));
        out = a_.jump_forward();
        a_.bind_short(quiet);
        a_.gs_load(kRcx, at::gpr(kRcx));
    }
    poll_ = out;
}

TranslateStatus Translator::run(Block*& out) {
    block_ = cache_.new_block();
    block_->gpa = source_.gpa;
    block_->rip = source_.rip;
    block_->mode = mode_;
    TranslateStatus status;
    if (!decode_block(status)) return status;
    if (!source_.crossing.empty()) {
        block_->second_page = source_.second_gpa & ~u64{0xfff};
        block_->guest_size = static_cast<u32>(source_.bytes.size());
    }
    liveness();
    choose_scratch();

    a_.align(16);
    block_->entry = a_.at();
    a_.bytes(reinterpret_cast<const u8*>("\x0f\x1f\x84\x00\x00\x00\x00\x00"), 8);  // becomes a jump when the block dies
    block_->origins.reserve(count_);
    from_default_pair();
    bool back_edge = false;
    if (count_ > 0 && !(mode_ & (key::kSingle | key::kBounce))) {
        const Decoded& last = code_[count_ - 1];
        if ((last.kind == Kind::Jump || last.kind == Kind::JumpIf || last.kind == Kind::Call || last.kind == Kind::Loop) &&
            last.insn.operands[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
            back_edge = last.insn.operands[0].imm.value.s < 0;
        if (back_edge) poll(code_[0]);
    }
    for (unsigned i = 0; i < count_; ++i) emit(code_[i], i + 1 == count_);
    if (raise_at_end_) {
        Decoded d;
        d.insn.rip = source_.rip;
        exit_raise(d, raise_vector_, raise_vector_ == 13);
    }
    if (back_edge) {
        // The poll's way out: nothing of this block was executed.
        a_.bind(poll_);
        to_default_pair();
        exit_reason(ExitReason::Attention, source_.rip);
    }
    emit_slow_paths();
    for (const LimitFailure& failure : limits_) {
        a_.bind(failure.jump);
        a_.gs_load(kRcx, at::gpr(kRcx));
        exit_raise(*failure.decoded, failure.stack ? 12 : 13, true);
    }
    for (const Miss& miss : misses_) {
        a_.bind(miss.jump);
        if (miss.rcx_saved) a_.gs_load(kRcx, at::gpr(kRcx));
        a_.gs_store_immediate64(at::kSourceRip, miss.from);
        a_.gs_store_immediate32(at::kSourceUndo, static_cast<u32>(miss.undo));
        a_.gs_store_immediate32(at::kSourceValid, 1);
        a_.jump(thunks_.jump_miss);
    }
    for (const Stub& stub : stubs_) {
        Assembler::link(stub.link, a_.at());
        a_.gs_store_immediate64(at::kRip, stub.rip);
        a_.gs_store_immediate32(at::kExitReason, static_cast<u32>(ExitReason::Lookup));
        a_.gs_store_immediate32(at::kExitLink, static_cast<u32>(stub.link - cache_.base()));
        a_.jump(thunks_.leave);
    }
    block_->stale = a_.at();
    exit_reason(ExitReason::Lookup, source_.rip);
    block_->end = a_.at();
    cache_.advance(a_.at());
    out = block_;
    return TranslateStatus::Done;
}

}  // namespace

TranslateStatus translate(CodeCache& cache, const Thunks& thunks, const BlockSource& source, Block*& out) {
    return Translator(cache, thunks, source).run(out);
}

}  // namespace vezha::engine::dbt
