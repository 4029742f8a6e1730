// SPDX-License-Identifier: Apache-2.0
#include "machine/pci_setup.h"

#include <gtest/gtest.h>

namespace vezha::machine {
namespace {
using namespace devices::pci;  // NOLINT: what the test is about

struct NoSink final : bus::MsiSink {
    void send(const bus::MsiMessage&) override {}
    Result<std::unique_ptr<bus::MsiRoute>> new_route() override { return fail(ErrorCode::Unsupported, "none"); }
};
struct NoRouter final : IntxRouter {
    void set_intx(u8, u8, bool) override {}
};

class Card final : public Function {
  public:
    Card(bus::Bus& bus, bus::MsiSink& msi, u64 size32, u64 size64) : Function(bus, msi, "card", {0x1234, 1, 0xff0000}) {
        add_bar(0, BarKind::Memory32, size32);
        add_bar(1, BarKind::Io, 32);
        add_bar(2, BarKind::Memory64, size64, true);
    }
};

TEST(PciSetup, AddressesAreAlignedAndApart) {
    bus::Bus bus;
    NoSink sink;
    NoRouter router;
    PciBus root(router);
    Card small(bus, sink, 4096, 16384), large(bus, sink, kMiB, 256 * kMiB);
    ASSERT_TRUE(root.add(small, u8{1}));
    ASSERT_TRUE(root.add(large, u8{1}));
    const PciWindows windows{0xc000'0000, 0xd000'0000, 0x8'0000'0000, 0x9'0000'0000};
    ASSERT_TRUE(assign_pci_resources(root, windows));
    for (Card* card : {&small, &large}) {
        std::lock_guard lock(card->mutex());
        EXPECT_FALSE(card->bar_base(0)) << "decoding is the operating system's to switch on";
        card->config_write(kCommand, 2, kCommandMemory | kCommandIo);
        for (const unsigned bar : {0u, 1u, 2u}) {
            ASSERT_TRUE(card->bar_base(bar));
            EXPECT_EQ(*card->bar_base(bar) % card->bar_size(bar), 0u);
        }
        EXPECT_GE(*card->bar_base(0), windows.base32);
        EXPECT_GE(*card->bar_base(2), windows.base64);
    }
    EXPECT_NE(*small.bar_base(0), *large.bar_base(0));
    EXPECT_NE(*small.bar_base(1), *large.bar_base(1));
}

TEST(PciSetup, RunsOutOfSpaceWithAName) {
    bus::Bus bus;
    NoSink sink;
    NoRouter router;
    PciBus root(router);
    Card card(bus, sink, kMiB, kMiB);
    ASSERT_TRUE(root.add(card, u8{1}));
    auto result = assign_pci_resources(root, {0xc000'0000, 0xc000'1000, 0x8'0000'0000, 0x9'0000'0000});
    ASSERT_FALSE(result);
    EXPECT_NE(result.error().message().find("card"), std::string::npos);
}

}  // namespace
}  // namespace vezha::machine
