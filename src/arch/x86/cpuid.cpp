// SPDX-License-Identifier: Apache-2.0
#include "arch/x86/cpuid.h"

#include <cpuid.h>

#include <algorithm>
#include <bit>

namespace vezha::x86 {

namespace {

constexpr u32 kExtended = 0x8000'0000;
constexpr u32 kHypervisor = 0x4000'0000;
constexpr u32 kVendorAmdEbx = 0x6874'7541, kVendorHygonEbx = 0x6f67'7948;  // "Auth", "Hygo"

auto order(const CpuidLeaf& leaf) { return std::pair(leaf.leaf, leaf.subleaf); }

CpuidRegisters execute_cpuid(u32 leaf, u32 subleaf) {
    CpuidRegisters r;
    __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
    return r;
}

/// How many subleaves to ask for, or 0 for a leaf that does not look at ECX. SDM vol. 2A, table 3-17.
u32 subleaf_count(u32 leaf, const CpuidRegisters& first) {
    switch (leaf) {
        case 4: case 0xb: case 0x1f: case 0x8000'001d: case 0x8000'0026: return 16;
        case 7: case 0x14: case 0x17: case 0x18: case 0x1d: case 0x20: return std::min<u32>(first.eax, 31) + 1;
        case 0xd: return 64;
        case 0xf: case 0x10: case 0x12: case 0x8000'0020: return 8;
        default: return 0;
    }
}

/// True for the subleaf that ends an enumeration.
bool ends_enumeration(u32 leaf, const CpuidRegisters& r) {
    if (leaf == 4 || leaf == 0x8000'001d) return (r.eax & 31) == 0;
    if (leaf == 0xb || leaf == 0x1f || leaf == 0x8000'0026) return (r.ecx & 0xff00) == 0;
    return false;
}

void add_range(CpuidTable& table, u32 first, u32 last) {
    for (u32 leaf = first; leaf <= last; ++leaf) {
        const CpuidRegisters zero = execute_cpuid(leaf, 0);
        const u32 count = subleaf_count(leaf, zero);
        if (count == 0) {
            table.set({leaf, 0, false, zero});
            continue;
        }
        for (u32 subleaf = 0; subleaf < count; ++subleaf) {
            const CpuidRegisters r = execute_cpuid(leaf, subleaf);
            if (ends_enumeration(leaf, r)) break;
            if (subleaf > 0 && r == CpuidRegisters{}) continue;
            table.set({leaf, subleaf, true, r});
        }
    }
}

bool is_amd(const CpuidTable& table) {
    const CpuidLeaf* vendor = table.find(0);
    return vendor && (vendor->value.ebx == kVendorAmdEbx || vendor->value.ebx == kVendorHygonEbx);
}

}  // namespace

void CpuidTable::set(const CpuidLeaf& leaf) {
    auto at = std::lower_bound(leaves_.begin(), leaves_.end(), leaf,
                               [](const CpuidLeaf& a, const CpuidLeaf& b) { return order(a) < order(b); });
    if (at != leaves_.end() && order(*at) == order(leaf)) *at = leaf;
    else leaves_.insert(at, leaf);
}

void CpuidTable::erase(u32 leaf) {
    std::erase_if(leaves_, [leaf](const CpuidLeaf& l) { return l.leaf == leaf; });
}

const CpuidLeaf* CpuidTable::find(u32 leaf, u32 subleaf) const {
    auto at = std::lower_bound(leaves_.begin(), leaves_.end(), leaf,
                               [](const CpuidLeaf& l, u32 number) { return l.leaf < number; });
    for (; at != leaves_.end() && at->leaf == leaf; ++at)
        if (!at->has_subleaves || at->subleaf == subleaf) return &*at;
    return nullptr;
}

CpuidLeaf* CpuidTable::find(u32 leaf, u32 subleaf) {
    return const_cast<CpuidLeaf*>(std::as_const(*this).find(leaf, subleaf));
}

CpuidRegisters CpuidTable::query(u32 leaf, u32 subleaf) const {
    if (const CpuidLeaf* entry = find(leaf, subleaf)) return entry->value;
    // Topology leaves keep ECX[7:0] and EDX beyond their last level (SDM vol. 2A, CPUID, leaf 0BH).
    if (leaf == 0xb || leaf == 0x1f)
        if (const CpuidLeaf* first = find(leaf, 0)) return {0, 0, subleaf & 0xff, first->value.edx};
    const bool basic = leaf < kHypervisor;
    const u32 range = basic ? 0 : leaf & 0xc000'0000;
    const CpuidLeaf* first = find(range);
    const u32 maximum = first ? first->value.eax : range;
    if (leaf <= maximum) return {};
    // Intel answers beyond the end with the highest basic leaf, AMD with zeroes (APM vol. 3, E.1). The hypervisor
    // range is nobody's unless it was announced.
    if (is_amd(*this) || range == kHypervisor) return {};
    const CpuidLeaf* basic_first = find(0);
    if (!basic_first || basic_first->value.eax == leaf) return {};
    const CpuidLeaf* highest = find(basic_first->value.eax, subleaf);
    return highest ? highest->value : CpuidRegisters{};
}

CpuidTable host_cpuid() {
    CpuidTable table;
    add_range(table, 0, std::min<u32>(execute_cpuid(0, 0).eax, 0xff));
    const u32 last = execute_cpuid(kExtended, 0).eax;
    if (last >= kExtended) add_range(table, kExtended, std::min<u32>(last, kExtended + 0xff));
    return table;
}

CpuidTable CpuModel::for_vcpu(u32 apic_id) const {
    CpuidTable table = cpuid;
    const u32 count = std::max<u32>(vcpus, 1);
    // Every vCPU is a core of one package, one thread each. APIC IDs are the vCPU indices.
    const u32 id_bits = static_cast<u32>(std::bit_width(count - 1));
    const u32 ids = u32{1} << id_bits;
    const bool amd = is_amd(table);

    if (CpuidLeaf* one = table.find(1)) {
        CpuidRegisters& r = one->value;
        // The 8-bit fields saturate; software with more processors uses leaf 0BH.
        r.ebx = (r.ebx & 0xffff) | (std::min<u32>(ids, 255) << 16) | (std::min<u32>(apic_id, 255) << 24);
        constexpr u32 kHtt = 1u << 28;
        r.edx = count > 1 ? r.edx | kHtt : r.edx & ~kHtt;
    }
    // Cache leaves: EAX[25:14] logical processors sharing the cache, less one; leaf 4 EAX[31:26] core IDs, less one.
    for (u32 leaf : {u32{4}, u32{0x8000'001d}})
        for (u32 subleaf = 0; CpuidLeaf* cache = table.find(leaf, subleaf); ++subleaf) {
            const u32 level = (cache->value.eax >> 5) & 7;
            const u32 sharing = level >= 3 ? std::min<u32>(ids, 4096) - 1 : 0;
            cache->value.eax = (cache->value.eax & 0x3fff) | (sharing << 14);
            if (leaf == 4) cache->value.eax |= (std::min<u32>(ids, 64) - 1) << 26;
        }
    const u32 highest = table.query(0, 0).eax;
    for (u32 leaf : {u32{0xb}, u32{0x1f}}) {
        table.erase(leaf);
        if (highest < leaf) continue;
        table.set({leaf, 0, true, {0, 1, 0x100, apic_id}});                // threads of a core
        table.set({leaf, 1, true, {id_bits, count, 0x201, apic_id}});      // cores of the package
    }
    if (CpuidLeaf* sizes = table.find(0x8000'0008)) {
        // APM vol. 3, E.4.7: NC (threads, less one) and ApicIdSize. Reserved on Intel.
        sizes->value.ecx = amd ? (sizes->value.ecx & ~0xf0ffu) | std::min<u32>(count - 1, 255) | (id_bits << 12) : 0;
    }
    if (CpuidLeaf* features = table.find(0x8000'0001); features && amd) {
        constexpr u32 kCmpLegacy = 1u << 1, kTopologyExtensions = 1u << 22;
        features->value.ecx = count > 1 ? features->value.ecx | kCmpLegacy : features->value.ecx & ~kCmpLegacy;
        if (features->value.ecx & kTopologyExtensions)
            table.set({0x8000'001e, 0, false, {apic_id, apic_id & 0xff, 0, 0}});
    }
    return table;
}

}  // namespace vezha::x86
