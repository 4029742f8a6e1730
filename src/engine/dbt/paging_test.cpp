// SPDX-License-Identifier: Apache-2.0
#include "engine/dbt/paging.h"

#include "engine/dbt/system_fixture.h"

namespace vezha::engine::dbt {
namespace {

using namespace x86;
using Paging = SystemFixture;

constexpr u64 kPte5 = 0x13000 + 8 * 5;  // of linear 0x5000 in the fixture's tables

TEST_F(Paging, SetsAccessedAndDirtyBits) {
    long_mode(0);
    WalkResult r = walk(ctx, 0x5123, AccessKind::Read, false);
    ASSERT_TRUE(r.ok);
    EXPECT_EQ(r.gpa, 0x5123u);
    EXPECT_EQ(r.page_size, kPageSize);
    EXPECT_FALSE(r.dirty);
    EXPECT_EQ(peek(kPte5) & (pte::kAccessed | pte::kDirty), pte::kAccessed);
    EXPECT_TRUE(peek(kTables) & pte::kAccessed);
    EXPECT_TRUE(walk(ctx, 0x5123, AccessKind::Write, false).dirty);
    EXPECT_TRUE(peek(kPte5) & pte::kDirty);
}

TEST_F(Paging, ReportsWhyAnAccessFails) {
    long_mode(0);
    poke(kPte5, 0);
    EXPECT_EQ(walk(ctx, 0x5000, AccessKind::Read, false).fault.error_code, 0u);
    EXPECT_EQ(walk(ctx, 0x5000, AccessKind::Write, true).fault.error_code, page_fault::kWrite | page_fault::kUser);
    poke(kPte5, 0x5000 | pte::kPresent | pte::kUser);
    EXPECT_EQ(walk(ctx, 0x5000, AccessKind::Write, true).fault.error_code,
              page_fault::kPresent | page_fault::kWrite | page_fault::kUser);
    EXPECT_FALSE(walk(ctx, 0x5000, AccessKind::Write, false).ok) << "CR0.WP";
    ctx.cr0 &= ~cr0::kWp;
    EXPECT_TRUE(walk(ctx, 0x5000, AccessKind::Write, false).ok);
    poke(kPte5, 0x5000 | pte::kPresent | pte::kWritable);
    EXPECT_EQ(walk(ctx, 0x5000, AccessKind::Read, true).fault.error_code, page_fault::kPresent | page_fault::kUser);
    poke(kPte5, 0x5000 | 7 | pte::kNx);
    EXPECT_EQ(walk(ctx, 0x5000, AccessKind::Execute, true).fault.error_code,
              page_fault::kPresent | page_fault::kUser | page_fault::kFetch);
    ctx.efer &= ~efer::kNxe;
    EXPECT_EQ(walk(ctx, 0x5000, AccessKind::Read, false).fault.error_code, page_fault::kPresent | page_fault::kReserved);
    EXPECT_EQ(walk(ctx, 0x8000'0000'0000, AccessKind::Read, false).fault.vector, kGeneralProtection);
}

TEST_F(Paging, GuardsUserPagesFromTheSupervisor) {
    long_mode(0);
    ctx.cr4 |= cr4::kSmap | cr4::kSmep;
    EXPECT_FALSE(walk(ctx, 0x5000, AccessKind::Read, false).ok);
    EXPECT_EQ(walk(ctx, 0x5000, AccessKind::Execute, false).fault.error_code, page_fault::kPresent | page_fault::kFetch);
    ctx.flags |= rflags::kAc;
    EXPECT_TRUE(walk(ctx, 0x5000, AccessKind::Read, false).ok);
    EXPECT_FALSE(walk(ctx, 0x5000, AccessKind::Read, false, /*implicit_supervisor=*/true).ok);
    EXPECT_TRUE(walk(ctx, 0x5000, AccessKind::Execute, true).ok);
}

TEST_F(Paging, FindsLargePages) {
    long_mode(0);
    poke(kTables + 0x2008, 0x20'0000 | 7 | pte::kLarge);
    WalkResult r = walk(ctx, 0x2a'bcde, AccessKind::Read, true);
    EXPECT_TRUE(r.ok);
    EXPECT_EQ(r.gpa, 0x2a'bcdeu);
    EXPECT_EQ(r.page_size, 2 * kMiB);
    poke(kTables + 0x2008, 0x20'2000 | 7 | pte::kLarge);
    EXPECT_TRUE(walk(ctx, 0x2a'bcde, AccessKind::Read, true).fault.error_code & page_fault::kReserved);
    poke(kTables + 0x1008, 7 | pte::kLarge);
    r = walk(ctx, kGiB + 0x12'3456, AccessKind::Read, true);
    EXPECT_EQ(r.gpa, 0x12'3456u);
    EXPECT_EQ(r.page_size, kGiB);
}

TEST_F(Paging, WalksTwoLevelTables) {
    ctx.cr0 |= cr0::kPe | cr0::kPg;
    ctx.cr4 = cr4::kPse;
    ctx.cr3 = kTables;
    const u32 table = static_cast<u32>(kTables + 0x1000) | 7;
    ASSERT_TRUE(memory.write_object({kTables + 4}, table));            // 4 MiB..8 MiB by 4 KiB
    ASSERT_TRUE(memory.write_object({kTables + 0x1000 + 12}, u32{0x9000 | 7}));
    ASSERT_TRUE(memory.write_object({kTables + 8}, u32{0x87}));        // 8 MiB..12 MiB large, at 0
    EXPECT_EQ(walk(ctx, 0x40'3123, AccessKind::Write, true).gpa, 0x9123u);
    WalkResult r = walk(ctx, 0x81'2345, AccessKind::Read, true);
    EXPECT_EQ(r.gpa, 0x1'2345u);
    EXPECT_EQ(r.page_size, 4 * kMiB);
    EXPECT_FALSE(walk(ctx, 0x40'0000, AccessKind::Read, true).ok);
}

TEST_F(Paging, WalksPaeTables) {
    poke(kTables, (kTables + 0x1000) | 1);
    poke(kTables + 0x1000, 0x20'0000 | 7 | pte::kLarge);
    ctx.cr0 |= cr0::kPe | cr0::kPg;
    ctx.cr4 = cr4::kPae;
    ctx.cr3 = kTables;
    ASSERT_TRUE(load_pdptes(ctx, ctx.cr3));
    EXPECT_EQ(walk(ctx, 0x1'2345, AccessKind::Read, true).gpa, 0x21'2345u);
    EXPECT_FALSE(walk(ctx, 0x4000'0000, AccessKind::Read, true).ok);
    poke(kTables + 8, 0x7);  // reserved bits in a PDPTE
    EXPECT_FALSE(load_pdptes(ctx, ctx.cr3));
}

}  // namespace
}  // namespace vezha::engine::dbt
