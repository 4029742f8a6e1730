// SPDX-License-Identifier: Apache-2.0
#include "devices/pci/function.h"

#include <gtest/gtest.h>

#include "devices/pci/bridge.h"
#include "devices/pci/pci_bus.h"

namespace vezha::devices::pci {
namespace {

struct Sink final : bus::MsiSink {
    struct Route final : bus::MsiRoute {
        explicit Route(Sink& s) : sink(s) {}
        void set(const bus::MsiMessage& m) override { message = m; }
        void trigger() override { sink.send(message); }
        int event_fd() override { return -1; }
        Sink& sink;
        bus::MsiMessage message;
    };
    void send(const bus::MsiMessage& message) override { sent.push_back(message); }
    Result<std::unique_ptr<bus::MsiRoute>> new_route() override { return std::make_unique<Route>(*this); }
    std::vector<bus::MsiMessage> sent;
};

struct Router final : IntxRouter {
    void set_intx(u8 device, u8 pin, bool asserted) override { last = {device, pin, asserted}; }
    std::tuple<u8, u8, bool> last{};
};

class Sample final : public Function {
  public:
    Sample(bus::Bus& bus, bus::MsiSink& sink) : Function(bus, sink, "sample", {0x1af4, 0x1041, 0x020000, 1, 0x1af4, 0x1100}) {
        set_interrupt_pin(1);
        add_bar(0, BarKind::Io, 32);
        add_bar(1, BarKind::Memory32, 4096);
        add_bar(4, BarKind::Memory64, 16384, true);
        add_express_capability();
        add_msix(3, 1, 0, 2048);
        add_msi(4);
        const std::array<u8, 4> body{1, 2, 3, 4}, writable{0, 0, 0xf0, 0};
        vendor = add_capability(kCapVendor, body, writable,
                                {.before_read = nullptr, .after_write = [this](u16 offset, unsigned) { hook = offset; }});
    }
    u64 bar_read(unsigned bar, u64 offset, unsigned) override { return bar << 16 | offset; }
    void bar_write(unsigned, u64, unsigned, u64 value) override { written = value; }
    void reset_device() override { ++resets; }
    void bar_moved(unsigned, std::optional<u64> base) override { moved = base; }
    u8 cap(u8 id) {
        for (u8 at = static_cast<u8>(config_read(kCapabilities, 1)); at; at = static_cast<u8>(config_read(at + 1, 1)))
            if (config_read(at, 1) == id) return at;
        return 0;
    }
    u8 vendor = 0;
    int hook = -1, resets = 0;
    u64 written = 0;
    std::optional<u64> moved;
};

struct FunctionTest : testing::Test {
    bus::Bus bus;
    Sink sink;
    Router router;
    PciBus root{router};
    Sample f{bus, sink};
    void SetUp() override { ASSERT_TRUE(root.add(f, Slot{3, 0})); }
    u32 get(u16 at, unsigned size = 4) { return root.config_read(0, {3, 0}, at, size); }
    void set(u16 at, u32 value, unsigned size = 4) { root.config_write(0, {3, 0}, at, size, value); }
};

TEST_F(FunctionTest, SaysWhatItIs) {
    EXPECT_EQ(get(0), 0x1041'1af4u);
    EXPECT_EQ(get(8), 0x02000001u);
    EXPECT_EQ(get(0x2c), 0x1100'1af4u);
    EXPECT_EQ(root.config_read(0, {4, 0}, 0, 2), 0xffffu);
    EXPECT_EQ(root.config_read(1, {3, 0}, 0, 4), 0xffff'ffffu);
    EXPECT_EQ(f.state_name(), "pci/00:03.0/sample");
    set(0, 0);
    EXPECT_EQ(get(0), 0x1041'1af4u);
    EXPECT_EQ(get(f.cap(kCapExpress) + 2, 1) >> 4, 9u);
}

TEST_F(FunctionTest, BarsAreSizedAndMapped) {
    set(0x10, 0xffff'ffff);
    set(0x14, 0xffff'ffff);
    set(0x20, 0xffff'ffff);
    set(0x24, 0xffff'ffff);
    EXPECT_EQ(get(0x10), 0xffff'ffe1u);
    EXPECT_EQ(get(0x14), 0xffff'f000u);
    EXPECT_EQ(get(0x20), 0xffff'c00cu);
    EXPECT_EQ(get(0x24), 0xffff'ffffu);
    set(kCommand, 7, 2);
    EXPECT_TRUE(bus.mappings().empty());
    set(0x10, 0xc001);
    set(0x14, 0xc000'0000);
    set(0x20, 0x0);
    set(0x24, 0x20);
    EXPECT_EQ(bus.mappings().size(), 3u);
    EXPECT_EQ(f.moved, 0x20'0000'0000u);
    EXPECT_EQ(bus.read(bus::Space::Pio, 0xc004, 4), 4u);
    EXPECT_EQ(bus.read(bus::Space::Mmio, 0xc000'0c00, 4), 0x10c00u);
    EXPECT_EQ(bus.read(bus::Space::Mmio, 0x20'0000'0008, 4), 0x40008u);
    set(kCommand, 1, 2);
    EXPECT_EQ(bus.mappings().size(), 1u);
}

TEST_F(FunctionTest, MsixMasksAndRemembers) {
    const u8 at = f.cap(kCapMsix);
    EXPECT_EQ(get(at + 2, 2), 2u);
    set(0x14, 0xc000'0000);
    set(kCommand, 6, 2);
    f.msix().notify(1);  // off: lost
    set(at + 2, 0x8000, 2);
    bus.write(bus::Space::Mmio, 0xc000'0010, 4, 0xfee0'1000);
    bus.write(bus::Space::Mmio, 0xc000'0018, 4, 0x31);
    f.msix().notify(1);  // masked
    f.msix().notify(7);  // does not exist
    EXPECT_EQ(bus.read(bus::Space::Mmio, 0xc000'0800, 8), 2u);
    EXPECT_TRUE(sink.sent.empty());
    set(at + 2, 0xc000, 2);
    bus.write(bus::Space::Mmio, 0xc000'001c, 4, 0);
    EXPECT_TRUE(sink.sent.empty());  // function mask
    set(at + 2, 0x8000, 2);
    ASSERT_EQ(sink.sent.size(), 1u);
    EXPECT_EQ(sink.sent[0], (bus::MsiMessage{0xfee0'1000, 0x31}));
    EXPECT_EQ(bus.read(bus::Space::Mmio, 0xc000'0800, 8), 0u);
    f.msix().notify(1);
    EXPECT_EQ(sink.sent.size(), 2u);
    bus.write(bus::Space::Mmio, 0xc000'0018, 4, 0x32);  // the cached route follows
    f.msix().notify(1);
    EXPECT_EQ(sink.sent.back().data, 0x32u);
}

TEST_F(FunctionTest, MsiUsesTheVectorsItIsGranted) {
    const u8 at = f.cap(kCapMsi);
    set(at + 4, 0xfee0'0000);
    set(at + 12, 0x40, 2);
    set(at + 16, 1u << 1);
    set(kCommand, 4, 2);
    set(at + 2, 0x21, 2);  // enabled, four vectors
    f.msi().notify(3);
    ASSERT_EQ(sink.sent.size(), 1u);
    EXPECT_EQ(sink.sent[0].data, 0x43u);
    f.msi().notify(1);
    EXPECT_EQ(sink.sent.size(), 1u);
    EXPECT_EQ(get(at + 20), 2u);
    set(at + 16, 0);
    EXPECT_EQ(sink.sent.back().data, 0x41u);
    set(at + 2, 0x01, 2);
    f.msi().notify(3);
    EXPECT_EQ(sink.sent.back().data, 0x40u);
}

TEST_F(FunctionTest, IntxIsGatedAndVisible) {
    f.set_intx(true);
    EXPECT_EQ(router.last, std::make_tuple(u8{3}, u8{0}, true));
    EXPECT_TRUE(get(kStatus, 2) & kStatusInterrupt);
    set(kCommand, kCommandIntxDisable, 2);
    EXPECT_FALSE(std::get<2>(router.last));
    EXPECT_TRUE(get(kStatus, 2) & kStatusInterrupt);
    set(kCommand, 0, 2);
    EXPECT_TRUE(std::get<2>(router.last));
    set(f.cap(kCapMsix) + 2, 0x8000, 2);
    EXPECT_FALSE(std::get<2>(router.last));
}

TEST_F(FunctionTest, CapabilityMasksAndHooks) {
    set(f.vendor + 2, 0xffff'ffff);
    EXPECT_EQ(get(f.vendor + 2), 0x04f3'0201u);
    EXPECT_EQ(f.hook, 2);
}

TEST_F(FunctionTest, FunctionLevelResetKeepsIdentityOnly) {
    set(0x14, 0xc000'0000);
    set(kCommand, 6, 2);
    EXPECT_TRUE(f.bus_master());
    set(f.cap(kCapExpress) + 8, 0x8000, 2);
    EXPECT_EQ(f.resets, 1);
    EXPECT_EQ(get(kCommand, 2), 0u);
    EXPECT_EQ(get(0x14), 0u);
    EXPECT_FALSE(f.bus_master());
    EXPECT_EQ(get(0), 0x1041'1af4u);
    EXPECT_TRUE(bus.mappings().empty());
}

TEST_F(FunctionTest, StateSurvives) {
    set(0x14, 0xc000'0000);
    set(kCommand, 6, 2);
    set(f.cap(kCapMsix) + 2, 0x8000, 2);
    bus.write(bus::Space::Mmio, 0xc000'0010, 8, 0xfee0'2000);
    bus.write(bus::Space::Mmio, 0xc000'0018, 8, 0x55);
    state::Section section;
    f.save(section);
    bus::Bus other_bus;
    PciBus other_root{router};
    Sample other(other_bus, sink);
    ASSERT_TRUE(other_root.add(other, Slot{3, 0}));
    auto decoded = state::Section::decode(section.encode());
    ASSERT_TRUE(other.load(*decoded, 1));
    other.msix().notify(1);
    ASSERT_EQ(sink.sent.size(), 1u);
    EXPECT_EQ(sink.sent[0], (bus::MsiMessage{0xfee0'2000, 0x55}));
    EXPECT_EQ(other_bus.read(bus::Space::Mmio, 0xc000'0c00, 4), 0x10c00u);
    section.put("msix.table", std::vector<u8>(5));
    EXPECT_FALSE(other.load(section, 1));
}

TEST_F(FunctionTest, BridgesForwardConfigurationAndSwizzle) {
    Bridge bridge(bus, sink, "bridge", {0x8086, 0x3420, 0x060400});
    ASSERT_TRUE(root.add(bridge, Slot{5, 0}));
    Sample behind(bus, sink);
    ASSERT_TRUE(bridge.secondary().add(behind, Slot{2, 0}));
    EXPECT_EQ(root.config_read(1, {2, 0}, 0, 4), 0xffff'ffffu);
    root.config_write(0, {5, 0}, kPrimaryBus, 4, 0x00'02'01'00);
    EXPECT_EQ(root.config_read(1, {2, 0}, 0, 4), 0x1041'1af4u);
    EXPECT_EQ(root.config_read(2, {2, 0}, 0, 4), 0xffff'ffffu);
    behind.set_intx(true);
    EXPECT_EQ(router.last, std::make_tuple(u8{5}, u8{2}, true));
    root.config_write(0, {5, 0}, kBridgeControl, 2, 0x40);
    EXPECT_EQ(behind.resets, 1);
    EXPECT_FALSE(std::get<2>(router.last));
    EXPECT_EQ(behind.state_name(), "pci/00:05/02.0/sample");
}

}  // namespace
}  // namespace vezha::devices::pci
