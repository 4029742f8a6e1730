// SPDX-License-Identifier: Apache-2.0
#include "machine/smbios.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <set>
#include <span>

namespace vezha::machine::smbios {
namespace {

u8 sum(std::span<const u8> bytes) { return static_cast<u8>(std::accumulate(bytes.begin(), bytes.end(), 0u)); }

TEST(Smbios, EntryPointsAndStructuresHold) {
    System system;
    system.low_ram = 2 * kGiB;
    system.high_ram = 62 * kGiB;
    system.sockets = 2;
    for (u8 i = 0; i < 16; ++i) system.uuid[i] = i;
    const Tables t = build(system);
    const std::span<const u8> image(t.image);
    EXPECT_EQ(std::memcmp(image.data(), "_SM3_", 5), 0);
    EXPECT_EQ(sum(image.first(24)), 0);
    EXPECT_EQ(std::memcmp(&image[32], "_SM_", 4), 0);
    EXPECT_EQ(sum(image.subspan(32, 31)), 0);
    EXPECT_EQ(sum(image.subspan(48, 15)), 0);
    std::multiset<int> types;
    std::set<int> handles;
    usize at = 64;
    while (at + 4 <= image.size()) {
        const u8 type = image[at], length = image[at + 1];
        types.insert(type);
        EXPECT_TRUE(handles.insert(image[at + 2] | image[at + 3] << 8).second);
        if (type == 1) {
            EXPECT_EQ(length, 27);
            EXPECT_EQ(image[at + 8], 3);
            EXPECT_EQ(image[at + 16], 8);
        }
        if (type == 4) {
            EXPECT_EQ(length, 48);
        }
        if (type == 17) {
            EXPECT_EQ(length, 40);
        }
        if (type == 16) {
            EXPECT_EQ(length, 23);
        }
        if (type == 19) {
            EXPECT_EQ(length, 31);
        }
        at += length;
        while (image[at] || image[at + 1]) ++at;
        at += 2;
        if (type == 127) break;
    }
    EXPECT_EQ(at, image.size());
    EXPECT_EQ(types, (std::multiset<int>{0, 1, 3, 4, 4, 16, 17, 17, 17, 17, 19, 19, 32, 127}));
}

}  // namespace
}  // namespace vezha::machine::smbios
