// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "engine/dbt/apic_fabric.h"
#include "engine/dbt/exceptions.h"
#include "engine/dbt/segments.h"
#include "engine/dbt/system_interface.h"

/// Events between instructions: INIT, SIPI, NMI, external interrupts (SDM vol. 3A, 6.9 and table 6-2).
namespace vezha::engine::dbt {

using namespace x86;

namespace {

bool interruptible(const Context& ctx) {
    return (ctx.flags & rflags::kIf) && !ctx.sti_shadow && !ctx.mov_ss_shadow;
}

bool ext_int_pending(Context& ctx) {
    bus::ExtIntSource* pic = local_apics(ctx).ext_int();
    return pic && ctx.lapic->accepts_ext_int() && pic->pending();
}

bool sleeping_for_start(const Context& ctx) {
    return ctx.mp_state == MpState::Uninitialized || ctx.mp_state == MpState::InitReceived ||
           ctx.mp_state == MpState::WaitForSipi;
}

void take_init(Context& ctx) {
    park_vector_state(ctx);
    init_reset(ctx);
    ctx.lapic->reset();
    ctx.nmi_pending = 0;
    ctx.lapic->take_nmis();
    // The bootstrap processor starts at its reset vector; the others wait (SDM vol. 3A, 9.4).
    ctx.mp_state = ctx.apic_base & apic_base::kBsp ? MpState::Runnable : MpState::WaitForSipi;
}

void start_at(Context& ctx, u8 page) {
    ctx.segment[kCs] = {static_cast<u16>(page << 8), 0x9b, 0xffff, u64{page} << 12};
    ctx.rip = 0;
    ctx.mp_state = MpState::Runnable;
    update_mode(ctx);
}

}  // namespace

bool has_deliverable_event(Context& ctx) {
    const u32 bits = ctx.attention.load(std::memory_order_acquire);
    if (bits & attention::kInit) return true;
    if (sleeping_for_start(ctx)) return ctx.mp_state != MpState::Uninitialized && (bits & attention::kSipi);
    if (((bits & attention::kNmi) || ctx.nmi_pending || ctx.lapic->nmi_waiting()) && !ctx.nmi_masked && !ctx.mov_ss_shadow && !ctx.sti_shadow)
        return true;
    if (ctx.mp_state == MpState::Halted && ctx.lapic->unhalt_pending()) return true;
    if (!interruptible(ctx)) return false;
    return ctx.lapic->pending_vector() >= 0 || ext_int_pending(ctx);
}

bool service_events(Context& ctx) {
    if (ctx.attention.load(std::memory_order_acquire) & attention::kInit) {
        ctx.attention.fetch_and(~attention::kInit);
        take_init(ctx);
        return true;
    }
    if (sleeping_for_start(ctx)) {
        const u32 bits = ctx.attention.fetch_and(~(attention::kSipi | attention::kInterrupt | attention::kRecheck));
        const int page = bits & attention::kSipi ? ctx.lapic->take_sipi() : -1;
        if (page < 0 || ctx.mp_state == MpState::Uninitialized) return false;
        start_at(ctx, static_cast<u8>(page));
        return true;
    }
    // Cleared before looking: whoever posts afterwards sets them again.
    const u32 bits = ctx.attention.fetch_and(
        ~(attention::kInterrupt | attention::kRecheck | attention::kSipi | attention::kNmi));
    if (bits & attention::kSipi) {
        // Ignored while running; but an INIT that came just now was sent before it.
        if (bits & attention::kInit) {
            ctx.attention.fetch_or(bits & (attention::kSipi | attention::kNmi | attention::kInterrupt));
            return service_events(ctx);
        }
        ctx.lapic->take_sipi();
    }
    // From the local APIC by count, from Vcpu::nmi() by its bit. One can be latched while another is handled; more merge.
    if (const u32 came = ctx.lapic->take_nmis() + (bits & attention::kNmi ? 1 : 0))
        ctx.nmi_pending = static_cast<u8>(std::min(ctx.nmi_pending + came, ctx.nmi_masked ? 1u : 2u));
    if (ctx.nmi_pending && !ctx.nmi_masked) {
        if (ctx.mov_ss_shadow || ctx.sti_shadow) {
            ctx.attention.fetch_or(attention::kRecheck);
            return false;
        }
        --ctx.nmi_pending;
        ctx.mp_state = MpState::Runnable;
        deliver_external(ctx, kNmi, EventKind::External);
        ctx.nmi_masked = true;
        return true;
    }
    if (interruptible(ctx)) {
        int vector = -1;
        if (ext_int_pending(ctx)) {
            vector = local_apics(ctx).ext_int()->acknowledge();
        } else if ((vector = ctx.lapic->pending_vector()) >= 0) {
            ctx.lapic->acknowledge(static_cast<u8>(vector));
        }
        if (vector >= 0) {
            ctx.mp_state = MpState::Runnable;
            deliver_external(ctx, static_cast<u8>(vector), EventKind::External);
            if (ctx.lapic->pending_vector() >= 0 && (ctx.flags & rflags::kIf))
                ctx.attention.fetch_or(attention::kRecheck);
            return true;
        }
    } else if ((ctx.flags & rflags::kIf) && (ctx.lapic->pending_vector() >= 0 || ext_int_pending(ctx))) {
        ctx.attention.fetch_or(attention::kRecheck);  // only a shadow holds it back: after the next instruction
    }
    if (ctx.mp_state == MpState::Halted && ctx.lapic->take_unhalt()) {
        ctx.mp_state = MpState::Runnable;
        return true;
    }
    return false;
}

}  // namespace vezha::engine::dbt
