// SPDX-License-Identifier: Apache-2.0
#include "tests/differential/machine_state.h"

#include <cpuid.h>
#include <fmt/core.h>

#include <cstring>

namespace vezha::differential {

namespace {

constexpr const char* kNames[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                  "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

struct Component {
    unsigned bit;
    u32 offset, size;
    const char* name;
};

u64 load64(const u8* from) {
    u64 value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

/// Where the components lie in the standard format (CPUID leaf 0xd).
Component component(unsigned bit, const char* name) {
    if (bit == 0) return {0, 0, 160, name};  // without instruction pointers, see normalise()
    if (bit == 1) return {1, 160, 256, name};
    u32 a = 0, b = 0, c = 0, d = 0;
    __cpuid_count(0xd, bit, a, b, c, d);
    return {bit, b, a, name};
}

/// Components in their initial state become their initial bytes; what the architecture leaves open is cleared.
x86::XsaveArea normalise(const x86::XsaveArea& in, u64 xcr0) {
    x86::XsaveArea out = in;
    const u64 in_use = load64(&in.bytes[512]);
    for (unsigned bit : {0u, 1u, 2u, 5u, 6u, 7u}) {
        if (!(xcr0 >> bit & 1)) continue;
        const Component c = component(bit, "");
        if (in_use >> bit & 1) continue;
        const u32 mxcsr = static_cast<u32>(load64(&in.bytes[24]));
        std::memset(&out.bytes[c.offset], 0, c.size);
        if (bit == 0) {
            const u16 control = 0x37f;
            std::memcpy(&out.bytes[0], &control, 2);
        }
        std::memcpy(&out.bytes[24], &mxcsr, 4);
    }
    std::memset(&out.bytes[6], 0, 18);  // FOP, FIP, FDP
    std::memset(&out.bytes[28], 0, 4);  // MXCSR_MASK
    for (unsigned i = 0; i < 8; ++i) std::memset(&out.bytes[32 + 16 * i + 10], 0, 6);
    return out;
}

}  // namespace

std::string compare(const Case& test, const Outcome& native, const Outcome& engine, u64 xcr0) {
    std::string out;
    // Of several faults at once the engine may see another first: an absent page or a non-canonical stack address
    // before misalignment, an absent page before an instruction that the guest's model lacks.
    if (native.vector == 13 && (engine.vector == 14 || engine.vector == 12)) return out;
    if (native.vector == 6 && engine.vector == 14) return out;
    if (native.vector != engine.vector) out += fmt::format("  exception: native {}, engine {}\n", native.vector, engine.vector);
    if (native.vector == 14 && engine.vector == 14) {
        if (native.fault_address != engine.fault_address)
            out += fmt::format("  fault address: native {:#x}, engine {:#x}\n", native.fault_address, engine.fault_address);
        if (native.error_code != engine.error_code)
            out += fmt::format("  error code: native {:#x}, engine {:#x}\n", native.error_code, engine.error_code);
    }
    if (native.vector >= 0 && native.state.rip != engine.state.rip)
        out += fmt::format("  rip: native {:#x}, engine {:#x}\n", native.state.rip, engine.state.rip);
    for (unsigned i = 0; i < 16; ++i)
        if (native.state.gpr[i] != engine.state.gpr[i])
            out += fmt::format("  {}: native {:#x}, engine {:#x}\n", kNames[i], native.state.gpr[i], engine.state.gpr[i]);
    // In the frame of a fault the engine may show the arithmetic flags that the faulting instruction (or what follows
    // it) would have overwritten already overwritten: see docs/engine-dbt.md.
    constexpr u64 kDirection = 0x400;
    const u64 compared = native.vector < 0 ? kComparedFlags & ~test.undefined_flags : kDirection;
    if ((native.state.flags ^ engine.state.flags) & compared)
        out += fmt::format("  flags: native {:#x}, engine {:#x}\n", native.state.flags & kComparedFlags,
                           engine.state.flags & kComparedFlags);
    const x86::XsaveArea a = normalise(native.state.xsave, xcr0), b = normalise(engine.state.xsave, xcr0);
    constexpr std::pair<unsigned, const char*> kComponents[] = {{0, "x87"},     {1, "xmm"},        {2, "ymm high"},
                                                                {5, "opmask"}, {6, "zmm high"}, {7, "zmm16-31"}};
    for (auto [bit, label] : kComponents) {
        if (!(xcr0 >> bit & 1)) continue;
        const Component c = component(bit, label);
        for (u32 i = c.offset; i < c.offset + c.size; ++i)
            if (a.bytes[i] != b.bytes[i]) {
                out += fmt::format("  {} at +{:#x}: native {:016x}, engine {:016x}\n", label, (i & ~7u) - c.offset,
                                   load64(&a.bytes[i & ~7u]), load64(&b.bytes[i & ~7u]));
                break;
            }
    }
    for (usize i = 0; i < kDataSize; ++i)
        if (native.state.data[i] != engine.state.data[i]) {
            out += fmt::format("  memory at {:#x}: native {:02x}, engine {:02x}\n", kData + i, native.state.data[i],
                               engine.state.data[i]);
            break;
        }
    return out;
}

}  // namespace vezha::differential
