// SPDX-License-Identifier: Apache-2.0
#include "arch/x86/cpuid.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "arch/x86/registers.h"

namespace vezha::x86 {
namespace {

/// A made-up processor with everything that the levels ask for, of either vendor.
CpuidTable full_table(bool amd) {
    CpuidTable t;
    if (amd) t.set({0, 0, false, {0x1f, 0x6874'7541, 0x444d'4163, 0x6974'6e65}});
    else t.set({0, 0, false, {0x1f, 0x756e'6547, 0x6c65'746e, 0x4965'6e69}});
    t.set({1, 0, false, {0x000a'0f11, 0x0000'0800, 0xffff'ffff, 0xffff'ffff}});
    if (!amd) t.set({4, 0, true, {0x121, 0x1c0003f, 63, 0}});
    if (!amd) t.set({4, 1, true, {0x163, 0x1c0003f, 63, 0}});
    t.set({7, 0, true, {1, 0xffff'ffff, 0xffff'ffff, 0xffff'ffff}});
    t.set({0xd, 0, true, {0x2e7, 2696, 2696, 0}});
    t.set({0xd, 1, true, {0xf, 0, 0, 0}});
    t.set({0xd, 2, true, {256, 576, 0, 0}});
    t.set({0xd, 5, true, {64, 1088, 0, 0}});
    t.set({0xd, 6, true, {512, 1152, 0, 0}});
    t.set({0xd, 7, true, {1024, 1664, 0, 0}});
    t.set({0xd, 9, true, {8, 2688, 0, 0}});
    t.set({0x4000'0000, 0, false, {0x4000'0001, 0x4b4d'564b, 0x564b'4d56, 0x4d}});
    t.set({0x4000'0001, 0, false, {0xffff'ffff, 0, 0, 0}});
    t.set({0x8000'0000, 0, false, {0x8000'0022, 0, 0, 0}});
    t.set({0x8000'0001, 0, false, {0, 0, 0xffff'ffff, 0xffff'ffff}});
    t.set({0x8000'0008, 0, false, {0x3030, 0, 0, 0}});
    return t;
}
constexpr u64 kAllXcr0 = 0x2e7;

TEST(Cpuid, QueryFollowsTheManual) {
    CpuidTable t = full_table(false);
    EXPECT_EQ(t.query(1, 5).eax, 0x000a'0f11u);      // no subleaves: ECX ignored
    EXPECT_EQ(t.query(7, 3), CpuidRegisters{});      // beyond the subleaves
    EXPECT_EQ(t.query(2, 0), CpuidRegisters{});      // a hole
    t.find(0)->value.eax = 0xd;
    EXPECT_EQ(t.query(0x50, 0).ebx, 2696u);          // beyond the end: highest basic leaf on Intel
    EXPECT_EQ(t.query(0x8000'0100, 0).ebx, 2696u);
    EXPECT_EQ(t.query(0x4000'0100, 0), CpuidRegisters{});
    CpuidTable amd = full_table(true);
    EXPECT_EQ(amd.query(0x50, 0), CpuidRegisters{});
    t.set({1, 0, false, {1, 2, 3, 4}});
    EXPECT_EQ(t.query(1, 0), (CpuidRegisters{1, 2, 3, 4}));
    t.erase(1);
    EXPECT_EQ(t.find(1), nullptr);
}

TEST(Cpuid, HostHasTheBasics) {
    const CpuidTable host = host_cpuid();
    ASSERT_NE(host.find(0), nullptr);
    ASSERT_NE(host.find(0x8000'0001), nullptr);
    EXPECT_TRUE(host.query(0x8000'0001, 0).edx >> 29 & 1) << "we are a 64-bit program";
    EXPECT_TRUE(std::is_sorted(host.leaves().begin(), host.leaves().end(), [](const CpuidLeaf& a, const CpuidLeaf& b) {
        return std::pair(a.leaf, a.subleaf) < std::pair(b.leaf, b.subleaf);
    }));
}

TEST(CpuModels, UnknownNameListsTheKnownOnes) {
    auto r = make_cpu_model("pentium", full_table(true), kAllXcr0, 1, 1);
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code(), ErrorCode::NotFound);
    EXPECT_NE(r.error().hint().find("host, x86-64-v2, x86-64-v3, x86-64-v4"), std::string::npos);
}

TEST(CpuModels, MissingFeaturesAreNamedWithTheBestChoice) {
    CpuidTable t = full_table(true);
    t.find(7)->value.ebx &= ~(1u << 8);  // bmi2
    auto r = make_cpu_model("x86-64-v3", t, kAllXcr0, 1, 1);
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code(), ErrorCode::Unsupported);
    EXPECT_NE(r.error().message().find("bmi2"), std::string::npos);
    EXPECT_NE(r.error().hint().find("x86-64-v2"), std::string::npos);
    // AVX without its state is as good as none.
    auto no_state = make_cpu_model("x86-64-v3", full_table(true), 3, 1, 1);
    ASSERT_FALSE(no_state);
    EXPECT_NE(no_state.error().message().find("avx"), std::string::npos);
}

class EachVendor : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Vendors, EachVendor, testing::Bool(), [](const auto& p) { return p.param ? "Amd" : "Intel"; });

TEST_P(EachVendor, LevelsShowExactlyTheirFeatures) {
    auto v2 = make_cpu_model("x86-64-v2", full_table(GetParam()), kAllXcr0, 1, 1);
    auto v3 = make_cpu_model("x86-64-v3", full_table(GetParam()), kAllXcr0, 1, 1);
    auto v4 = make_cpu_model("x86-64-v4", full_table(GetParam()), kAllXcr0, 1, 1);
    ASSERT_TRUE(v2 && v3 && v4);
    EXPECT_TRUE(v2->cpuid.query(1, 0).ecx >> 20 & 1);    // sse4.2
    EXPECT_FALSE(v2->cpuid.query(1, 0).ecx >> 28 & 1);   // avx
    EXPECT_EQ(v2->xcr0, 3u);
    EXPECT_TRUE(v3->cpuid.query(7, 0).ebx >> 5 & 1);     // avx2
    EXPECT_FALSE(v3->cpuid.query(7, 0).ebx >> 16 & 1);   // avx512f
    EXPECT_EQ(v3->xcr0, 7u);
    EXPECT_EQ(v3->cpuid.query(0xd, 0).ecx, 832u);
    EXPECT_TRUE(v4->cpuid.query(7, 0).ebx >> 16 & 1);
    EXPECT_EQ(v4->xcr0, 0xe7u);
    EXPECT_EQ(v4->cpuid.query(0xd, 0).ecx, 2688u);
    for (const auto* m : {&*v2, &*v3, &*v4}) {
        EXPECT_FALSE(m->cpuid.query(1, 0).ecx >> 5 & 1);   // vmx
        EXPECT_FALSE(m->cpuid.query(1, 0).ecx >> 3 & 1);   // monitor
        EXPECT_TRUE(m->cpuid.query(1, 0).ecx >> 31 & 1);   // hypervisor
        EXPECT_FALSE(m->cpuid.query(1, 0).ecx >> 27 & 1);  // osxsave is dynamic
    }
}

TEST_P(EachVendor, HostHidesWhatCannotBeSaved) {
    auto host = make_cpu_model("host", full_table(GetParam()), ~u64{0}, 1, 1);
    ASSERT_TRUE(host);
    EXPECT_EQ(host->xcr0, 0x2e7u);  // no AMX
    EXPECT_FALSE(host->cpuid.query(7, 0).edx >> 24 & 1);
    EXPECT_FALSE(host->cpuid.query(0x8000'0001, 0).ecx >> 2 & 1);  // svm
    EXPECT_NE(std::find(host->msrs.begin(), host->msrs.end(), msr::kLstar), host->msrs.end());
    EXPECT_NE(std::find(host->msrs.begin(), host->msrs.end(), msr::kKvmSystemTime), host->msrs.end());
    auto narrow = make_cpu_model("host", full_table(GetParam()), 7, 1, 1);
    ASSERT_TRUE(narrow);
    EXPECT_FALSE(narrow->cpuid.query(7, 0).ebx >> 16 & 1);
    EXPECT_FALSE(narrow->cpuid.query(7, 0).ecx >> 3 & 1);  // pku
    EXPECT_EQ(narrow->cpuid.query(0xd, 0).ecx, 832u);
}

TEST_P(EachVendor, TopologyHoldsForAnyCount) {
    for (u32 count : {1u, 2u, 3u, 8u, 255u, 256u, 300u, 1024u}) {
        auto model = make_cpu_model("host", full_table(GetParam()), kAllXcr0, 1, count);
        ASSERT_TRUE(model);
        const u32 last = count - 1;
        const CpuidTable t = model->for_vcpu(last);
        EXPECT_EQ(t.query(1, 0).ebx >> 24, std::min(last, 255u));
        EXPECT_EQ(t.query(1, 0).edx >> 28 & 1, count > 1 ? 1u : 0u);
        for (u32 leaf : {0xbu, 0x1fu}) {
            EXPECT_EQ(t.query(leaf, 0).edx, last);
            EXPECT_EQ(t.query(leaf, 1).ebx, count);
            EXPECT_EQ(t.query(leaf, 1).ecx, 0x201u);
            EXPECT_EQ(last >> t.query(leaf, 1).eax, 0u) << "one package";
            EXPECT_EQ(t.query(leaf, 2).ecx, 2u);
            EXPECT_EQ(t.query(leaf, 2).edx, last);
        }
        if (GetParam()) {
            EXPECT_EQ(t.query(0x8000'0008, 0).ecx & 0xff, std::min(last, 255u));
            EXPECT_EQ(t.query(0x8000'001e, 0).eax, last);
        } else {
            EXPECT_EQ(t.query(4, 0).eax >> 14 & 0xfff, 0u) << "L1 is private";
            EXPECT_GE(t.query(4, 1).eax >> 14 & 0xfff, last) << "L3 is shared";
        }
    }
}

}  // namespace
}  // namespace vezha::x86
