// SPDX-License-Identifier: Apache-2.0
// Compiled with -mgeneral-regs-only: the guest's vector registers are live here. No library calls.
#include "engine/dbt/dispatch.h"

#include "engine/dbt/breakpoints.h"
#include "engine/dbt/fast_system.h"
#include "engine/dbt/slow_access.h"

namespace vezha::engine::dbt {

namespace {
constexpr u64 kHostFlags = x86::rflags::kArithmetic | x86::rflags::kDf;

u64 linear_rip(const Context& ctx) {
    return ctx.code64 ? ctx.rip : (ctx.rip + ctx.segment[x86::kCs].base) & 0xffff'ffff;
}
bool shadowed(const Context& ctx) { return ctx.sti_shadow || ctx.mov_ss_shadow; }
}  // namespace

u64 block_mode(const Context& ctx) {
    return ctx.mode_key | (shadowed(ctx) || (ctx.flags & x86::rflags::kTf) || breakpoints_enabled(ctx) ? key::kSingle : 0);
}

void execute(GuestRun& run, const Thunks& thunks, const u8* entry) {
    Context& ctx = run.ctx;
    if (ctx.vector_parked) unpark_vector_state(ctx);
    run.host_flags = (ctx.flags & kHostFlags) | 0x202;
    run.exit_link = 0;
    run.source_valid = 0;
    ++run.count_entries;
    thunks.enter(entry);
    ctx.flags = (ctx.flags & ~kHostFlags) | (run.host_flags & kHostFlags);
}

// Bounce blocks call these around their accesses; what they do may be anything, devices included.
u64 bounce_prepare(GuestRun* run) {
    park_vector_state(run->ctx);
    const u64 resume = prepare_access(*run);
    if (resume) unpark_vector_state(run->ctx);
    return resume;
}
u64 bounce_commit(GuestRun* run) {
    if (run->bouncing.active) {
        park_vector_state(run->ctx);
        commit_access(*run);
        unpark_vector_state(run->ctx);
    }
    return reinterpret_cast<u64>(run->code_base + run->memory_site);
}

Next dispatch(GuestRun& run, const Thunks& thunks) {
    Context& ctx = run.ctx;
    u32 link = 0;
    bool look_up = false;    // do not trust the jump entry
    bool after_sti = false;  // one instruction runs before interrupts are looked at
    for (;;) {
        run.jump_index_mask.store(GuestRun::kJumpEntries - 1, std::memory_order_relaxed);
        std::atomic_thread_fence(std::memory_order_seq_cst);
        u32 wanted = ctx.attention.load(std::memory_order_relaxed);
        if (wanted) [[unlikely]] {
            constexpr u32 kUrgent = attention::kExclusive | attention::kTlbFlush | attention::kKick;
            if (ctx.nmi_masked) wanted &= ~attention::kNmi;
            if (after_sti && (wanted & kUrgent)) ctx.sti_shadow = true;
            if (shadowed(ctx) || after_sti) {
                wanted &= kUrgent;
                run.jump_index_mask.store(0, std::memory_order_relaxed);  // no further than to the first jump
            }
            if (wanted) return Next::Attention;
        }

        const u64 mode = block_mode(ctx), linear = linear_rip(ctx), start = ctx.rip;
        const bool single = mode & key::kSingle;
        if (!single && !link && !look_up && (mode & key::kFlatCode)) {
            if (const u8* entry = find_jump(run, ctx.rip)) {
                execute(run, thunks, entry);
                look_up = ctx.rip == start;  // perhaps a dead block's entry, which leads straight back
                goto left;
            }
        }
        look_up = false;
        {
        GuestRun::Exec* page = exec_page(run, linear);
        if (!page) {
            if (run.source_valid && ctx.code64 && static_cast<i64>(ctx.rip << 16) >> 16 != static_cast<i64>(ctx.rip)) {
                ctx.rip = run.source_rip;
                ctx.gpr[x86::kRsp] += static_cast<u64>(static_cast<i64>(run.source_undo));
            }
            return Next::Fault;
        }
        ++run.count_lookups;
        Block* block = run.cache->find(page->gpa | (linear & 0xfff), ctx.rip, mode);
        if (!block) {
            ctx.sti_shadow |= after_sti;  // it outlasts the way through C++
            return Next::Translate;
        }
        if (block->second_page) {
            const bool global = page->global;
            GuestRun::Exec* second = exec_page(run, (linear | 0xfff) + 1);
            if (!second) return Next::Fault;
            (void)global;
            if (second->gpa != block->second_page) {
                ctx.sti_shadow |= after_sti;
                return Next::Translate;
            }
        } else if (!single) {
            if (link) Assembler::link(run.code_base + link, block->entry);
            if (mode & key::kFlatCode) add_jump(run, ctx.rip, block->entry, page->global);
        }
        execute(run, thunks, block->entry);
        }
    left:
        link = 0;
        if (after_sti) {
            after_sti = false;
            // A block that polls before its first instruction: run that alone.
            if (run.exit_reason == ExitReason::Attention && ctx.rip == start) ctx.sti_shadow = true;
        }
        switch (run.exit_reason) {
        case ExitReason::Lookup:
            if (single) return Next::Stepped;
            link = run.exit_link;
            break;
        case ExitReason::Attention: break;
        case ExitReason::System: {
            const SystemSite& site = *run.exit_site;
            if (single) return Next::System;
            if (site.kind == SiteKind::String) {
                ++run.count_string;
                const StringResult r = run_string(run, site.instruction);
                if (r == StringResult::Done) ctx.rip = site.instruction.rip + site.instruction.info.length;
                else if (r == StringResult::Fault) return Next::Fault;
                else if (r == StringResult::Slow) return Next::System;
                break;
            }
            if (site.kind == SiteKind::Pause) {
                ctx.rip = site.instruction.rip + site.instruction.info.length;
                if (++run.pauses % 32 == 0) return Next::Yield;
                break;
            }
            if (site.kind == SiteKind::System) {
                const Fast fast = fast_system(run, site.instruction);
                if (fast != Fast::No) {
                    after_sti = fast == Fast::Shadow;
                    break;
                }
            }
            return Next::System;
        }
        case ExitReason::Fault: return Next::Fault;
        case ExitReason::Bounce: return Next::Bounce;
        }
    }
}

}  // namespace vezha::engine::dbt
