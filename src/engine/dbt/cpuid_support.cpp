// SPDX-License-Identifier: Apache-2.0
#include <cpuid.h>
#include <immintrin.h>
#include <x86intrin.h>

#include <algorithm>

#include "base/time.h"
#include "engine/dbt/paravirtual.h"
#include "engine/dbt/system_interface.h"

/// What guests of the software engine see: the host's instructions (they run as themselves), less what the engine does
/// not run, plus what it does itself (paging, APIC, time). Source: SDM vol. 2A, CPUID; APM vol. 3, appendix E.
namespace vezha::engine::dbt {

using namespace x86;

namespace {

template <class... Bits>
constexpr u32 bits(Bits... b) {
    return ((u32{1} << b) | ... | 0u);
}

/// Host bits that may show (`pass`) and bits that the engine implements without the host's help (`own`).
struct Filter {
    u32 leaf, subleaf;
    CpuidRegisters pass, own;
};

constexpr Filter kFilters[] = {
    {1, 0,
     // SSE3 PCLMULQDQ SSSE3 FMA CX16 SSE4.1 SSE4.2 MOVBE POPCNT AES XSAVE AVX F16C RDRAND; signature as it is.
     {~0u, ~0u, bits(0, 1, 9, 12, 13, 19, 20, 22, 23, 25, 26, 28, 29, 30),
      // FPU CX8 CMOV CLFLUSH MMX FXSR SSE SSE2
      bits(0, 8, 15, 19, 23, 24, 25, 26)},
     // PCID x2APIC TSC-deadline hypervisor; DE PSE TSC MSR PAE MCE APIC SEP MTRR PGE MCA PAT PSE36
     {0, 0, bits(17, 21, 24, 31), bits(2, 3, 4, 5, 6, 7, 9, 11, 12, 13, 14, 16, 17)}},
    {6, 0, {}, {bits(2), 0, 0, 0}},  // ARAT
    {7, 0,
     // BMI1 AVX2 BMI2 ERMS AVX512F/DQ RDSEED ADX IFMA CLFLUSHOPT CLWB CD SHA BW VL;
     // VBMI VBMI2 GFNI VAES VPCLMUL VNNI BITALG VPOPCNTDQ; FSRM
     {~0u, bits(3, 5, 8, 9, 16, 17, 18, 19, 21, 23, 24, 28, 29, 30, 31), bits(1, 6, 8, 9, 10, 11, 12, 14), bits(4)},
     // FSGSBASE TSC_ADJUST SMEP INVPCID SMAP; UMIP RDPID
     {0, bits(0, 1, 7, 10, 20), bits(2, 22), 0}},
    {7, 1, {bits(4, 5), 0, 0, 0}, {}},  // AVX-VNNI, AVX512-BF16
    {0x8000'0001, 0,
     // LAHF CMP_LEGACY LZCNT SSE4A MISALIGNSSE PREFETCHW XOP FMA4 TBM TOPOEXT; MMXEXT and AMD's copies of leaf 1
     {~0u, ~0u, bits(0, 1, 5, 6, 7, 8, 11, 16, 21, 22), bits(0, 8, 15, 22, 23, 24)},
     // SYSCALL NX 1-GiB pages RDTSCP LM
     {0, 0, 0, bits(11, 20, 26, 27, 29)}},
    {0x8000'0007, 0, {}, {0, 0, 0, bits(8)}},           // invariant TSC
    {0x8000'0008, 0, {0xffff, bits(2), 0, 0}, {}},      // address sizes, XSAVEERPTR
    {0x8000'0021, 0, {bits(2), 0, 0, 0}, {bits(6)}},    // LFENCE serialises; a null selector clears the base
};

bool amd_vendor(const CpuidTable& table) {
    const u32 ebx = table.query(0, 0).ebx;
    return ebx == 0x6874'7541 || ebx == 0x6f67'7948;
}

u64 host_xcr0() {
    u32 a = 0, b = 0, c = 0, d = 0;
    __cpuid(1, a, b, c, d);
    if (!(c >> 27 & 1)) return 3;
    u32 low = 0, high = 0;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low | u64{high} << 32;
}

/// Pairs a TSC value with a time, as closely as a few tries allow.
void sample(u64& tsc, u64& ns) {
    u64 best = ~u64{0};
    for (int i = 0; i < 16; ++i) {
        const u64 before = __rdtsc();
        const u64 now = monotonic_ns();
        const u64 after = __rdtsc();
        if (after - before >= best) continue;
        best = after - before;
        tsc = before + (after - before) / 2;
        ns = now;
    }
}

u64 measure_tsc_hz() {
    u32 a = 0, b = 0, c = 0, d = 0;
    __cpuid(0, a, b, c, d);
    if (a >= 0x15) {
        __cpuid(0x15, a, b, c, d);
        if (a && b && c) return u64{c} * b / a;
    }
    u64 tsc0 = 0, ns0 = 0, tsc1 = 0, ns1 = 0;
    sample(tsc0, ns0);
    do {
        _mm_pause();
    } while (monotonic_ns() - ns0 < 10'000'000);
    sample(tsc1, ns1);
    const u64 hz = static_cast<u64>(static_cast<unsigned __int128>(tsc1 - tsc0) * kNsPerSec / (ns1 - ns0));
    return (hz + 500) / 1000 * 1000;
}

}  // namespace

u64 host_tsc_hz() {
    static const u64 hz = measure_tsc_hz();
    return hz;
}

u64 supported_xcr0() {
    u64 xcr0 = host_xcr0() & 0xe7;
    if ((xcr0 & 0xe0) != 0xe0) xcr0 &= ~u64{0xe0};
    return xcr0;
}

CpuidTable supported_cpuid() {
    const CpuidTable host = host_cpuid();
    const bool amd = amd_vendor(host);
    CpuidTable table = host;
    for (const Filter& f : kFilters) {
        const CpuidLeaf* have = host.find(f.leaf, f.subleaf);
        if (!have && f.own == CpuidRegisters{}) continue;
        CpuidLeaf leaf = have ? *have : CpuidLeaf{f.leaf, f.subleaf, f.leaf == 7, {}};
        CpuidRegisters& r = leaf.value;
        r = {(r.eax & f.pass.eax) | f.own.eax, (r.ebx & f.pass.ebx) | f.own.ebx, (r.ecx & f.pass.ecx) | f.own.ecx,
             (r.edx & f.pass.edx) | f.own.edx};
        table.set(leaf);
    }
    if (amd) {
        // APM vol. 3, E.4.2: the basic bits again.
        table.find(0x8000'0001)->value.edx |= table.find(1)->value.edx & 0x0183'f3ff;
    } else {
        table.erase(0x8000'0021);
        table.find(0x8000'0001)->value.edx &= bits(11, 20, 26, 27, 29);
    }
    // XSAVEOPT, XSAVEC, XGETBV with ECX=1. XSAVES is privileged and would need an emulation of its own.
    if (CpuidLeaf* xsave = table.find(0xd, 1)) xsave->value = {xsave->value.eax & 7, 0, 0, 0};
    const u64 xcr0 = supported_xcr0();
    for (u32 component = 2; component < 63; ++component)
        if (CpuidLeaf* l = table.find(0xd, component); l && !(xcr0 >> component & 1)) l->value = {};
    if (CpuidLeaf* xsave = table.find(0xd, 0)) xsave->value.eax = static_cast<u32>(xcr0);
    for (u32 leaf : {0x3u, 0x5u, 0xau, 0xfu, 0x10u, 0x12u, 0x14u, 0x15u, 0x16u, 0x17u, 0x18u, 0x19u, 0x1au, 0x1bu, 0x1cu,
                     0x1du, 0x1eu, 0x20u, 0x8000'000au, 0x8000'001bu, 0x8000'001cu, 0x8000'001fu, 0x8000'0020u,
                     0x8000'0022u, 0x8000'0023u, 0x8000'0026u})
        table.erase(leaf);
    table.find(0)->value.eax = std::min<u32>(table.find(0)->value.eax, 0x1f);
    if (CpuidLeaf* first = table.find(0x8000'0000))
        first->value.eax = std::clamp<u32>(first->value.eax, 0x8000'0008, amd ? 0x8000'0021 : 0x8000'0008);
    add_paravirtual_cpuid(table);
    return table;
}

void note_cpuid(Context& ctx) {
    ctx.amd = amd_vendor(ctx.cpuid);
    const u32 width = ctx.cpuid.query(0x8000'0008, 0).eax & 0xff;
    ctx.physical_bits = static_cast<u8>(width ? std::clamp<u32>(width, 32, 52) : 36);
}

}  // namespace vezha::engine::dbt
