// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/segments.h"

#include "engine/dbt/paging.h"
#include "engine/dbt/system_interface.h"

namespace vezha::engine::dbt {

using namespace x86;

Segment Descriptor::segment(u16 selector) const {
    Segment s;
    s.selector = selector;
    s.attributes = attributes();
    s.base = ((low >> 16) & 0xff'ffff) | ((low >> 56) << 24);
    s.limit = static_cast<u32>((low & 0xffff) | ((low >> 32) & 0xf'0000));
    if (s.attributes & Segment::kGranular) s.limit = s.limit << 12 | 0xfff;
    return s;
}

u64 Descriptor::gate_offset(bool wide) const {
    u64 offset = low & 0xffff;
    if (wide || type() >= kTssAvailable) offset |= (low >> 32) & 0xffff'0000;
    return wide ? offset | high << 32 : offset;
}

namespace {

/// Where the 8 bytes of a descriptor lie; false beyond the table.
bool locate(const Context& ctx, u16 selector, u64& linear, u32 bytes = 8) {
    const u32 offset = selector & 0xfff8;
    if (selector & 4) {
        if (ctx.ldtr.unusable() || offset + bytes - 1 > ctx.ldtr.limit) return false;
        linear = ctx.ldtr.base + offset;
    } else {
        if (offset + bytes - 1 > ctx.gdtr.limit) return false;
        linear = ctx.gdtr.base + offset;
    }
    if (!in_long_mode(ctx)) linear &= 0xffff'ffff;
    return true;
}

bool null_selector(u16 selector) { return (selector & 0xfffc) == 0; }
u32 error_of(u16 selector) { return selector & 0xfffcu; }

void load_stack_segment(Context& ctx, u16 selector) {
    const unsigned rpl = selector & 3;
    if (null_selector(selector)) {
        if (!in_code64(ctx) || ctx.cpl == 3 || rpl != ctx.cpl) raise_gp(0);
        // KVM's "unusable" SS keeps the DPL, from which the CPL can be told.
        ctx.segment[kSs] = {.selector = selector, .attributes = static_cast<u16>(rpl << 5), .limit = 0, .base = 0};
        return;
    }
    Descriptor d = read_descriptor(ctx, selector);
    if (rpl != ctx.cpl || !d.writable() || d.dpl() != ctx.cpl) raise_gp(error_of(selector));
    if (!d.present()) raise(kStackFault, error_of(selector));
    set_accessed(ctx, d);
    ctx.segment[kSs] = d.segment(selector);
}

}  // namespace

bool try_read_descriptor(Context& ctx, u16 selector, Descriptor& out) {
    u64 linear = 0;
    if (null_selector(selector) || !locate(ctx, selector, linear)) return false;
    out.linear = linear;
    out.low = read_linear(ctx, linear, 8, Privilege::ImplicitSupervisor);
    return true;
}

Descriptor read_descriptor(Context& ctx, u16 selector, u8 vector, u32 ext) {
    Descriptor d;
    u64 linear = 0;
    if (!locate(ctx, selector, linear)) raise(vector, error_of(selector) | ext);
    d.linear = linear;
    d.low = read_linear(ctx, linear, 8, Privilege::ImplicitSupervisor);
    return d;
}

void read_upper_half(Context& ctx, u16 selector, Descriptor& descriptor, u8 vector) {
    u64 linear = 0;
    if (!locate(ctx, selector, linear, 16)) raise(vector, error_of(selector));
    descriptor.high = read_linear(ctx, linear + 8, 8, Privilege::ImplicitSupervisor);
    if ((descriptor.high >> 40) & 0x1f) raise(vector, error_of(selector));
}

void set_accessed(Context& ctx, Descriptor& descriptor) {
    if (descriptor.low & (u64{1} << 40)) return;
    set_bits_linear(ctx, descriptor.linear + 5, 1);
    descriptor.low |= u64{1} << 40;
}

void set_real_segment(Context& ctx, SegmentIndex index, u16 selector) {
    Segment& s = ctx.segment[index];
    s.selector = selector;
    s.base = u64{selector} << 4;
    if (v86_mode(ctx)) {
        s.limit = 0xffff;
        s.attributes = 0xf3;
    } else if (!s.present() || (s.attributes & Segment::kDefault32 && index == kCs)) {
        // Real mode keeps limits ("unreal" mode relies on it), but an unusable register becomes usable.
        s.attributes = 0x93;
        if (s.limit < 0xffff) s.limit = 0xffff;
    }
}

void load_segment(Context& ctx, SegmentIndex index, u16 selector) {
    if (real_or_v86(ctx)) {
        set_real_segment(ctx, index, selector);
        update_mode(ctx);
        return;
    }
    if (index == kSs) {
        load_stack_segment(ctx, selector);
        update_mode(ctx);
        return;
    }
    if (null_selector(selector)) {
        // The base survives on Intel and goes to zero on AMD; nobody may rely on either.
        ctx.segment[index] = {.selector = selector, .attributes = 0, .limit = 0, .base = 0};
    } else {
        Descriptor d = read_descriptor(ctx, selector);
        if (!d.code_or_data() || !d.readable()) raise_gp(error_of(selector));
        const unsigned rpl = selector & 3;
        if (!(d.code() && d.conforming()) && (rpl > d.dpl() || ctx.cpl > d.dpl())) raise_gp(error_of(selector));
        if (!d.present()) raise(kSegmentNotPresent, error_of(selector));
        set_accessed(ctx, d);
        ctx.segment[index] = d.segment(selector);
    }
    update_mode(ctx);
}

void load_ldtr(Context& ctx, u16 selector) {
    if (null_selector(selector)) {
        ctx.ldtr = {.selector = selector};
        return;
    }
    if (selector & 4) raise_gp(error_of(selector));
    Descriptor d = read_descriptor(ctx, selector);
    if (d.code_or_data() || d.type() != kLdt) raise_gp(error_of(selector));
    if (!d.present()) raise(kSegmentNotPresent, error_of(selector));
    Segment s = d.segment(selector);
    if (in_long_mode(ctx)) {
        read_upper_half(ctx, selector, d);
        s.base |= d.high << 32;
        if (!is_canonical(s.base)) raise_gp(error_of(selector));
    }
    ctx.ldtr = s;
}

void load_tr(Context& ctx, u16 selector) {
    if (null_selector(selector)) raise_gp(0);
    if (selector & 4) raise_gp(error_of(selector));
    Descriptor d = read_descriptor(ctx, selector);
    const bool available = !d.code_or_data() &&
                           (d.type() == kTssAvailable || (d.type() == kTss16Available && !in_long_mode(ctx)));
    if (!available) raise_gp(error_of(selector));
    if (!d.present()) raise(kSegmentNotPresent, error_of(selector));
    Segment s = d.segment(selector);
    if (in_long_mode(ctx)) {
        read_upper_half(ctx, selector, d);
        s.base |= d.high << 32;
        if (!is_canonical(s.base)) raise_gp(error_of(selector));
    }
    set_bits_linear(ctx, d.linear + 5, 2);  // busy
    s.attributes |= 2;
    ctx.tr = s;
}

void set_cs(Context& ctx, const Segment& cs, unsigned cpl) {
    ctx.segment[kCs] = cs;
    ctx.cpl = static_cast<u8>(cpl);
    update_mode(ctx);
}

u64 segment_linear(const Context& ctx, SegmentIndex index, u64 offset, u64 size, bool write) {
    const Segment& s = ctx.segment[index];
    const u8 vector = index == kSs ? kStackFault : kGeneralProtection;
    if (in_code64(ctx)) {
        const u64 linear = offset + (index >= kFs ? s.base : 0);
        if (!is_canonical(linear) || !is_canonical(linear + size - 1)) raise(vector, 0);
        return linear;
    }
    if (!real_or_v86(ctx)) {
        if (s.unusable()) raise(vector, 0);
        const bool code = s.type() & 8;
        if (write ? code || !(s.type() & 2) : code && !(s.type() & 2)) raise(vector, 0);
    }
    const u64 last = offset + size - 1;
    bool inside;
    if ((s.type() & 0xc) == 4 && s.present()) {  // expand-down data
        inside = offset > s.limit && last <= (s.default32() ? 0xffff'ffff : 0xffff);
    } else {
        inside = last <= s.limit;
    }
    if (!inside) raise(vector, 0);
    return (s.base + offset) & 0xffff'ffff;
}

u64 stack_linear(const Context& ctx, const Segment& ss, u64 offset, unsigned size, u32 error) {
    const u64 last = offset + size - 1;
    bool inside;
    if ((ss.type() & 0xc) == 4) inside = offset > ss.limit && last <= (ss.default32() ? 0xffff'ffff : 0xffff);
    else inside = last <= ss.limit;
    if (!inside || (!real_or_v86(ctx) && ss.unusable())) raise(kStackFault, error);
    return (ss.base + offset) & 0xffff'ffff;
}

Stack::Stack(Context& ctx)
    : Stack(ctx, ctx.segment[kSs], ctx.gpr[kRsp], in_code64(ctx), current_privilege(ctx)) {}

Stack::Stack(Context& ctx, const Segment& ss, u64 sp, bool code64, Privilege privilege, u32 error)
    : ctx_(ctx), ss_(ss), sp_(sp), mask_(code64 ? ~u64{0} : ss.default32() ? 0xffff'ffff : 0xffff), code64_(code64),
      privilege_(privilege), error_(error) {}

void Stack::push(u64 value, unsigned size) {
    const u64 at = (sp_ - size) & mask_;
    if (code64_) {
        if (!is_canonical(at)) raise(kStackFault, error_);
        write_linear(ctx_, at, size, value, privilege_);
    } else {
        write_linear(ctx_, stack_linear(ctx_, ss_, at, size, error_), size, value & mask_bytes(size), privilege_);
    }
    set(at);
}

u64 Stack::peek(u64 offset, unsigned size) {
    const u64 at = (sp_ + offset) & mask_;
    if (code64_) {
        if (!is_canonical(at)) raise(kStackFault, error_);
        return read_linear(ctx_, at, size, privilege_);
    }
    return read_linear(ctx_, stack_linear(ctx_, ss_, at, size, error_), size, privilege_);
}

u64 Stack::pop(unsigned size) {
    const u64 value = peek(0, size);
    set(sp_ + size);
    return value;
}

void Stack::commit() {
    // A 32-bit stack zero-extends ESP (the registers have 64 bits all the time); a 16-bit one keeps the upper part.
    ctx_.gpr[kRsp] = mask_ == 0xffff'ffff ? sp_ & mask_ : sp_;
}

InnerStack inner_stack(Context& ctx, unsigned cpl, unsigned ist, u32 ext) {
    InnerStack out;
    const u32 tss_error = error_of(ctx.tr.selector) | ext;
    if (ctx.tr.unusable()) raise(kInvalidTss, tss_error);
    if (in_long_mode(ctx)) {
        const u64 offset = ist ? 0x24 + 8 * (ist - 1) : 4 + 8 * cpl;
        if (offset + 7 > ctx.tr.limit) raise(kInvalidTss, tss_error);
        out.sp = read_linear(ctx, ctx.tr.base + offset, 8, Privilege::ImplicitSupervisor);
        if (!is_canonical(out.sp)) raise(kStackFault, ext);
        out.ss = {.selector = static_cast<u16>(cpl), .attributes = static_cast<u16>(cpl << 5)};
        return out;
    }
    u16 selector;
    const u64 base = ctx.tr.base;
    auto tss = [&](u64 offset, unsigned size) {
        if (offset + size - 1 > ctx.tr.limit) raise(kInvalidTss, tss_error);
        return read_linear(ctx, (base + offset) & 0xffff'ffff, size, Privilege::ImplicitSupervisor);
    };
    if (ctx.tr.type() & 8) {
        out.sp = tss(4 + 8 * cpl, 4);
        selector = static_cast<u16>(tss(8 + 8 * cpl, 2));
    } else {
        out.sp = tss(2 + 4 * cpl, 2);
        selector = static_cast<u16>(tss(4 + 4 * cpl, 2));
    }
    if (null_selector(selector)) raise(kInvalidTss, ext);
    Descriptor d = read_descriptor(ctx, selector, kInvalidTss, ext);
    if ((selector & 3) != cpl || d.dpl() != cpl || !d.writable()) raise(kInvalidTss, error_of(selector) | ext);
    if (!d.present()) raise(kStackFault, error_of(selector) | ext);
    set_accessed(ctx, d);
    out.ss = d.segment(selector);
    return out;
}

void check_target(const Segment& cs, bool code64, u64 rip) {
    if (code64 ? !is_canonical(rip) : rip > cs.limit) raise_gp(0);
}

}  // namespace vezha::engine::dbt
