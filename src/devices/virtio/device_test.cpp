// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <random>

#include "devices/virtio/balloon.h"
#include "devices/virtio/block.h"
#include "devices/virtio/console.h"
#include "devices/virtio/driver_model.h"
#include "devices/virtio/entropy.h"
#include "devices/virtio/net.h"

namespace vezha::devices::virtio {
namespace {

using model::Board;
using model::Driver;

/// A disk in memory. Requests wait while `held`.
struct TestDisk final : block::Disk {
    struct Queue final : block::DiskQueue {
        explicit Queue(TestDisk& d) : disk(d) {}
        void submit(block::Request request) override {
            if (disk.held) disk.waiting.push_back(std::move(request));
            else disk.execute(std::move(request));
        }
        u32 in_flight() const override { return static_cast<u32>(disk.waiting.size()); }
        TestDisk& disk;
    };
    void execute(block::Request request) {
        operations.push_back(request.op);
        last_fua = request.force_unit_access;
        if (broken) return request.done(fail(ErrorCode::Io, "broken"));
        u64 at = request.offset;
        for (const iovec& piece : request.pieces) {
            if (request.op == block::Op::Read) std::memcpy(piece.iov_base, bytes.data() + at, piece.iov_len);
            else std::memcpy(bytes.data() + at, piece.iov_base, piece.iov_len);
            at += piece.iov_len;
        }
        if (request.op == block::Op::WriteZeroes || request.op == block::Op::Discard)
            std::fill_n(bytes.begin() + static_cast<i64>(request.offset), request.length, u8{0});
        request.done({});
    }
    void release() {
        held = false;
        for (auto& request : std::exchange(waiting, {})) execute(std::move(request));
    }
    block::Geometry geometry() const override {
        return {.size = bytes.size(), .block_size = 512, .optimal_io = 4096, .read_only = read_only, .can_discard = true};
    }
    Result<std::unique_ptr<block::DiskQueue>> attach(EventLoop&) override { return std::make_unique<Queue>(*this); }
    block::Statistics statistics() const override { return {}; }
    std::string describe() const override { return "test"; }
    std::vector<u8> bytes = std::vector<u8>(kMiB);
    std::vector<block::Op> operations;
    std::vector<block::Request> waiting;
    bool held = false, broken = false, read_only = false, last_fua = false;
};

constexpr u64 kEvent = bit(kRingEventIndex), kPacked = bit(kRingPacked), kIndirect = bit(kRingIndirect);

struct BlockTest : testing::TestWithParam<u64> {
    Board board;
    TestDisk disk;
    std::unique_ptr<VirtioBlock> device;
    std::unique_ptr<Driver> driver;
    static constexpr u64 kHeader = 0x10'0000, kData = 0x10'1000, kStatus = 0x10'3000;
    void open(BlockOptions options = {}) {
        options.serial = "SERIAL-1";
        options.queues = {{board.loop.get(), 64}, {board.loop.get(), 64}};
        device = VirtioBlock::create(board.wiring, disk, options).value();
        driver = std::make_unique<Driver>(board, *device);
        driver->start(GetParam() | (driver->offered() & 0xff'ffff), 2);
    }
    void header(u32 type, u64 sector) {
        auto& ring = driver->ring(0);
        ring.set(kHeader, type);
        ring.set(kHeader + 4, u32{0});
        ring.set(kHeader + 8, sector);
        ring.set(kStatus, u8{0xee});
    }
    /// @return the status byte
    int request(u32 type, u64 sector, u32 length, bool read, u16 queue = 0) {
        header(type, sector);
        std::vector<model::Piece> pieces{{kHeader, 16, false}};
        if (length) pieces.push_back({kData, length, read});
        pieces.push_back({kStatus, 1, true});
        used = driver->submit(queue, pieces, GetParam() & kIndirect);
        return used ? driver->ring(0).get<u8>(kStatus) : -1;
    }
    std::optional<u32> used;
};

TEST_P(BlockTest, ReadsAndWrites) {
    open();
    for (u32 i = 0; i < 300; ++i) {
        driver->ring(0).set<u64>(kData, i * 0x0101'0101ull);
        ASSERT_EQ(request(1, i % 100, 512, false, i % 2), 0);
        EXPECT_EQ(used, 1u);
        driver->ring(0).set<u64>(kData, 0);
        ASSERT_EQ(request(0, i % 100, 1024, true, i % 2), 0);
        EXPECT_EQ(used, 1025u);
        ASSERT_EQ(driver->ring(0).get<u64>(kData), i * 0x0101'0101ull);
    }
    EXPECT_GT(board.sink.take(0x101), 100u);
    EXPECT_EQ(board.sink.take(0x100), 0u);
}

TEST_P(BlockTest, EveryRequestTypeAndRefusal) {
    open();
    EXPECT_EQ(request(4, 0, 0, false), 0);
    EXPECT_EQ(disk.operations.back(), block::Op::Flush);
    EXPECT_EQ(request(8, 0, 20, true), 0);
    EXPECT_EQ(driver->ring(0).get<u64>(kData), 0x312d'4c41'4952'4553u);
    auto& ring = driver->ring(0);
    std::fill(disk.bytes.begin(), disk.bytes.end(), u8{0xaa});
    ring.set<u64>(kData, 8);
    ring.set<u32>(kData + 8, 2);
    ring.set<u32>(kData + 12, 1);
    EXPECT_EQ(request(13, 0, 16, false), 0);
    EXPECT_EQ(disk.bytes[8 * 512], 0);
    EXPECT_EQ(disk.bytes[10 * 512], 0xaa);
    EXPECT_EQ(request(11, 0, 16, false), 2);  // unmap flag on discard
    ring.set<u32>(kData + 12, 0);
    EXPECT_EQ(request(11, 0, 16, false), 0);
    ring.set<u64>(kData, ~u64{0} - 1);
    EXPECT_EQ(request(11, 0, 16, false), 1);
    EXPECT_EQ(request(11, 0, 15, false), 1);
    EXPECT_EQ(request(0, 2047, 1024, true), 1);  // past the end
    EXPECT_EQ(request(0, ~u64{0}, 512, true), 1);
    EXPECT_EQ(request(0, 0, 100, true), 1);
    EXPECT_EQ(request(77, 0, 512, true), 2);
    disk.broken = true;
    EXPECT_EQ(request(0, 0, 512, true), 1);
    EXPECT_EQ(request(1, 0, 512, false), 1);
    disk.broken = false;
    EXPECT_EQ(request(0, 0, 512, true), 0);
    EXPECT_EQ(device->status(), 0x0f);
}

TEST_P(BlockTest, WriteCacheIsConfigurable) {
    open();
    ASSERT_EQ(request(1, 0, 512, false), 0);
    EXPECT_FALSE(disk.last_fua);
    EXPECT_EQ(driver->get(kConfigAt + 32, 1), 1u);
    driver->set(kConfigAt + 32, 1, 0);
    ASSERT_EQ(request(1, 0, 512, false), 0);
    EXPECT_TRUE(disk.last_fua);
    driver->set(kConfigAt, 4, 7);  // capacity is ours
    EXPECT_EQ(driver->get(kConfigAt, 8), 2048u);
}

TEST_P(BlockTest, ReadOnly) {
    disk.read_only = true;
    open();
    EXPECT_TRUE(driver->offered() & bit(5));
    EXPECT_EQ(request(1, 0, 512, false), 1);
    EXPECT_EQ(request(0, 0, 512, true), 0);
}

TEST_P(BlockTest, ResetWaitsForRequestsInFlight) {
    open();
    disk.held = true;
    header(0, 0);
    driver->ring(0).add({{kHeader, 16, false}, {kData, 512, true}, {kStatus, 1, true}});
    driver->kick(0);
    board.serve();
    ASSERT_EQ(disk.waiting.size(), 1u);
    driver->set(common::kStatus, 1, 0);
    EXPECT_NE(driver->status(), 0);
    disk.release();
    EXPECT_EQ(driver->status(), 0);
    driver->start(GetParam() | kIndirect, 1);
    EXPECT_EQ(request(0, 0, 512, true), 0);
}

TEST_P(BlockTest, QueueReset) {
    open();
    disk.held = true;
    header(0, 0);
    driver->ring(1).add({{kHeader, 16, false}, {kData, 512, true}, {kStatus, 1, true}});
    driver->kick(1);
    board.serve();
    driver->set(common::kStatus, 1, 0);
    disk.release();
    ASSERT_EQ(driver->status(), 0);
    driver->start(GetParam() | bit(kRingReset), 2);
    disk.held = true;
    driver->ring(1).add({{kHeader, 16, false}, {kData, 512, true}, {kStatus, 1, true}});
    driver->kick(1);
    board.serve();
    driver->set(common::kQueueSelect, 2, 1);
    driver->set(common::kQueueReset, 2, 1);
    EXPECT_EQ(driver->get(common::kQueueReset, 2), 1u);
    disk.release();
    EXPECT_EQ(driver->get(common::kQueueReset, 2), 0u);
    EXPECT_EQ(driver->get(common::kQueueEnable, 2), 0u);
    driver->setup(1);
    EXPECT_EQ(request(0, 0, 512, true, 1), 0);
    EXPECT_EQ(request(0, 0, 512, true, 0), 0);
}

TEST_P(BlockTest, CorruptRingAsksForReset) {
    open();
    board.sink.take(0x100);
    driver->ring(0).add({{Board::kRam + 5, 16, false}});
    driver->kick(0);
    board.serve();
    EXPECT_EQ(device->status() & kStatusNeedsReset, kStatusNeedsReset);
    EXPECT_EQ(board.sink.take(0x100), 1u);
    driver->set(common::kStatus, 1, 0);
    EXPECT_EQ(driver->status(), 0);
    driver->start(GetParam(), 2);
    EXPECT_EQ(request(0, 0, 512, true), 0);
}

TEST_P(BlockTest, PauseDrainsAndStateMoves) {
    open();
    for (int i = 0; i < 70; ++i) ASSERT_EQ(request(0, 0, 512, true), 0);
    device->pause();
    header(0, 0);
    driver->ring(0).add({{kHeader, 16, false}, {kData, 512, true}, {kStatus, 1, true}});
    driver->kick(0);
    board.serve();
    EXPECT_FALSE(driver->ring(0).take());
    state::Section saved;
    device->save(saved);
    board.root.remove(*device);
    device.reset();
    BlockOptions options{.serial = "SERIAL-1", .queues = {{board.loop.get(), 64}, {board.loop.get(), 64}}};
    device = VirtioBlock::create(board.wiring, disk, options).value();
    ASSERT_TRUE(board.root.add(*device, pci::Slot{4, 0}));
    device->pause();
    const auto loaded = device->load(state::Section::decode(saved.encode()).value(), state::kStateVersion);
    ASSERT_TRUE(loaded) << loaded.error().message();
    EXPECT_FALSE(driver->ring(0).take());
    device->resume();
    board.serve();
    EXPECT_TRUE(driver->ring(0).take());
    EXPECT_EQ(request(0, 0, 512, true), 0);
    EXPECT_EQ(request(0, 0, 512, true, 1), 0);
    // Hostile sections are refused, not obeyed.
    for (const auto& [field, bytes] : saved.fields()) {
        state::Section cut;
        for (const auto& [other, value] : saved.fields())
            cut.put(other, other == field ? std::span(value).first(value.size() / 2) : std::span<const u8>(value));
        if (field == "pci.config" || field.starts_with("virtio")) {
            EXPECT_FALSE(device->load(cut, state::kStateVersion)) << field;
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Rings, BlockTest, testing::Values(u64{0}, kEvent | kIndirect, kPacked, kPacked | kEvent | kIndirect),
                         [](const auto& layout) { return fmt::format("Features{:x}", layout.param); });

// Transport -------------------------------------------------------------------------------------------------------------

struct TransportTest : testing::Test {
    Board board;
    std::unique_ptr<VirtioEntropy> device = VirtioEntropy::create(board.wiring, {board.loop.get(), 16}).value();
    Driver driver{board, *device};
};

TEST_F(TransportTest, IdentityAndCapabilities) {
    EXPECT_EQ(driver.read_config(0, 4), 0x1044'1af4u);
    EXPECT_EQ(driver.read_config(8, 1), 1u);
    std::map<u8, std::array<u32, 3>> found;
    for (u8 at = static_cast<u8>(driver.read_config(0x34, 1)); at; at = static_cast<u8>(driver.read_config(at + 1, 1)))
        if (driver.read_config(at, 1) == pci::kCapVendor)
            found[static_cast<u8>(driver.read_config(at + 3, 1))] = {driver.read_config(at + 4, 1), driver.read_config(at + 8, 4), driver.read_config(at + 12, 4)};
    EXPECT_EQ(found.size(), 4u);  // no device configuration
    EXPECT_EQ(found[kCapCommon], (std::array<u32, 3>{0, 0, 60}));
    EXPECT_EQ(found[kCapNotify][1], kNotifyAt);
}

TEST_F(TransportTest, NegotiationRules) {
    driver.set(common::kStatus, 1, 3);
    driver.set(common::kStatus, 1, 0xb);  // without VERSION_1
    EXPECT_EQ(driver.status(), 3);
    EXPECT_FALSE(driver.negotiate(bit(55)));
    driver.set(common::kStatus, 1, 7);
    EXPECT_EQ(driver.status() & kStatusDriverOk, 0);
    EXPECT_TRUE(driver.negotiate(0));
    driver.set(common::kDriverFeature, 4, 0);  // too late
    EXPECT_EQ(driver.get(common::kDriverFeature, 4), 1u);
    driver.set(common::kQueueVector, 2, 99);
    EXPECT_EQ(driver.get(common::kQueueVector, 2), kNoVector);
    driver.set(common::kQueueSelect, 2, 5);
    EXPECT_EQ(driver.get(common::kQueueSize, 2), 0u);
}

TEST_F(TransportTest, InterruptLineWithoutMsix) {
    ASSERT_TRUE(driver.negotiate(0));
    driver.setup(0);
    driver.ready();
    EXPECT_EQ(driver.submit(0, {{0x10'0000, 64, true}}), 64u);
    EXPECT_TRUE(board.router.level);
    EXPECT_EQ(driver.get(kIsrAt, 1), 1u);
    EXPECT_FALSE(board.router.level);
    EXPECT_EQ(driver.get(kIsrAt, 1), 0u);
    EXPECT_NE(driver.ring(0).get<u64>(0x10'0000), driver.ring(0).get<u64>(0x10'0008));
}

TEST_F(TransportTest, AccessThroughConfigurationSpace) {
    u8 at = static_cast<u8>(driver.read_config(0x34, 1));
    while (driver.read_config(at, 1) != pci::kCapVendor || driver.read_config(at + 3, 1) != kCapPciAccess)
        at = static_cast<u8>(driver.read_config(at + 1, 1));
    const auto select = [&](u32 offset, u32 length) {
        driver.config(at + 4, 1, 0);
        driver.config(at + 8, 4, offset);
        driver.config(at + 12, 4, length);
    };
    select(common::kStatus, 1);
    driver.config(at + 16, 1, 3);
    EXPECT_EQ(driver.status(), 3);
    EXPECT_EQ(driver.read_config(at + 16, 1), 3u);
    select(common::kNumQueues, 2);
    EXPECT_EQ(driver.read_config(at + 16, 2), 1u);
    select(0xffff'fffe, 4);
    driver.config(at + 16, 4, 0);
    driver.read_config(at + 16, 4);
}

TEST_F(TransportTest, NonsenseInEveryRegister) {
    std::mt19937_64 random(7);
    for (u32 i = 0; i < 50'000; ++i) {
        const unsigned size = 1u << random() % 4;
        const u64 at = random() % 2 ? random() % 64 : random() % kBarSize;
        u64 value = random() % 3 ? random() % 256 : random();
        if (random() % 3 == 0) driver.set(at, size, value);
        else driver.get(at, size);
        if (i % 64 == 0) board.serve(1);
        if (i % 512 == 0) driver.negotiate(random() % 2 ? kPacked : 0);
    }
}

// Network ---------------------------------------------------------------------------------------------------------------

struct TestBackend final : net::Backend {
    struct Queue final : net::BackendQueue {
        explicit Queue(TestBackend& b) : backend(b) {}
        Result<> send(std::span<const iovec> packet) override {
            if (backend.full) return fail(ErrorCode::WouldBlock, "full");
            std::vector<u8> bytes;
            for (const iovec& piece : packet) bytes.insert(bytes.end(), static_cast<u8*>(piece.iov_base), static_cast<u8*>(piece.iov_base) + piece.iov_len);
            backend.sent.push_back(std::move(bytes));
            return {};
        }
        Result<usize> receive(std::span<const iovec> buffers) override {
            if (backend.arriving.empty()) return fail(ErrorCode::WouldBlock, "none");
            const auto packet = backend.arriving.front();
            backend.arriving.erase(backend.arriving.begin());
            return copy_to(buffers, 0, packet);
        }
        usize next_packet_size() override { return backend.arriving.empty() ? 0 : backend.arriving.front().size(); }
        TestBackend& backend;
    };
    net::Offloads accepts() const override { return {.checksum = true, .tso4 = true}; }
    net::Offloads provides() const override { return {.checksum = true, .tso4 = true}; }
    Result<> set_receive_offloads(const net::Offloads& offloads) override {
        now = offloads;
        return {};
    }
    Result<std::unique_ptr<net::BackendQueue>> attach(EventLoop&, u32, net::QueueEvents e) override {
        events = std::move(e);
        return std::make_unique<Queue>(*this);
    }
    std::string describe() const override { return "test"; }
    void arrive(usize size, std::array<u8, 6> to) {
        std::vector<u8> packet(12 + size, 0x5a);
        std::fill_n(packet.begin(), 12, u8{0});
        std::copy(to.begin(), to.end(), packet.begin() + 12);
        packet[24] = 8;
        packet[25] = 0;
        arriving.push_back(std::move(packet));
        events.on_readable();
    }
    std::vector<std::vector<u8>> sent, arriving;
    net::QueueEvents events;
    net::Offloads now;
    bool full = false;
};

struct NetTest : testing::TestWithParam<u64> {
    static constexpr std::array<u8, 6> kMac{0x52, 0x54, 0, 1, 2, 3}, kOther{0x52, 0x54, 0, 9, 9, 9};
    Board board;
    TestBackend backend;
    std::unique_ptr<VirtioNet> device = VirtioNet::create(board.wiring, backend, {.mac = kMac, .pair_loops = {board.loop.get()}, .mtu = 1400}).value();
    Driver driver{board, *device};
    void SetUp() override { driver.start(GetParam() | (driver.offered() & ~(kPacked | kEvent)), 3); }
    int command(std::vector<u8> bytes) {
        ASSERT_OK(board.memory.write({0x20'0000}, bytes));
        driver.ring(0).set<u8>(0x20'1000, 0xee);
        if (!driver.submit(2, {{0x20'0000, static_cast<u32>(bytes.size()), false}, {0x20'1000, 1, true}})) return -1;
        return driver.ring(0).get<u8>(0x20'1000);
    }
    static void ASSERT_OK(const Result<>& result) { ASSERT_TRUE(result.has_value()); }
};

TEST_P(NetTest, SendsAndKeepsWhatTheBackEndDoesNotTake) {
    EXPECT_EQ(driver.submit(1, {{0x10'0000, 12, false}, {0x10'1000, 100, false}}), 0u);
    ASSERT_EQ(backend.sent.size(), 1u);
    EXPECT_EQ(backend.sent[0].size(), 112u);
    backend.full = true;
    driver.ring(1).add({{0x10'0000, 12, false}, {0x10'1000, 60, false}});
    driver.kick(1);
    board.serve();
    EXPECT_FALSE(driver.ring(1).take());
    backend.full = false;
    backend.events.on_writable();
    EXPECT_EQ(backend.sent.size(), 2u);
    EXPECT_TRUE(driver.ring(1).take());
    EXPECT_EQ(driver.submit(1, {{0x10'0000, 5, false}}), 0u);  // too short: dropped
    EXPECT_EQ(backend.sent.size(), 2u);
}

TEST_P(NetTest, LargePacketsSpanBuffers) {
    for (u32 i = 0; i < 4; ++i) driver.ring(0).add({{0x10'0000 + i * 0x1000, 512, true}});
    driver.kick(0);
    board.serve();
    backend.arrive(1200, kMac);
    board.serve();
    const auto first = driver.ring(0).take(), second = driver.ring(0).take(), third = driver.ring(0).take();
    ASSERT_TRUE(first && second && third);
    EXPECT_EQ(first->length + second->length + third->length, 1212u);
    EXPECT_EQ(driver.ring(0).get<u16>(0x10'0000 + 10), 3u);
    EXPECT_FALSE(driver.ring(0).take());
    backend.arrive(1200, kMac);  // one buffer is left: waits
    EXPECT_FALSE(driver.ring(0).take());
    EXPECT_EQ(backend.arriving.size(), 1u);
    for (u32 i = 0; i < 3; ++i) driver.ring(0).add({{0x10'0000 + i * 0x1000, 512, true}});
    driver.kick(0);
    board.serve();
    EXPECT_TRUE(driver.ring(0).take());
    EXPECT_TRUE(backend.arriving.empty());
}

TEST_P(NetTest, ControlQueueAndFilters) {
    EXPECT_EQ(command({0, 0, 0}), 0);  // not promiscuous
    for (u32 i = 0; i < 8; ++i) driver.ring(0).add({{0x10'0000 + i * 0x1000, 2048, true}});
    const auto arrives = [&](std::array<u8, 6> to) {
        backend.arrive(60, to);
        return driver.ring(0).take().has_value();
    };
    EXPECT_TRUE(arrives(kMac));
    EXPECT_FALSE(arrives(kOther));
    EXPECT_TRUE(arrives({255, 255, 255, 255, 255, 255}));
    EXPECT_FALSE(arrives({1, 0, 0x5e, 0, 0, 1}));
    EXPECT_EQ(command({1, 0, 1, 0, 0, 0, 0x52, 0x54, 0, 9, 9, 9, 1, 0, 0, 0, 1, 0, 0x5e, 0, 0, 1}), 0);
    EXPECT_TRUE(arrives(kOther));
    EXPECT_TRUE(arrives({1, 0, 0x5e, 0, 0, 1}));
    EXPECT_EQ(command({1, 0, 200, 0, 0, 0, 1, 2}), 1);  // shorter than it says
    EXPECT_EQ(command({1, 1, 0x52, 0x54, 0, 7, 7, 7}), 0);
    EXPECT_EQ(driver.get(kConfigAt + 5, 1), 7u);
    EXPECT_TRUE(backend.now.checksum);
    EXPECT_EQ(command({5, 0, 0, 0, 0, 0, 0, 0, 0, 0}), 0);
    EXPECT_FALSE(backend.now.checksum);
    EXPECT_EQ(command({5, 0, 0, 4, 0, 0, 0, 0, 0, 0}), 1);
    EXPECT_EQ(command({2, 0, 5, 0}), 0);
    EXPECT_EQ(command({9, 0}), 1);
    EXPECT_EQ(command({0}), 1);
}

TEST_P(NetTest, LinkAndAnnouncement) {
    board.sink.take(0x100);
    const u64 generation = driver.get(common::kConfigGeneration, 1);
    device->set_link(false);
    EXPECT_EQ(board.sink.take(0x100), 1u);
    EXPECT_EQ(driver.get(kConfigAt + 6, 2), 0u);
    EXPECT_NE(driver.get(common::kConfigGeneration, 1), generation);
    driver.ring(0).add({{0x10'0000, 2048, true}});
    backend.arrive(60, kMac);
    EXPECT_FALSE(driver.ring(0).take());
    device->set_link(true);
    board.serve();
    EXPECT_TRUE(driver.ring(0).take());
    device->announce();
    EXPECT_EQ(driver.get(kConfigAt + 6, 2), 3u);
    EXPECT_EQ(command({3, 0}), 0);
    EXPECT_EQ(driver.get(kConfigAt + 6, 2), 1u);
    EXPECT_EQ(driver.get(kConfigAt + 10, 2), 1400u);
}

TEST_P(NetTest, StateMoves) {
    EXPECT_EQ(command({0, 0, 0}), 0);
    EXPECT_EQ(command({5, 0, 0, 0, 0, 0, 0, 0, 0, 0}), 0);
    device->pause();
    state::Section saved;
    device->save(saved);
    device->reset();
    backend.now.checksum = true;
    ASSERT_TRUE(device->load(saved, state::kStateVersion));
    EXPECT_FALSE(backend.now.checksum);
    device->resume();
    driver.ring(0).add({{0x10'0000, 2048, true}});
    backend.arrive(60, kOther);
    board.serve();
    EXPECT_FALSE(driver.ring(0).take());
    backend.arrive(60, kMac);
    EXPECT_TRUE(driver.ring(0).take());
}

INSTANTIATE_TEST_SUITE_P(Rings, NetTest, testing::Values(u64{0}, kEvent, kPacked | kEvent),
                         [](const auto& layout) { return fmt::format("Features{:x}", layout.param); });

// Console ---------------------------------------------------------------------------------------------------------------

struct TestChardev final : chardev::Chardev {
    void attach(Events e) override { events = std::move(e); }
    void write(std::span<const u8> bytes) override { output.append(bytes.begin(), bytes.end()); }
    void resume_input() override { ++resumed; }
    std::string describe() const override { return "test"; }
    usize type(std::string_view text) { return events.on_input({reinterpret_cast<const u8*>(text.data()), text.size()}); }
    Events events;
    std::string output;
    int resumed = 0;
};

struct ConsoleTest : testing::Test {
    Board board;
    TestChardev terminal, agent;
    std::unique_ptr<VirtioConsole> device = VirtioConsole::create(board.wiring, {.loop = board.loop.get(),
        .ports = {{"", &terminal, true}, {"org.vezha.agent", &agent, false}}, .columns = 80, .rows = 25}).value();
    Driver driver{board, *device};
    void control(u32 port, u16 event, u16 value) {
        auto& ring = driver.ring(3);
        ring.set(0x20'0000, port);
        ring.set(0x20'0004, event);
        ring.set(0x20'0006, value);
        EXPECT_TRUE(driver.submit(3, {{0x20'0000, 8, false}}));
    }
    /// The next control message as "port event value text".
    std::string message() {
        auto& ring = driver.ring(2);
        const auto used = ring.take();
        if (!used) return "";
        const u64 at = 0x30'0000 + 0x100 * (next++ % 32);
        std::string text(used->length - 8, ' ');
        EXPECT_TRUE(board.memory.read({at + 8}, {reinterpret_cast<u8*>(text.data()), text.size()}));
        return fmt::format("{} {} {} {}", ring.get<u32>(at), ring.get<u16>(at + 4), ring.get<u16>(at + 6), text);
    }
    unsigned next = 0;
};

TEST_F(ConsoleTest, PortZeroWithoutMultiport) {
    driver.start(1, 2);
    EXPECT_EQ(driver.get(kConfigAt, 2), 80u);
    ASSERT_TRUE(board.memory.write({0x10'0000}, std::span<const u8>(reinterpret_cast<const u8*>("hello"), 5)));
    EXPECT_EQ(driver.submit(1, {{0x10'0000, 3, false}, {0x10'0003, 2, false}}), 0u);
    EXPECT_EQ(terminal.output, "hello");
    EXPECT_EQ(terminal.type("abcd"), 0u);
    const int before = terminal.resumed;
    driver.ring(0).add({{0x10'0000, 2, true}});
    driver.ring(0).add({{0x10'0100, 2, true}});
    driver.kick(0);
    board.serve();
    EXPECT_EQ(terminal.resumed, before + 1);
    EXPECT_EQ(terminal.type("abcdef"), 4u);
    EXPECT_EQ(driver.ring(0).get<u16>(0x10'0100), 0x6463);
    device->resize(132, 50);
    EXPECT_EQ(driver.get(kConfigAt + 2, 2), 50u);
    EXPECT_EQ(board.sink.take(0x100), 1u);
}

TEST_F(ConsoleTest, NamedPorts) {
    driver.start(2, 6);
    for (u32 i = 0; i < 32; ++i) driver.ring(2).add({{0x30'0000 + 0x100 * i, 0x100, true}});
    driver.kick(2);
    board.serve();
    control(0, 0, 1);
    EXPECT_EQ(message(), "0 1 1 ");
    EXPECT_EQ(message(), "1 1 1 ");
    control(0, 3, 1);
    EXPECT_EQ(message(), "0 4 1 ");
    EXPECT_EQ(message().substr(0, 6), "0 5 0 ");
    EXPECT_EQ(message(), "0 6 1 ");
    control(1, 3, 1);
    EXPECT_EQ(message(), "1 7 1 org.vezha.agent");
    EXPECT_EQ(message(), "1 6 1 ");
    driver.ring(4).add({{0x10'0000, 64, true}});
    EXPECT_EQ(agent.type("x"), 0u);  // not open
    control(1, 6, 1);
    EXPECT_TRUE(device->guest_open(1));
    EXPECT_EQ(agent.type("x"), 1u);
    agent.events.on_connection(false);
    EXPECT_EQ(message(), "1 6 0 ");
    control(99, 6, 1);
    EXPECT_EQ(driver.submit(5, {{0x10'0000, 1, false}}), 0u);
    EXPECT_EQ(agent.output, "x");
}

// Balloon ---------------------------------------------------------------------------------------------------------------

TEST(BalloonTest, GivesMemoryBackAndReports) {
    Board board;
    auto device = VirtioBalloon::create(board.wiring, {.loop = board.loop.get()}).value();
    u64 changed = 0;
    device->set_on_change([&](u64 actual) { changed = actual; });
    Driver driver(board, *device);
    driver.start(driver.offered(), 4);
    auto& ring = driver.ring(0);
    device->set_target(Board::kRam - 4 * kPageSize);
    EXPECT_EQ(driver.get(kConfigAt, 4), 4u);
    EXPECT_EQ(board.sink.take(0x100), 1u);
    for (u32 i = 0; i < 4; ++i) ring.set<u32>((0x300 + i) * kPageSize, 0x1234);
    ring.set<u32>(0x20'0000, 0x302);
    ring.set<u32>(0x20'0004, 0x300);
    ring.set<u32>(0x20'0008, 0x301);
    ring.set<u32>(0x20'000c, 0xffff'ffff);  // nonsense is ignored
    EXPECT_EQ(driver.submit(0, {{0x20'0000, 16, false}}), 0u);
    for (u32 i = 0; i < 4; ++i) EXPECT_EQ(ring.get<u32>((0x300 + i) * kPageSize), i < 3 ? 0u : 0x1234u);
    driver.set(kConfigAt + 4, 4, 3);
    EXPECT_EQ(changed, Board::kRam - 3 * kPageSize);
    EXPECT_EQ(device->actual(), changed);
    EXPECT_EQ(driver.submit(1, {{0x20'0000, 12, false}}), 0u);
    // Statistics stay with us until the next question.
    struct [[gnu::packed]] {
        u16 tag;
        u64 value;
    } statistic{4, 777};
    ASSERT_TRUE(board.memory.write_object({0x21'0000}, statistic));
    driver.ring(2).add({{0x21'0000, 10, false}});
    driver.kick(2);
    board.serve();
    EXPECT_FALSE(driver.ring(2).take());
    EXPECT_EQ(device->statistics().values[BalloonStatistics::Free], 777u);
    device->set_statistics_interval(1);
    board.loop->run_once(100);
    EXPECT_TRUE(driver.ring(2).take());
    // Free page report.
    EXPECT_EQ(driver.submit(3, {{0x303 * kPageSize, kPageSize, true}}), 0u);
    EXPECT_EQ(ring.get<u32>(0x303 * kPageSize), 0u);
    EXPECT_EQ(device->reported_bytes(), kPageSize);
}

// Hostile requests ------------------------------------------------------------------------------------------------------

TEST(HostileDriver, RandomChainsOnEveryQueue) {
    std::mt19937_64 random(11);
    Board board;
    TestDisk disk;
    TestBackend backend;
    TestChardev chardev;
    std::vector<std::unique_ptr<PciDevice>> devices;
    devices.push_back(VirtioBlock::create(board.wiring, disk, {.queues = {{board.loop.get(), 64}}}).value());
    devices.push_back(VirtioNet::create(board.wiring, backend, {.pair_loops = {board.loop.get()}}).value());
    devices.push_back(VirtioConsole::create(board.wiring, {.loop = board.loop.get(), .ports = {{"", &chardev, true}, {"a", &chardev, false}}}).value());
    devices.push_back(VirtioBalloon::create(board.wiring, {.loop = board.loop.get()}).value());
    devices.push_back(VirtioEntropy::create(board.wiring, {board.loop.get(), 64}).value());
    const std::array<u16, 5> queues{1, 3, 6, 4, 1};
    for (usize which = 0; which < devices.size(); ++which) {
        Driver driver(board, *devices[which]);
        for (u32 round = 0; round < 60; ++round) {
            driver.start(driver.offered() & (random() | bit(kVersion1)), queues[which]);
            for (u32 step = 0; step < 20; ++step) {
                const u16 index = static_cast<u16>(random() % queues[which]);
                std::vector<model::Piece> pieces;
                const bool writes_only = random() % 4 == 0;
                const usize reads = random() % 4;
                for (usize i = 0, count = 1 + random() % 5; i < count; ++i) {
                    const u64 at = 0x40'0000 + random() % 0x10'0000;
                    for (u64 word = 0; word < 4; ++word) driver.ring(0).set<u64>(at + 8 * word, random() % 3 ? random() % 16 : random());
                    pieces.push_back({at, static_cast<u32>(random() % 3 ? random() % 64 : random() % 70000), writes_only || i >= reads});
                }
                driver.ring(index).add(pieces, random() % 2);
                driver.kick(index);
                if (random() % 4 == 0) backend.arriving.push_back(std::vector<u8>(12 + random() % 3000));
                board.serve(2);
                while (driver.ring(index).take()) {}
            }
            backend.sent.clear();
        }
        driver.set(common::kStatus, 1, 0);
        EXPECT_EQ(driver.status(), 0);
        board.root.remove(*devices[which]);
    }
}

}  // namespace
}  // namespace vezha::devices::virtio
