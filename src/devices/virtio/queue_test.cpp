// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/queue.h"

#include <gtest/gtest.h>

#include <random>

#include "devices/virtio/driver_model.h"

namespace vezha::devices::virtio {
namespace {

using model::Board;
using model::DriverRing;

struct Layout {
    bool packed, event_index;
};

struct QueueTest : testing::TestWithParam<Layout> {
    Board board;
    Queue queue{board.memory, 256};
    std::unique_ptr<DriverRing> ring;
    Chain chain;
    void open(u16 size = 8) {
        ring = std::make_unique<DriverRing>(board.memory, 0x1'0000, size, GetParam().packed, GetParam().event_index);
        queue.reset();
        queue.layout() = {{ring->descriptors}, {ring->driver}, {ring->device}, size, GetParam().event_index};
        ASSERT_TRUE(queue.enable(GetParam().packed));
        queue.set_running(true);
    }
    bool pop() { return queue.pop(chain).value(); }
};

TEST_P(QueueTest, BuffersGoRoundManyTimes) {
    open(8);
    for (u32 i = 0; i < 100; ++i) {
        const bool indirect = i % 3 == 1;
        const u16 id = ring->add({{0x8'0000, 16, false}, {0x8'1000, 512, true}, {0x8'2000, 1, true}}, indirect);
        ASSERT_TRUE(pop()) << i;
        EXPECT_EQ(chain.readable_bytes(), 16u);
        EXPECT_EQ(chain.writable_bytes(), 513u);
        EXPECT_EQ(chain.writable().size(), 2u);
        EXPECT_EQ(queue.in_flight(), 1u);
        EXPECT_FALSE(pop());
        queue.push(chain, i);
        EXPECT_FALSE(ring->take());
        EXPECT_TRUE(queue.flush());
        const auto used = ring->take();
        ASSERT_TRUE(used);
        EXPECT_EQ(used->id, id);
        EXPECT_EQ(used->length, i);
        EXPECT_FALSE(ring->take());
    }
    EXPECT_EQ(queue.in_flight(), 0u);
}

TEST_P(QueueTest, OutOfOrderAndPutBack) {
    open(8);
    std::vector<u16> ids;
    for (u32 i = 0; i < 4; ++i) ids.push_back(ring->add({{0x8'0000 + 0x1000 * i, 100, true}, {0x9'0000, 1, true}}));
    std::array<Chain, 4> chains;
    for (auto& c : chains) ASSERT_TRUE(queue.pop(c).value());
    EXPECT_FALSE(pop());
    queue.unpop(chains[3]);
    queue.unpop(chains[2]);
    ASSERT_TRUE(queue.pop(chains[2]).value());
    queue.push(chains[2], 7);
    queue.push(chains[0], 8);
    (void)queue.flush();
    EXPECT_EQ(ring->take()->id, ids[2]);
    EXPECT_EQ(ring->take()->id, ids[0]);
    ASSERT_TRUE(queue.pop(chains[3]).value());
    queue.push(chains[3], 1);
    queue.push(chains[1], 1);
    (void)queue.flush();
    EXPECT_EQ(ring->take()->id, ids[3]);
    EXPECT_EQ(ring->take()->id, ids[1]);
}

TEST_P(QueueTest, NotificationsAreSuppressedWhileBusy) {
    open(8);
    EXPECT_FALSE(pop());  // asks
    ring->add({{0x8'0000, 16, false}});
    EXPECT_TRUE(ring->must_kick());
    ASSERT_TRUE(pop());
    queue.push(chain, 0);
    ring->add({{0x8'0000, 16, false}});
    EXPECT_FALSE(ring->must_kick());
    ASSERT_TRUE(pop());
    queue.push(chain, 0);
    EXPECT_FALSE(pop());
    ring->add({{0x8'0000, 16, false}});
    EXPECT_TRUE(ring->must_kick());
}

TEST_P(QueueTest, InterruptsFollowTheDriversWish) {
    open(8);
    for (u32 round = 0; round < 40; ++round) {
        ring->add({{0x8'0000, 16, true}});
        ASSERT_TRUE(pop());
        queue.push(chain, 1);
        EXPECT_TRUE(queue.flush());
        ASSERT_TRUE(ring->take());
    }
    // Two without the driver looking: with an event index one interrupt is enough.
    for (u32 i = 0; i < 2; ++i) {
        ring->add({{0x8'0000, 16, true}});
        ASSERT_TRUE(pop());
        queue.push(chain, 1);
        EXPECT_EQ(queue.flush(), i == 0 || !GetParam().event_index);
    }
    EXPECT_FALSE(queue.flush());
    if (GetParam().event_index) return;
    ring->set<u16>(GetParam().packed ? ring->driver + 2 : ring->driver, 1);
    ring->add({{0x8'0000, 16, true}});
    ASSERT_TRUE(pop());
    queue.push(chain, 1);
    EXPECT_FALSE(queue.flush());
}

TEST_P(QueueTest, StoresAreMarkedDirty) {
    open(8);
    board.memory.set_dirty_logging(true);
    ring->add({{0x8'0000, 0x3000, true}});
    auto& dirty = board.memory.regions()[0]->dirty();
    (void)dirty.take();
    ASSERT_TRUE(pop());
    queue.push(chain, 0x1001);
    (void)queue.flush();
    const auto pages = dirty.take();
    const auto marked = [&](u64 page) { return pages[page / 64] >> (page % 64) & 1; };
    EXPECT_TRUE(marked(0x80));
    EXPECT_TRUE(marked(0x81));
    EXPECT_FALSE(marked(0x82));
    EXPECT_TRUE(marked((GetParam().packed ? ring->descriptors : ring->device) / kPageSize));
}

TEST_P(QueueTest, StaleCompletionsVanish) {
    open(8);
    ring->add({{0x8'0000, 16, true}});
    ASSERT_TRUE(pop());
    Chain old = chain;
    open(8);
    EXPECT_EQ(queue.in_flight(), 1u);
    queue.push(old, 16);
    EXPECT_EQ(queue.in_flight(), 0u);
    EXPECT_FALSE(queue.flush());
    EXPECT_FALSE(ring->take());
}

TEST_P(QueueTest, BrokenChainsAreRefused) {
    const std::vector<std::vector<model::Piece>> bad = {
        {{Board::kRam, 16, false}},                      // no memory
        {{Board::kRam - 8, 16, true}},                   // runs out of it
        {{~u64{0} - 3, 16, true}},                       // wraps
        {{0x8'0000, 16, true}, {0x8'0000, 16, false}},   // readable after writable
        {{0x0, 0x80'0000, true}, {0x0, 0xffff'ffff, true}},
    };
    for (const bool indirect : {false, true})
        for (const auto& pieces : bad) {
            open(8);
            ring->add(pieces, indirect);
            EXPECT_FALSE(queue.pop(chain).has_value());
            EXPECT_FALSE(queue.pop(chain).value());  // reported once
            EXPECT_EQ(queue.in_flight(), 0u);
        }
    open(8);
    ring->add({{0x8'0000, 0, false}, {0x8'0000, 4, true}});  // an empty piece harms nobody
    EXPECT_TRUE(pop());
    EXPECT_EQ(chain.readable_bytes(), 0u);
}

TEST_P(QueueTest, RingsMustLieInMemory) {
    for (const u64 address : {Board::kRam, Board::kRam - 32, ~u64{0} & ~u64{15}, u64{0x10'0008}}) {
        for (int which = 0; which < (GetParam().packed ? 1 : 3); ++which) {
            queue.reset();
            RingLayout layout{{0x1'0000}, {0x1'1000}, {0x1'2000}, 64, false};
            (which == 0 ? layout.descriptors : which == 1 ? layout.driver : layout.device).value = address | (which == 0 ? 0 : 1);
            queue.layout() = layout;
            EXPECT_FALSE(queue.enable(GetParam().packed)) << address << " " << which;
        }
    }
}

/// Random bytes for everything: the queue answers with chains inside memory or an error, and always ends.
TEST_P(QueueTest, HostileRings) {
    std::mt19937_64 random(20260101);
    u8* ram = board.memory.host_range({0}, Board::kRam, true);
    for (u32 round = 0; round < 3000; ++round) {
        const u16 size = static_cast<u16>(u16{1} << random() % 7);
        open(size);
        // Mostly plausible fields, so that the walk gets somewhere.
        const auto fill = [&](u64 at) {
            const u64 kind = random() % 8;
            const u64 address = kind == 0 ? random() : kind == 1 ? ring->descriptors + 16 * (random() % size) : random() % Board::kRam;
            const u32 length = random() % 4 == 0 ? static_cast<u32>(random()) : static_cast<u32>(16 * (random() % 40));
            const u16 wrap = random() % 8 ? 0x80 : static_cast<u16>(random());
            const u16 flags = static_cast<u16>((random() % 4 == 0 ? random() : random() % 4) & 7);
            if (GetParam().packed) ring->put(at, address, length, static_cast<u16>(random()), flags | (wrap & 0x8080));
            else ring->put(at, address, length, flags, static_cast<u16>(random() % (size + 1)));
        };
        for (u16 i = 0; i < size; ++i) fill(ring->descriptors + 16u * i);
        for (u32 i = 0; i < 64; ++i) fill((random() % Board::kRam) & ~u64{15});
        ring->set<u16>(ring->driver, static_cast<u16>(random()));
        ring->set<u16>(ring->driver + 2, static_cast<u16>(random() % 8 ? random() % (size + 1u) : random()));
        if (!GetParam().packed)
            for (u16 i = 0; i < size; ++i) ring->set<u16>(ring->driver + 4 + 2 * i, static_cast<u16>(random() % (size + 1)));
        std::vector<Chain> taken;
        for (u32 step = 0; step < 2u * size + 2; ++step) {
            Chain next;
            auto popped = queue.pop(next);
            if (!popped || !*popped) break;
            for (const auto& pieces : {next.readable(), next.writable()})
                for (const iovec& piece : pieces) {
                    const u8* at = static_cast<const u8*>(piece.iov_base);
                    ASSERT_TRUE(at >= ram && at + piece.iov_len <= ram + Board::kRam);
                }
            taken.push_back(std::move(next));
        }
        ASSERT_LE(taken.size(), size);
        for (auto& next : taken) queue.push(next, ~u64{0});
        (void)queue.flush();
        ASSERT_EQ(queue.in_flight(), 0u);
    }
}

INSTANTIATE_TEST_SUITE_P(Layouts, QueueTest,
                         testing::Values(Layout{false, false}, Layout{false, true}, Layout{true, false}, Layout{true, true}),
                         [](const auto& layout) {
                             return std::string(layout.param.packed ? "Packed" : "Split") + (layout.param.event_index ? "EventIndex" : "Flags");
                         });

}  // namespace
}  // namespace vezha::devices::virtio
