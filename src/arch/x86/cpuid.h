// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace vezha::x86 {

struct CpuidRegisters {
    u32 eax = 0, ebx = 0, ecx = 0, edx = 0;
    bool operator==(const CpuidRegisters&) const = default;
};

struct CpuidLeaf {
    u32 leaf = 0;
    u32 subleaf = 0;
    bool has_subleaves = false;  ///< otherwise every subleaf reads the same
    CpuidRegisters value{};
};

/// The answers of the CPUID instruction. Lookup follows SDM vol. 2A: a leaf above the maximum reads as the highest basic leaf.
class CpuidTable {
  public:
    void set(const CpuidLeaf& leaf);
    void erase(u32 leaf);
    /// Exact entry, or nullptr.
    const CpuidLeaf* find(u32 leaf, u32 subleaf = 0) const;
    CpuidLeaf* find(u32 leaf, u32 subleaf = 0);
    CpuidRegisters query(u32 leaf, u32 subleaf) const;
    const std::vector<CpuidLeaf>& leaves() const { return leaves_; }

  private:
    std::vector<CpuidLeaf> leaves_;  // sorted by leaf, subleaf
};

/// All leaves of the processor we run on.
CpuidTable host_cpuid();

/// What a guest's processor is: computed once by machine, given to the engine.
struct CpuModel {
    std::string name;    ///< host, x86-64-v2, x86-64-v3, x86-64-v4
    CpuidTable cpuid;    ///< without per-vCPU parts (APIC ID, topology): see for_vcpu()
    u64 xcr0 = 3;        ///< bits the guest may set in XCR0
    std::vector<u32> msrs;  ///< MSRs that exist, saved with the CPU state
    u64 tsc_hz = 0;
    u32 vcpus = 1;

    /// The CPUID of one vCPU: APIC IDs, x2APIC topology (leaves 1, 4, 0xb, 0x1f, 0x80000008, 0x8000001e) filled in.
    CpuidTable for_vcpu(u32 apic_id) const;
};

/// Intersects a named model with what the engine supports.
/// @param supported every leaf the engine can run (KVM_GET_SUPPORTED_CPUID; the software engine's own table)
/// @return NotFound for an unknown name (the hint lists the known ones), Unsupported naming the features that a
///         model demands and the engine lacks
Result<CpuModel> make_cpu_model(std::string_view name, const CpuidTable& supported, u64 supported_xcr0, u64 tsc_hz,
                                u32 vcpus);

}  // namespace vezha::x86
