// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/thunks.h"

namespace vezha::engine::dbt {

namespace {
constexpr int kCalleeSaved[] = {3, 5, 12, 13, 14, 15};

void push(Assembler& a, int r) {
    a.rex(false, 0, r, -1);
    a.byte(0x50 | (static_cast<unsigned>(r) & 7));
}
void pop(Assembler& a, int r) {
    a.rex(false, 0, r, -1);
    a.byte(0x58 | (static_cast<unsigned>(r) & 7));
}
/// All registers but the spilled pair to Context; then the host's stack and flags.
void to_host(Assembler& a) {
    for (int r = 0; r < 16; ++r)
        if (r != kScratch1 && r != kScratch2) a.gs_store(r, at::gpr(r));
    a.gs_load(4, at::kHostRsp);
    a.byte(0x9c);  // pushfq
    pop(a, 0);
    a.gs_store(0, at::kHostFlags);
    a.byte(0xfc);  // cld
}
void to_guest(Assembler& a) {
    a.gs_op(Assembler::k32, 0xff, 6, at::kHostFlags);  // push qword gs:[]
    a.byte(0x9d);                                      // popfq
    for (int r = 0; r < 16; ++r)
        if (r != kScratch1 && r != kScratch2) a.gs_load(r, at::gpr(r));
    a.gs_jump(at::kHostTarget);
}
void go_back(Assembler& a) {
    for (int i = 5; i >= 0; --i) pop(a, kCalleeSaved[i]);
    a.byte(0xc3);
}
const u8* helper(Assembler& a, u64 (*function)(GuestRun*)) {
    a.align(16);
    const u8* start = a.at();
    to_host(a);
    // rdgsbase rdi: the GuestRun
    a.bytes(reinterpret_cast<const u8*>("\xf3\x48\x0f\xae\xcf"), 5);
    a.op_memory(Assembler::k64, 0x8d, 4, 4, -1, 1, -8);  // keep the stack 16-byte aligned at the call
    a.move_immediate(0, reinterpret_cast<u64>(function));
    a.byte(0xff);
    a.byte(0xd0);
    a.op_memory(Assembler::k64, 0x8d, 4, 4, -1, 1, 8);
    a.gs_store(0, at::kHostTarget);
    a.op_registers(Assembler::k64, 0x85, 0, 0);  // test rax, rax
    u8* out = a.jcc_forward(4);
    to_guest(a);
    a.bind(out);
    go_back(a);
    return start;
}
}  // namespace

Thunks Thunks::emit(CodeCache& cache) {
    Thunks thunks;
    Assembler a(cache.at());
    a.align(16);
    thunks.enter = reinterpret_cast<void (*)(const u8*)>(a.at());
    for (const int r : kCalleeSaved) push(a, r);
    a.gs_store(4, at::kHostRsp);
    a.gs_store(7, at::kHostTarget);
    to_guest(a);

    a.align(16);
    thunks.leave = a.at();
    to_host(a);
    go_back(a);

    a.align(16);
    thunks.leave_signal = a.at();
    a.gs_load(4, at::kHostRsp);
    a.byte(0xfc);
    go_back(a);

    thunks.tlb_miss = helper(a, dbt::tlb_miss);
    thunks.bounce_prepare = helper(a, dbt::bounce_prepare);
    thunks.bounce_commit = helper(a, dbt::bounce_commit);

    a.align(16);
    thunks.jump_miss = a.at();
    a.gs_store(kScratch1, at::kRip);
    a.gs_store_immediate32(at::kExitReason, static_cast<u32>(ExitReason::Lookup));
    a.gs_store_immediate32(at::kExitLink, 0);
    a.jump(thunks.leave);

    a.align(64);
    cache.seal_thunks(a.at());
    return thunks;
}

}  // namespace vezha::engine::dbt
