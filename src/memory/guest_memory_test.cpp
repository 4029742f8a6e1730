// SPDX-License-Identifier: Apache-2.0
#include "memory/guest_memory.h"

#include <gtest/gtest.h>

namespace vezha::memory {
namespace {

TEST(GuestMemory, LeavesAHoleBelowFourGigabytes) {
    GuestMemory memory({});
    ASSERT_TRUE(memory.add_pc_ram(6 * kGiB));
    EXPECT_EQ(memory.ram_size(), 6 * kGiB);
    EXPECT_NE(memory.find(Gpa{0x7fff'ffff}), nullptr);
    EXPECT_EQ(memory.find(Gpa{0x8000'0000}), nullptr);
    EXPECT_NE(memory.find(Gpa{4 * kGiB}), nullptr);
    EXPECT_EQ(memory.find(Gpa{8 * kGiB}), nullptr);
}

TEST(GuestMemory, RefusesAccessesThatLeaveMemory) {
    GuestMemory memory({});
    ASSERT_TRUE(memory.add_pc_ram(1 * kMiB));
    EXPECT_TRUE(memory.write_object(Gpa{kMiB - 8}, u64{1}));
    EXPECT_FALSE(memory.write_object(Gpa{kMiB - 7}, u64{1}));
    EXPECT_FALSE(memory.read_object<u64>(Gpa{~u64{0} - 3}));
    EXPECT_EQ(memory.host_range(Gpa{kMiB - 4}, 8, false), nullptr);
    EXPECT_EQ(memory.host_range(Gpa{0}, ~u64{0}, false), nullptr);
}

TEST(GuestMemory, HugeGuestsCostOnlyWhatIsTouched) {
    for (Backing backing : {Backing::Anonymous, Backing::Memfd}) {
        GuestMemory memory({.backing = backing, .huge_pages = false});
        ASSERT_TRUE(memory.add_pc_ram(256 * kGiB));
        ASSERT_TRUE(memory.write_object(Gpa{200 * kGiB}, u64{42}));
        EXPECT_EQ(memory.read_object<u64>(Gpa{200 * kGiB}).value(), 42u);
        EXPECT_EQ(memory.read_object<u64>(Gpa{100 * kGiB}).value(), 0u);
        ASSERT_TRUE(memory.discard(Gpa{200 * kGiB}, kPageSize));
        EXPECT_EQ(memory.read_object<u64>(Gpa{200 * kGiB}).value(), 0u);
    }
}

TEST(GuestMemory, RecordsDeviceStores) {
    GuestMemory memory({});
    ASSERT_TRUE(memory.add_pc_ram(1 * kMiB));
    memory.set_dirty_logging(true);
    ASSERT_TRUE(memory.write_object(Gpa{3 * kPageSize - 4}, u64{1}));  // touches pages 2 and 3
    memory.mark_dirty_host(memory.host_range(Gpa{9 * kPageSize}, 1, true), 1);
    auto dirty = memory.regions()[0]->dirty().take();
    EXPECT_EQ(dirty[0], (1u << 2) | (1u << 3) | (1u << 9));
    EXPECT_EQ(memory.regions()[0]->dirty().take()[0], 0u);
}

TEST(GuestMemory, ReadOnlyRegionsAreLoadedButNotWritten) {
    GuestMemory memory({});
    ASSERT_TRUE(memory.add_region("rom", Gpa{0xfffc'0000}, 256 * kKiB, true));
    const u8 byte[] = {0x90};
    EXPECT_FALSE(memory.write(Gpa{0xfffc'0000}, byte));
    EXPECT_TRUE(memory.load(Gpa{0xfffc'0000}, byte));
    EXPECT_EQ(memory.read_object<u8>(Gpa{0xfffc'0000}).value(), 0x90);
}

TEST(GuestMemory, RefusesOverlapsAndOddSizes) {
    GuestMemory memory({});
    ASSERT_TRUE(memory.add_region("a", Gpa{0}, 64 * kKiB));
    EXPECT_FALSE(memory.add_region("b", Gpa{60 * kKiB}, 64 * kKiB));
    EXPECT_FALSE(memory.add_region("c", Gpa{128 * kKiB}, 100));
    EXPECT_FALSE(memory.add_region("d", Gpa{~u64{0} & ~0xfffull}, 64 * kKiB));
}

}  // namespace
}  // namespace vezha::memory
