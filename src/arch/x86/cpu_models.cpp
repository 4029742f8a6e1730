// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "arch/x86/cpuid.h"
#include "arch/x86/registers.h"

/// The named processors. `host` is what the engine can run, less what we cannot save or do not model; the others follow
/// the micro-architecture levels of the x86-64 psABI (table 3.1), so that a VM can move between hosts of one level.
namespace vezha::x86 {

namespace {

enum class Reg : u8 { Eax, Ebx, Ecx, Edx };

u32& at(CpuidRegisters& r, Reg reg) {
    switch (reg) {
        case Reg::Eax: return r.eax;
        case Reg::Ebx: return r.ebx;
        case Reg::Ecx: return r.ecx;
        default: return r.edx;
    }
}

/// Demanded by a level from this number on, or taken where the engine has it (optional), from that level on.
enum class Need : u8 { Required, Optional };

struct Feature {
    const char* name;
    u32 leaf;
    Reg reg;
    u8 bit;
    u8 level;
    Need need;
};

constexpr auto R = Need::Required;
constexpr auto O = Need::Optional;

// Everything a named model may show; what is not here is hidden. psABI, table 3.1, and what operating systems need.
constexpr Feature kFeatures[] = {
    {"fpu", 1, Reg::Edx, 0, 1, R},        {"vme", 1, Reg::Edx, 1, 1, O},         {"de", 1, Reg::Edx, 2, 1, O},
    {"pse", 1, Reg::Edx, 3, 1, O},        {"tsc", 1, Reg::Edx, 4, 1, R},         {"msr", 1, Reg::Edx, 5, 1, R},
    {"pae", 1, Reg::Edx, 6, 1, R},        {"mce", 1, Reg::Edx, 7, 1, O},         {"cx8", 1, Reg::Edx, 8, 1, R},
    {"apic", 1, Reg::Edx, 9, 1, R},       {"sep", 1, Reg::Edx, 11, 1, O},        {"mtrr", 1, Reg::Edx, 12, 1, O},
    {"pge", 1, Reg::Edx, 13, 1, O},       {"mca", 1, Reg::Edx, 14, 1, O},        {"cmov", 1, Reg::Edx, 15, 1, R},
    {"pat", 1, Reg::Edx, 16, 1, O},       {"pse36", 1, Reg::Edx, 17, 1, O},      {"clflush", 1, Reg::Edx, 19, 1, O},
    {"mmx", 1, Reg::Edx, 23, 1, R},       {"fxsr", 1, Reg::Edx, 24, 1, R},       {"sse", 1, Reg::Edx, 25, 1, R},
    {"sse2", 1, Reg::Edx, 26, 1, R},      {"sse3", 1, Reg::Ecx, 0, 2, R},        {"ssse3", 1, Reg::Ecx, 9, 2, R},
    {"cx16", 1, Reg::Ecx, 13, 2, R},      {"sse4_1", 1, Reg::Ecx, 19, 2, R},     {"sse4_2", 1, Reg::Ecx, 20, 2, R},
    {"popcnt", 1, Reg::Ecx, 23, 2, R},    {"pcid", 1, Reg::Ecx, 17, 3, O},       {"x2apic", 1, Reg::Ecx, 21, 1, O},
    {"movbe", 1, Reg::Ecx, 22, 3, R},     {"tsc_deadline", 1, Reg::Ecx, 24, 1, O},
    {"xsave", 1, Reg::Ecx, 26, 3, R},     {"fma", 1, Reg::Ecx, 12, 3, R},        {"avx", 1, Reg::Ecx, 28, 3, R},
    {"f16c", 1, Reg::Ecx, 29, 3, R},      {"rdrand", 1, Reg::Ecx, 30, 3, O},     {"hypervisor", 1, Reg::Ecx, 31, 1, O},
    {"arat", 6, Reg::Eax, 2, 1, O},       {"fsgsbase", 7, Reg::Ebx, 0, 3, O},    {"tsc_adjust", 7, Reg::Ebx, 1, 1, O},
    {"bmi1", 7, Reg::Ebx, 3, 3, R},       {"avx2", 7, Reg::Ebx, 5, 3, R},        {"smep", 7, Reg::Ebx, 7, 3, O},
    {"bmi2", 7, Reg::Ebx, 8, 3, R},       {"erms", 7, Reg::Ebx, 9, 3, O},        {"invpcid", 7, Reg::Ebx, 10, 3, O},
    {"smap", 7, Reg::Ebx, 20, 3, O},      {"avx512f", 7, Reg::Ebx, 16, 4, R},    {"avx512dq", 7, Reg::Ebx, 17, 4, R},
    {"avx512cd", 7, Reg::Ebx, 28, 4, R},  {"avx512bw", 7, Reg::Ebx, 30, 4, R},   {"avx512vl", 7, Reg::Ebx, 31, 4, R},
    {"syscall", 0x8000'0001, Reg::Edx, 11, 1, R},  {"nx", 0x8000'0001, Reg::Edx, 20, 1, R},
    {"pdpe1gb", 0x8000'0001, Reg::Edx, 26, 3, O},  {"rdtscp", 0x8000'0001, Reg::Edx, 27, 2, O},
    {"lm", 0x8000'0001, Reg::Edx, 29, 1, R},       {"lahf_lm", 0x8000'0001, Reg::Ecx, 0, 2, R},
    {"cr8_legacy", 0x8000'0001, Reg::Ecx, 4, 1, O},
    {"lzcnt", 0x8000'0001, Reg::Ecx, 5, 3, R},     {"topoext", 0x8000'0001, Reg::Ecx, 22, 1, O},
    {"invariant_tsc", 0x8000'0007, Reg::Edx, 8, 1, O},
};

struct NamedModel {
    const char* name;
    u8 level;  ///< 0: host
};
constexpr NamedModel kModels[] = {{"host", 0}, {"x86-64-v2", 2}, {"x86-64-v3", 3}, {"x86-64-v4", 4}};

constexpr u64 kXcr0Avx = 1 << 2, kXcr0Avx512 = 7 << 5, kXcr0Pkru = 1 << 9;
/// Components that CpuState::xsave can carry: x87, SSE, AVX, AVX-512, PKRU. Not AMX (8 KiB) or MPX (gone).
constexpr u64 kSavableXcr0 = 3 | kXcr0Avx | kXcr0Avx512 | kXcr0Pkru;

void clear(CpuidTable& table, u32 leaf, u32 subleaf, CpuidRegisters bits) {
    if (CpuidLeaf* l = table.find(leaf, subleaf)) {
        l->value.eax &= ~bits.eax;
        l->value.ebx &= ~bits.ebx;
        l->value.ecx &= ~bits.ecx;
        l->value.edx &= ~bits.edx;
    }
}

template <class... Bits>
constexpr u32 bits(Bits... b) {
    return ((u32{1} << b) | ... | 0u);
}

/// Hides what has state that we do not save, or that needs host facilities that a guest does not get: nested
/// virtualization, performance counters, debug store, SGX, TSX, PT, AMX, CET, MONITOR, resource control.
void hide_unsavable(CpuidTable& table) {
    // 1: DTES64 MONITOR DS-CPL VMX SMX EST TM2 SDBG PDCM DCA, OSXSAVE (the engine's); DS ACPI TM PBE
    clear(table, 1, 0, {0, 0, bits(2, 3, 4, 5, 6, 7, 8, 11, 15, 18, 27), bits(21, 22, 29, 31)});
    // 7.0: SGX HLE RTM PQM MPX PQE PT; OSPKE WAITPKG CET_SS TME KL ENQCMD SGX_LC PKS bus lock;
    //      UINTR HYBRID PCONFIG LBR CET_IBT AMX CORE_CAPABILITIES
    clear(table, 7, 0, {0, bits(2, 4, 11, 12, 14, 15, 25), bits(4, 5, 7, 13, 23, 24, 29, 30, 31),
                        bits(5, 15, 18, 19, 20, 22, 24, 25, 30)});
    // 7.1: LASS FRED LKGS AMX-FP16 HRESET LAM; AMX-COMPLEX UIRET CET_SSS AVX10
    clear(table, 7, 1, {bits(6, 17, 18, 21, 22, 26), 0xffff'ffff, 0xffff'ffff, bits(8, 15, 17, 18, 19)});
    // 80000001: SVM OSVW IBS SKINIT WDT LWP NODEID PERFCTR_* BPEXT PERFTSC MWAITX
    clear(table, 0x8000'0001, 0, {0, 0, bits(2, 9, 10, 12, 13, 15, 19, 23, 24, 26, 27, 28, 29), 0});
    // KVM leaf: asynchronous page faults and migration control (state beyond CpuState).
    clear(table, 0x4000'0001, 0, {bits(4, 10, 14, 17), 0, 0, 0});
    for (u32 leaf : {0x2u, 0x3u, 0x5u, 0xau, 0xfu, 0x10u, 0x12u, 0x14u, 0x15u, 0x16u, 0x17u, 0x18u, 0x19u, 0x1au, 0x1bu,
                     0x1cu, 0x1du, 0x1eu, 0x20u, 0x21u, 0x22u, 0x23u, 0x24u, 0x8000'000au, 0x8000'001bu, 0x8000'001cu,
                     0x8000'001fu, 0x8000'0020u, 0x8000'0022u, 0x8000'0023u, 0x8000'0025u, 0x8000'0026u})
        table.erase(leaf);
    if (CpuidLeaf* six = table.find(6)) six->value = {six->value.eax & bits(2), 0, 0, 0};  // ARAT
    if (CpuidLeaf* first = table.find(0)) first->value.eax = std::min<u32>(first->value.eax, 0x1f);
    if (CpuidLeaf* first = table.find(0x8000'0000)) first->value.eax = std::min<u32>(first->value.eax, 0x8000'0021);
}

/// Removes the instructions whose registers XCR0 cannot enable.
void follow_xcr0(CpuidTable& table, u64 xcr0) {
    if (!(xcr0 & kXcr0Avx)) {
        clear(table, 1, 0, {0, 0, bits(12, 28, 29), 0});  // FMA AVX F16C
        clear(table, 7, 0, {0, bits(5), bits(9, 10), 0});  // AVX2, VAES, VPCLMULQDQ
        clear(table, 7, 1, {bits(0, 1, 2, 4, 23), 0, 0, bits(4, 5, 10)});
        clear(table, 0x8000'0001, 0, {0, 0, bits(11, 16), 0});  // XOP FMA4
    }
    if ((xcr0 & kXcr0Avx512) != kXcr0Avx512) {
        clear(table, 7, 0, {0, bits(16, 17, 21, 26, 27, 28, 30, 31), bits(1, 6, 11, 12, 14), bits(2, 3, 8, 23)});
        clear(table, 7, 1, {bits(5), 0, 0, 0});
    }
    if (!(xcr0 & kXcr0Pkru)) clear(table, 7, 0, {0, 0, bits(3, 4), 0});
}

/// Leaf 0DH for the components in `xcr0`, at the places where the host's XSAVE has them.
void fill_xsave_leaf(CpuidTable& table, const CpuidTable& supported, u64 xcr0, bool compacted) {
    table.erase(0xd);
    const CpuidLeaf* one = table.find(1);
    if (!one || !(one->value.ecx & bits(26)) || !supported.find(0xd, 0)) return;
    u32 size = 512 + 64;
    for (u32 component = 2; component < 63; ++component) {
        if (!(xcr0 >> component & 1)) continue;
        if (const CpuidLeaf* l = supported.find(0xd, component)) {
            table.set({0xd, component, true, l->value});
            size = std::max(size, l->value.ebx + l->value.eax);
        }
    }
    // EBX is the size for the XCR0 now in force; the engine keeps it up to date. At reset XCR0 is 1.
    table.set({0xd, 0, true, {static_cast<u32>(xcr0), 512 + 64, size, static_cast<u32>(xcr0 >> 32)}});
    if (const CpuidLeaf* l = supported.find(0xd, 1)) {
        CpuidRegisters r{l->value.eax & (compacted ? 15u : 7u), 0, 0, 0};
        if (r.eax & (1 << 3)) r.ebx = l->value.ebx;
        table.set({0xd, 1, true, r});
    }
}

void set_brand(CpuidTable& table, std::string_view brand) {
    char text[48] = {};
    std::memcpy(text, brand.data(), std::min<usize>(brand.size(), sizeof text - 1));
    for (u32 i = 0; i < 3; ++i) {
        CpuidRegisters r;
        std::memcpy(&r, text + 16 * i, sizeof r);
        table.set({0x8000'0002 + i, 0, false, r});
    }
}

struct Cache {
    u32 type, level, size, ways;
};
/// A plain, middling hierarchy: guests size buffers by it.
constexpr Cache kCaches[] = {{1, 1, 32 * kKiB, 8}, {2, 1, 32 * kKiB, 8}, {3, 2, 512 * kKiB, 8}, {3, 3, 16 * kMiB, 16}};

CpuidTable named_table(const NamedModel& model, const CpuidTable& supported, bool amd) {
    CpuidTable table;
    CpuidRegisters vendor = supported.query(0, 0);
    vendor.eax = model.level >= 3 ? 0xd : 0xb;
    table.set({0, 0, false, vendor});
    // One fixed signature per vendor, new enough that systems expect these features: Zen 2 or Skylake server.
    table.set({1, 0, false, {amd ? 0x0083'0f10u : 0x0005'0654u, 8u << 8, 0, 0}});
    table.set({6, 0, false, {}});
    table.set({7, 0, true, {}});
    table.set({0xb, 0, true, {}});
    table.set({0x8000'0000, 0, false, {amd ? 0x8000'001eu : 0x8000'0008u, vendor.ebx, vendor.ecx, vendor.edx}});
    table.set({0x8000'0001, 0, false, {}});
    set_brand(table, fmt::format("Vezha {} processor", model.name));
    table.set({0x8000'0007, 0, false, {}});
    const CpuidRegisters sizes = supported.query(0x8000'0008, 0);
    table.set({0x8000'0008, 0, false, {sizes.eax ? sizes.eax : 0x3028, 0, 0, 0}});
    u32 subleaf = 0;
    for (const Cache& c : kCaches) {
        const u32 sets = c.size / 64 / c.ways;
        const CpuidRegisters r{c.type | c.level << 5 | 1 << 8, (c.ways - 1) << 22 | 63, sets - 1, c.level == 3 ? 4u : 0u};
        table.set({amd ? 0x8000'001d : 4u, subleaf++, true, r});
    }
    if (amd) {
        table.set({0x8000'0005, 0, false, {0, 0, 32u << 24 | 8u << 16 | 1 << 8 | 64, 32u << 24 | 8u << 16 | 1 << 8 | 64}});
        table.set({0x8000'0006, 0, false, {0, 0, 512u << 16 | 6u << 12 | 1 << 8 | 64, 32u << 18 | 8u << 12 | 1 << 8 | 64}});
    } else {
        table.set({0x8000'0006, 0, false, {0, 0, 512u << 16 | 6u << 12 | 64, 0}});
    }
    for (u32 leaf : {0x4000'0000u, 0x4000'0001u})
        if (const CpuidLeaf* l = supported.find(leaf)) table.set(*l);
    clear(table, 0x4000'0001, 0, {bits(4, 10, 14, 17), 0, 0, 0});
    return table;
}

/// Names of features that `level` demands and `supported` (already limited to its XCR0) lacks.
std::vector<std::string_view> missing_features(u8 level, const CpuidTable& supported) {
    std::vector<std::string_view> missing;
    for (const Feature& f : kFeatures) {
        if (f.need != Need::Required || f.level > level) continue;
        CpuidRegisters r = supported.query(f.leaf, 0);
        if (!(at(r, f.reg) >> f.bit & 1)) missing.push_back(f.name);
    }
    return missing;
}

/// MSRs that a guest of this CPUID can set and that CpuState does not keep in a field of its own.
std::vector<u32> saved_msrs(const CpuidTable& table) {
    std::vector<u32> msrs = {msr::kSysenterCs, msr::kSysenterEsp, msr::kSysenterEip, msr::kStar, msr::kLstar, msr::kCstar,
                             msr::kSfmask, msr::kKernelGsBase, msr::kMiscEnable};
    auto has = [&table](u32 leaf, u32 subleaf, Reg reg, u32 bit) {
        CpuidRegisters r = table.query(leaf, subleaf);
        return (at(r, reg) >> bit & 1) != 0;
    };
    if (has(1, 0, Reg::Edx, 16)) msrs.push_back(msr::kPat);
    if (has(1, 0, Reg::Edx, 12)) {
        msrs.push_back(msr::kMtrrDefType);
        for (u32 i = 0; i < 16; ++i) msrs.push_back(msr::kMtrrPhysBase0 + i);
        msrs.push_back(msr::kMtrrFix64k);
        msrs.push_back(msr::kMtrrFix16k80000);
        msrs.push_back(msr::kMtrrFix16kA0000);
        for (u32 i = 0; i < 8; ++i) msrs.push_back(msr::kMtrrFix4kC0000 + i);
    }
    if (has(1, 0, Reg::Edx, 14)) msrs.push_back(msr::kMcgStatus);
    if (has(7, 0, Reg::Ebx, 1)) msrs.push_back(msr::kTscAdjust);
    if (has(0x8000'0001, 0, Reg::Edx, 27) || has(7, 0, Reg::Ecx, 22)) msrs.push_back(msr::kTscAux);
    if (has(7, 0, Reg::Edx, 26) || has(7, 0, Reg::Edx, 31) || has(0x8000'0008, 0, Reg::Ebx, 14) ||
        has(0x8000'0008, 0, Reg::Ebx, 24))
        msrs.push_back(msr::kSpecCtrl);
    if (has(7, 0, Reg::Edx, 29)) msrs.push_back(msr::kArchCapabilities);
    if (has(0xd, 1, Reg::Eax, 3)) msrs.push_back(msr::kXss);
    if (table.find(0x4000'0001)) {
        if (has(0x4000'0001, 0, Reg::Eax, 3)) {
            msrs.push_back(msr::kKvmWallClock);
            msrs.push_back(msr::kKvmSystemTime);
        }
        if (has(0x4000'0001, 0, Reg::Eax, 5)) msrs.push_back(msr::kKvmStealTime);
        if (has(0x4000'0001, 0, Reg::Eax, 6)) msrs.push_back(msr::kKvmPvEoi);
        if (has(0x4000'0001, 0, Reg::Eax, 12)) msrs.push_back(msr::kKvmPollControl);
    }
    return msrs;
}

}  // namespace

Result<CpuModel> make_cpu_model(std::string_view name, const CpuidTable& supported, u64 supported_xcr0, u64 tsc_hz,
                                u32 vcpus) {
    const auto* found = std::find_if(std::begin(kModels), std::end(kModels),
                                     [name](const NamedModel& m) { return name == m.name; });
    if (found == std::end(kModels)) {
        std::string known;
        for (const NamedModel& m : kModels) known += fmt::format("{}{}", known.empty() ? "" : ", ", m.name);
        return Result<CpuModel>(fail(ErrorCode::NotFound, "there is no CPU model '{}'", name)).hint("known models: " + known);
    }
    if (vcpus == 0) return fail(ErrorCode::InvalidArgument, "a machine needs at least one vCPU");

    CpuModel model;
    model.name = found->name;
    model.tsc_hz = tsc_hz;
    model.vcpus = vcpus;
    model.xcr0 = supported_xcr0 & kSavableXcr0;
    if ((model.xcr0 & kXcr0Avx512) != kXcr0Avx512) model.xcr0 &= ~kXcr0Avx512;

    CpuidTable usable = supported;
    hide_unsavable(usable);
    follow_xcr0(usable, model.xcr0);
    if (found->level == 0) {
        model.cpuid = usable;
        fill_xsave_leaf(model.cpuid, supported, model.xcr0, /*compacted=*/true);
    } else {
        const std::vector<std::string_view> missing = missing_features(found->level, usable);
        if (!missing.empty()) {
            std::string best = "host";
            for (const NamedModel& m : kModels)
                if (m.level && missing_features(m.level, usable).empty()) best = m.name;
            return Result<CpuModel>(fail(ErrorCode::Unsupported, "CPU model {} needs {}, which this host or engine lacks", name,
                                         fmt::join(missing, ", ")))
                .hint("choose --cpu " + best);
        }
        const CpuidRegisters vendor = supported.query(0, 0);
        model.cpuid = named_table(*found, supported, vendor.ebx == 0x6874'7541 || vendor.ebx == 0x6f67'7948);
        for (const Feature& f : kFeatures) {
            CpuidRegisters have = usable.query(f.leaf, 0);
            CpuidLeaf* l = model.cpuid.find(f.leaf);
            if (l && f.level <= found->level && at(have, f.reg) >> f.bit & 1) at(l->value, f.reg) |= 1u << f.bit;
        }
        // AMD repeats the basic feature bits in 80000001 (APM vol. 3, E.4.2).
        if (vendor.ebx != 0x756e'6547)
            model.cpuid.find(0x8000'0001)->value.edx |= model.cpuid.find(1)->value.edx & 0x0183'f3ff;
        model.xcr0 &= 3 | (found->level >= 3 ? kXcr0Avx : 0) | (found->level >= 4 ? kXcr0Avx512 : 0);
        fill_xsave_leaf(model.cpuid, supported, model.xcr0, /*compacted=*/false);
    }
    // Every guest of ours runs under a hypervisor and may say so.
    if (CpuidLeaf* one = model.cpuid.find(1)) one->value.ecx |= bits(31);
    model.msrs = saved_msrs(model.cpuid);
    return model;
}

}  // namespace vezha::x86
