// SPDX-License-Identifier: Apache-2.0
// A guest that writes anything into configuration space and BARs of a whole bus tree. Seeded, so that a failure repeats.
#include <gtest/gtest.h>

#include <random>

#include "devices/pci/host_bridge.h"
#include "devices/pci/lpc.h"
#include "devices/pci/root_port.h"
#include "devices/pci/smbus.h"

namespace vezha::devices::pci {
namespace {

struct Sink final : bus::MsiSink {
    struct Route final : bus::MsiRoute {
        void set(const bus::MsiMessage&) override {}
        void trigger() override {}
        int event_fd() override { return -1; }
    };
    void send(const bus::MsiMessage&) override {}
    Result<std::unique_ptr<bus::MsiRoute>> new_route() override { return std::make_unique<Route>(); }
};

class Endpoint final : public Function {
  public:
    Endpoint(bus::Bus& bus, bus::MsiSink& sink) : Function(bus, sink, "endpoint", {0x1af4, 0x1041, 0x020000}) {
        set_interrupt_pin(1);
        add_bar(0, BarKind::Io, 64);
        add_bar(1, BarKind::Memory32, 4096);
        add_bar(2, BarKind::Memory64, 0x4000, true);
        add_express_capability();
        add_power_management();
        add_msix(5, 2, 0x1000, 0x2000);
        add_msi(8);
        add_extended_capability(3, 1, std::array<u8, 8>{1, 2, 3, 4, 5, 6, 7, 8});
    }
};

struct Board {
    bus::Bus bus;
    Sink sink;
    std::array<int, 24> gsi{};
    std::array<int, 16> pic{};
    PirqRouter router{[this](unsigned n, bool on) { gsi[n] = on; }, [this](unsigned n, bool on) { pic[n] = on; }};
    PciBus root{router};
    HostBridge host{bus, sink, root, {}};
    std::optional<u16> pm;
    Lpc lpc{bus, sink, router, [this](std::optional<u16> base) { pm = base; }, {}};
    Smbus smbus{bus, sink};
    RootPort port{bus, sink, 1};
    Endpoint direct{bus, sink}, behind{bus, sink};
    std::vector<Function*> all{&host, &lpc, &smbus, &port, &direct, &behind};
    Board() {
        EXPECT_TRUE(root.add(lpc, Slot{31, 0}));
        EXPECT_TRUE(root.add(smbus, Slot{31, 3}));
        EXPECT_TRUE(root.add(port, Slot{2, 0}));
        EXPECT_TRUE(root.add(direct, Slot{3, 0}));
        EXPECT_TRUE(port.secondary().add(behind, Slot{0, 0}));
    }
    u32 in(u32 bdf, u16 at) {
        bus.write(bus::Space::Pio, 0xcf8, 4, 0x8000'0000 | bdf << 8 | at);
        return static_cast<u32>(bus.read(bus::Space::Pio, 0xcfc, 4));
    }
    void out(u32 bdf, u16 at, u32 value) {
        bus.write(bus::Space::Pio, 0xcf8, 4, 0x8000'0000 | bdf << 8 | at);
        bus.write(bus::Space::Pio, 0xcfc, 4, value);
    }
};

TEST(Q35, BothWaysIntoConfigurationSpace) {
    Board b;
    EXPECT_EQ(b.in(0, 0), 0x29c0'8086u);
    EXPECT_EQ(b.in(0xf8, 0), 0x2918'8086u);
    EXPECT_EQ(b.in(0xfb, 0), 0x2930'8086u);
    EXPECT_EQ(b.in(0xf9, 0), 0xffff'ffffu);
    EXPECT_EQ(b.bus.read(bus::Space::Mmio, 0xb000'0000 + (31 << 15), 4), 0x2918'8086u);
    EXPECT_EQ(b.bus.read(bus::Space::Pio, 0xcfe, 2), 0xffffu);
    EXPECT_EQ(b.bus.read(bus::Space::Mmio, 0xb000'0000 + (3 << 15) + 0x100, 8), 0x0403'0201'0001'0003u);
    EXPECT_EQ(b.pm, u16{0x600});
    b.out(0xf8, 0x40, 0xb001);
    EXPECT_EQ(b.pm, u16{0xb000});
    b.out(0, 0x60, 0xe000'0001);
    EXPECT_EQ(b.bus.read(bus::Space::Mmio, 0xe000'0000, 4), 0x29c0'8086u);
    EXPECT_EQ(b.bus.read(bus::Space::Mmio, 0xb000'0000, 4), 0xffff'ffffu);
    b.out(2 << 3, kPrimaryBus, 0x00'01'01'00);
    EXPECT_EQ(b.in(1 << 8, 0), 0x1041'1af4u);
}

TEST(Q35, InterruptsReachTheirInputs) {
    Board b;
    b.direct.set_intx(true);
    EXPECT_EQ(b.gsi[16 + PirqRouter::pirq(3, 0)], 1);
    b.behind.set_intx(true);
    EXPECT_EQ(b.gsi[16 + PirqRouter::pirq(2, 0)], 1);
    // PIRQ H (device 3, INTA) to PIC input 11.
    b.out(0xf8, 0x68, 0x0b80'8080);
    EXPECT_EQ(b.pic[11], 1);
    b.direct.set_intx(false);
    EXPECT_EQ(b.pic[11], 0);
    EXPECT_EQ(b.gsi[16 + PirqRouter::pirq(3, 0)], 0);
}

class RandomConfig : public testing::TestWithParam<unsigned> {};

TEST_P(RandomConfig, NothingBreaks) {
    Board b;
    std::mt19937_64 random{GetParam()};
    const auto pick = [&](u64 below) { return random() % below; };
    const auto value = [&] { return pick(2) ? random() : u64{1} << pick(64); };
    for (int i = 0; i < 20'000; ++i) {
        const unsigned size = 1u << pick(4);
        static constexpr u32 kPlaces[] = {0, 0xf8, 0xfb, 2 << 3, 3 << 3, 1 << 8, 0x500};
        const u32 bdf = kPlaces[pick(std::size(kPlaces))];
        const u64 at = pick(pick(4) ? 0x100 : 0x1000);
        // ECAM may have been moved or switched off; ports always work.
        if (pick(2)) {
            b.bus.write(bus::Space::Mmio, 0xb000'0000 + (u64{bdf} << 12) + at, size, value());
        } else {
            b.bus.write(bus::Space::Pio, 0xcf8, 4, 0x8000'0000 | bdf << 8 | (at & 0xfc));
            if (pick(3)) b.bus.write(bus::Space::Pio, 0xcfc + (at & 3), size, value());
            else b.bus.read(bus::Space::Pio, 0xcfc + (at & 3), size);
        }
        if (pick(50) == 0) {
            const auto places = b.bus.mappings();
            const auto& place = places[pick(places.size())];
            if (pick(2)) b.bus.write(place.space, place.base + pick(place.size), size, value());
            else b.bus.read(place.space, place.base + pick(place.size), size);
        }
        Endpoint& endpoint = pick(2) ? b.direct : b.behind;
        switch (pick(30)) {
            case 0: endpoint.set_intx(pick(2)); break;
            case 1: endpoint.msix().notify(static_cast<u16>(pick(7))); break;
            case 2: endpoint.msi().notify(static_cast<u8>(pick(10))); break;
            case 3:
                if (pick(20) == 0) b.all[pick(b.all.size())]->reset();
                break;
            case 4: {
                if (pick(20)) break;
                Function& function = *b.all[pick(b.all.size())];
                state::Section section, damaged;
                function.save(section);
                for (auto [name, bytes] : section.fields()) {
                    for (usize k = name == "pci.config" ? 4 : 0; k < bytes.size(); ++k)
                        if (pick(3) == 0) bytes[k] = static_cast<u8>(pick(256));
                    damaged.put(name, bytes);
                }
                if (!function.load(damaged, state::kStateVersion)) function.reset();
                break;
            }
            default: break;
        }
    }
    for (Function* function : b.all) function->reset();
    for (int level : b.gsi) EXPECT_EQ(level, 0);
    EXPECT_EQ(b.in(0, 0), 0x29c0'8086u);
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomConfig, testing::Range(1u, 6u));

}  // namespace
}  // namespace vezha::devices::pci
