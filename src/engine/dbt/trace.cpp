// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/trace.h"

#include <Zydis/Zydis.h>

#include <cstdio>
#include <cstdlib>

namespace vezha::engine::dbt {

int trace_enabled() {
    static const int level = [] {
        const char* value = std::getenv("VEZHA_DBT_TRACE");
        return value ? std::atoi(value) : 0;
    }();
    return level;
}

std::string disassemble(const u8* from, const u8* to, u64 rip, unsigned bits) {
    const auto mode = bits == 64 ? ZYDIS_MACHINE_MODE_LONG_64 : bits == 32 ? ZYDIS_MACHINE_MODE_LEGACY_32 : ZYDIS_MACHINE_MODE_LEGACY_16;
    std::string out;
    while (from < to) {
        ZydisDisassembledInstruction d;
        if (!ZYAN_SUCCESS(ZydisDisassembleIntel(mode, rip, from, static_cast<usize>(to - from), &d))) {
            out += fmt::format("  {:x}: .byte {:#x}\n", rip, *from);
            ++from, ++rip;
            continue;
        }
        out += fmt::format("  {:x}: {}\n", rip, d.text);
        from += d.info.length;
        rip += d.info.length;
    }
    return out;
}

void trace_block(const Block& block, std::span<const u8> guest) {
    const u64 code = block.mode & key::kCodeMask;
    const unsigned bits = code == key::kCode64 ? 64 : code == key::kCode32 ? 32 : 16;
    std::string text = fmt::format("block {:x} gpa {:x} mode {:x} host {:p}\n", block.rip, block.gpa, block.mode,
                                   static_cast<const void*>(block.entry));
    const usize size = std::min<usize>(block.guest_size, guest.size());
    text += disassemble(guest.data(), guest.data() + size, block.rip, bits);
    if (trace_enabled() > 1) text += "--\n" + disassemble(block.entry, block.end, reinterpret_cast<u64>(block.entry), 64);
    std::fputs(text.c_str(), stderr);
}

}  // namespace vezha::engine::dbt
