// SPDX-License-Identifier: Apache-2.0
// A guest that writes anything anywhere, and saved states with anything in them: nothing may crash, hang or trip a
// sanitizer. Seeded, so that a failure repeats.
#include <gtest/gtest.h>

#include <random>

#include "devices/platform/acpi_pm.h"
#include "devices/platform/debug_ports.h"
#include "devices/platform/fw_cfg.h"
#include "devices/platform/hpet.h"
#include "devices/platform/i8042.h"
#include "devices/platform/ioapic.h"
#include "devices/platform/pic.h"
#include "devices/platform/pit.h"
#include "devices/platform/rtc.h"
#include "devices/platform/system_ports.h"
#include "devices/platform/uart.h"

namespace vezha::devices::platform {
namespace {

struct Ignore final : bus::MsiSink, PlatformEvents, bus::IrqLine {
    void send(const bus::MsiMessage&) override {}
    Result<std::unique_ptr<bus::MsiRoute>> new_route() override { return fail(ErrorCode::Unsupported, "none"); }
    void shutdown() override {}
    void reset() override {}
    void panicked(bool) override {}
    void debug_exit(u8) override {}
    void set(bool) override {}
};

struct Host final : chardev::Chardev {
    void attach(Events e) override { events = std::move(e); }
    void write(std::span<const u8>) override {}
    void resume_input() override {}
    std::string describe() const override { return "test"; }
    Events events;
};

struct Everything {
    bus::Bus bus;
    bus::ManualClock clock;
    memory::GuestMemory memory{{}};
    Ignore ignore;
    Host host;
    Pic pic{bus, nullptr};
    IoApic ioapic{bus, ignore, nullptr};
    Hpet hpet{bus, clock, ignore, pic.line(0), pic.line(8)};
    Pit pit{bus, clock, hpet.pit_line()};
    Rtc rtc{bus, clock, hpet.rtc_line(), [this] { return u64{1'700'000'000} * kNsPerSec + clock.now_ns(); }};
    I8042 kbc{bus, pic.line(1), pic.line(12), ignore};
    Uart uart{bus, clock, pic.line(4), &host, 0x3f8, "com1"};
    AcpiPm pm{bus, clock, pic.line(9), ignore, 0x600, false};
    SystemPorts ports{bus, ignore};
    PvPanic panic{bus, ignore};
    FwCfg fw_cfg{bus, memory};
    std::vector<state::Stateful*> all{&pic, &ioapic, &hpet, &pit, &rtc, &kbc, &uart, &pm, &ports, &fw_cfg};
};

class RandomAccess : public testing::TestWithParam<unsigned> {
  protected:
    std::mt19937_64 random{GetParam()};
    u64 pick(u64 below) { return random() % below; }
    u64 value() {
        switch (pick(4)) {
            case 0: return pick(256);
            case 1: return u64{1} << pick(64);
            case 2: return ~u64{0} >> pick(64);
            default: return random();
        }
    }
    void access(Everything& e, const std::vector<bus::Bus::MappingInfo>& places) {
        const auto& place = places[pick(places.size())];
        const unsigned size = 1u << pick(place.space == bus::Space::Pio ? 3 : 4);
        // Small offsets hold the registers.
        const u64 offset = pick(pick(2) ? place.size : std::min<u64>(place.size, 0x40));
        if (pick(3)) e.bus.write(place.space, place.base + offset, size, value());
        else e.bus.read(place.space, place.base + offset, size);
        switch (pick(40)) {
            case 0: e.clock.advance(pick(3'000'000)); break;
            case 1: e.pic.acknowledge(); break;
            case 2: e.ioapic.eoi(static_cast<u8>(pick(256))); break;
            case 3: e.ioapic.line(static_cast<unsigned>(pick(24))).set(pick(2)); break;
            case 4: e.pic.line(static_cast<unsigned>(pick(16))).set(pick(2)); break;
            case 5: {
                const std::vector<u8> bytes(pick(40), 'x');
                std::lock_guard lock(order);
                EXPECT_LE(e.host.events.on_input(bytes), bytes.size());
                break;
            }
            case 6: e.kbc.type(std::array<u8, 2>{0x1e, 0x9e}); break;
            case 7: e.kbc.move_mouse(static_cast<int>(pick(2000)) - 1000, 3, 1); break;
            default: break;
        }
    }
    std::mutex order;
};

TEST_P(RandomAccess, NothingBreaks) {
    Everything e;
    ASSERT_TRUE(e.memory.add_region("ram", {0}, kMiB));
    ASSERT_TRUE(e.fw_cfg.add_file("etc/a", std::vector<u8>(100), [](std::span<const u8>) {}));
    const auto places = e.bus.mappings();
    for (int i = 0; i < 30'000; ++i) {
        access(e, places);
        if (pick(5000) == 0) e.all[pick(e.all.size())]->reset();
    }
}

TEST_P(RandomAccess, DamagedStatesAreRefusedOrHarmless) {
    Everything e;
    ASSERT_TRUE(e.memory.add_region("ram", {0}, kMiB));
    const auto places = e.bus.mappings();
    for (int i = 0; i < 300; ++i) {
        for (int j = 0; j < 20; ++j) access(e, places);
        state::Stateful& device = *e.all[pick(e.all.size())];
        state::Section section, damaged;
        device.save(section);
        for (auto [name, bytes] : section.fields()) {
            for (u8& byte : bytes)
                if (pick(4) == 0) byte = static_cast<u8>(pick(256));
            if (pick(10) == 0) bytes.resize(pick(2 * bytes.size() + 1));
            damaged.put(name, bytes);
        }
        if (!device.load(damaged, state::kStateVersion)) device.reset();
    }
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomAccess, testing::Range(1u, 6u));

}  // namespace
}  // namespace vezha::devices::platform
