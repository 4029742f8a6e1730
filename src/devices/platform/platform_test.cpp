// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

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

using bus::Space;

struct Line final : bus::IrqLine {
    void set(bool asserted) override {
        edges += asserted && !level;
        level = asserted;
    }
    bool level = false;
    int edges = 0;
};

struct Sink final : bus::MsiSink {
    void send(const bus::MsiMessage& message) override { sent.push_back(message); }
    Result<std::unique_ptr<bus::MsiRoute>> new_route() override { return fail(ErrorCode::Unsupported, "none"); }
    std::vector<bus::MsiMessage> sent;
};

struct Events final : PlatformEvents {
    void shutdown() override { ++shutdowns; }
    void reset() override { ++resets; }
    void panicked(bool loaded) override { ++(loaded ? crashes : panics); }
    void debug_exit(u8 status) override { exit = status; }
    int shutdowns = 0, resets = 0, panics = 0, crashes = 0, exit = -1;
};

struct Host final : chardev::Chardev {
    void attach(Events e) override { events = std::move(e); }
    void write(std::span<const u8> bytes) override {
        text.append(bytes.begin(), bytes.end());
        ++writes;
    }
    void resume_input() override { ++resumed; }
    std::string describe() const override { return "test"; }
    Events events;
    std::string text;
    int writes = 0, resumed = 0;
};

struct Platform : testing::Test {
    bus::Bus bus;
    bus::ManualClock clock;
    Line line, line2;
    Events events;
    u64 in(u16 port, unsigned size = 1) { return bus.read(Space::Pio, port, size); }
    void out(u16 port, u64 value, unsigned size = 1) { bus.write(Space::Pio, port, size, value); }
};

void init_pic(Platform& p, u8 icw4 = 1) {
    for (auto [port, base, cascade] : {std::tuple{0x20, 0x30, 4}, std::tuple{0xa0, 0x38, 2}}) {
        p.out(static_cast<u16>(port), 0x11);
        p.out(static_cast<u16>(port + 1), static_cast<u64>(base));
        p.out(static_cast<u16>(port + 1), static_cast<u64>(cascade));
        p.out(static_cast<u16>(port + 1), icw4);
        p.out(static_cast<u16>(port + 1), 0);
    }
}

TEST_F(Platform, PicPrioritiesAndCascade) {
    int changes = 0;
    Pic pic(bus, [&] { ++changes; });
    init_pic(*this);
    EXPECT_FALSE(pic.pending());
    pic.line(9).raise();
    pic.line(4).pulse();
    EXPECT_TRUE(pic.pending());
    EXPECT_GT(changes, 0);
    EXPECT_EQ(pic.acknowledge(), 0x39);  // the cascade input is 2: before 4
    EXPECT_FALSE(pic.pending());         // 4 is lower than what is in service
    out(0xa0, 0x20);
    out(0x20, 0x20);
    EXPECT_EQ(pic.acknowledge(), 0x34);
    pic.line(0).pulse();
    EXPECT_EQ(pic.acknowledge(), 0x30);
    out(0x20, 0x0b);
    EXPECT_EQ(in(0x20), 0x11u);
    out(0x20, 0x60);
    out(0x20, 0x20);
    EXPECT_EQ(in(0x20), 0u);
    EXPECT_EQ(pic.acknowledge(), 0x37);  // spurious
}

TEST_F(Platform, PicLevelInputsAskUntilTheyDrop) {
    Pic pic(bus, nullptr);
    init_pic(*this, 3);
    out(0x4d1, 0xff);
    EXPECT_EQ(in(0x4d1), 0xdeu);
    pic.line(11).raise();
    EXPECT_EQ(pic.acknowledge(), 0x3b);
    EXPECT_TRUE(pic.pending());  // automatic EOI, still asserted
    pic.line(11).lower();
    EXPECT_FALSE(pic.pending());
    out(0x21, 0xff);
    pic.line(1).pulse();
    EXPECT_FALSE(pic.pending());
    out(0x21, 0);
    EXPECT_EQ(pic.acknowledge(), 0x31);
}

TEST_F(Platform, IoApicLevelUntilEoi) {
    Sink sink;
    u32 routes = 0;
    IoApic io(bus, sink, [&](u32, const bus::MsiMessage&, bool, bool) { ++routes; });
    auto put = [&](u32 reg, u32 value) {
        bus.write(Space::Mmio, 0xfec0'0000, 4, reg);
        bus.write(Space::Mmio, 0xfec0'0010, 4, value);
    };
    auto get = [&](u32 reg) {
        bus.write(Space::Mmio, 0xfec0'0000, 4, reg);
        return bus.read(Space::Mmio, 0xfec0'0010, 4);
    };
    EXPECT_EQ(get(1), 0x0017'0020u);
    put(0x10 + 2 * 17 + 1, 0x0300'0000);
    put(0x10 + 2 * 17, 0x8041);
    EXPECT_GE(routes, 2u);
    io.line(17).raise();
    ASSERT_EQ(sink.sent.size(), 1u);
    EXPECT_EQ(sink.sent[0], (bus::MsiMessage{0xfee0'3000, 0xc041}));
    EXPECT_EQ(get(0x10 + 2 * 17), 0xc041u);
    io.line(17).lower();
    io.line(17).raise();
    EXPECT_EQ(sink.sent.size(), 1u);  // remote IRR
    io.eoi(0x41);
    EXPECT_EQ(sink.sent.size(), 2u);
    io.line(17).lower();
    bus.write(Space::Mmio, 0xfec0'0040, 4, 0x41);
    EXPECT_EQ(sink.sent.size(), 2u);
    EXPECT_EQ(get(0x10 + 2 * 17), 0x8041u);
    put(0x10 + 2 * 4, 0x51);
    io.line(4).pulse();
    io.line(4).pulse();
    EXPECT_EQ(sink.sent.size(), 4u);
    put(0x10 + 2 * 4, 0x10051);
    io.line(4).pulse();
    put(0x10 + 2 * 4, 0x51);
    EXPECT_EQ(sink.sent.size(), 4u);
}

TEST_F(Platform, PitPeriodicAndOneShot) {
    Pit pit(bus, clock, line);
    out(0x43, 0x34);
    out(0x40, 0xa9);
    out(0x40, 0x04);  // 1193: 1 ms
    clock.advance(10'500'000);
    EXPECT_EQ(line.edges, 10);
    out(0x43, 0x00);
    const u64 value = in(0x40) | in(0x40) << 8;
    EXPECT_NEAR(static_cast<double>(value), 1193 / 2.0, 10);
    out(0x43, 0x30);
    out(0x40, 0x10);
    EXPECT_FALSE(line.level);
    out(0x40, 0x27);
    line.edges = 0;
    clock.advance(kNsPerSec);
    EXPECT_EQ(line.edges, 1);
    EXPECT_TRUE(line.level);
}

TEST_F(Platform, PitCounterTwoMeasuresTime) {
    Pit pit(bus, clock, line);
    out(0x61, 1);
    out(0x43, 0xb0);
    out(0x42, 0x9c);
    out(0x42, 0x2e);  // 11932: 10 ms
    clock.advance(9'990'000);
    EXPECT_FALSE(in(0x61) & 0x20);
    clock.advance(20'000);
    EXPECT_TRUE(in(0x61) & 0x20);
}

TEST_F(Platform, HpetOneShotPeriodicLegacyAndMessages) {
    Sink sink;
    Hpet hpet(bus, clock, sink, line, line2);
    auto put = [&](u64 at, u64 value, unsigned size = 8) { bus.write(Space::Mmio, 0xfed0'0000 + at, size, value); };
    auto get = [&](u64 at) { return bus.read(Space::Mmio, 0xfed0'0000 + at, 8); };
    EXPECT_EQ(get(0) >> 32, Hpet::kPeriodFs);
    hpet.pit_line().pulse();
    EXPECT_EQ(line.edges, 1);
    put(0x10, 3);
    hpet.pit_line().pulse();
    EXPECT_EQ(line.edges, 1);
    put(0x100, 0x4c);  // timer 0: periodic, value set, interrupts
    put(0x108, 100'000);
    put(0x108, 100'000);  // every millisecond
    clock.advance(5'500'000);
    EXPECT_EQ(line.edges, 6);
    EXPECT_EQ(get(0xf0), 550'000u);
    put(0x100, 0);
    put(0x150, u64{0xfee0'1000} << 32 | 0x77);
    put(0x140, 0x4004);
    put(0x148, 600'000);
    clock.advance(1'000'000);
    ASSERT_EQ(sink.sent.size(), 1u);
    EXPECT_EQ(sink.sent[0], (bus::MsiMessage{0xfee0'1000, 0x77}));
    put(0x120, 0x06);  // level, on IRQ 8 in legacy mode
    put(0x128, 700'000);
    clock.advance(1'000'000);
    EXPECT_TRUE(line2.level);
    EXPECT_EQ(get(0x20), 2u);
    put(0x20, 2);
    EXPECT_FALSE(line2.level);
    put(0x10, 0);
    const u64 stopped = get(0xf0);
    clock.advance(1000);
    EXPECT_EQ(get(0xf0), stopped);
}

struct RtcTest : Platform {
    u64 epoch = u64{1'709'210'096} * kNsPerSec;  // 2024-02-29 12:34:56 UTC
    Rtc rtc{bus, clock, line, [this] { return epoch + clock.now_ns(); }};
    u64 get(u8 index) {
        out(0x70, index);
        return in(0x71);
    }
    void set(u8 index, u8 value) {
        out(0x70, index);
        out(0x71, value);
    }
};

TEST_F(RtcTest, TellsTheTime) {
    EXPECT_EQ(get(0), 0x56u);
    EXPECT_EQ(get(2), 0x34u);
    EXPECT_EQ(get(4), 0x12u);
    EXPECT_EQ(get(7), 0x29u);
    EXPECT_EQ(get(8), 0x02u);
    EXPECT_EQ(get(9), 0x24u);
    EXPECT_EQ(get(0x32), 0x20u);
    EXPECT_EQ(get(6), 5u);  // Thursday
    set(0x0b, 0x06);
    EXPECT_EQ(get(2), 34u);
    set(0x0b, 0x86);
    set(9, 30);
    set(0x0b, 0x06);
    EXPECT_EQ(rtc.offset_seconds(), 0);  // 2030-02-29 is not a date
    set(0x0b, 0x86);
    set(7, 28);
    set(9, 30);
    set(0x0b, 0x06);
    EXPECT_EQ(get(9), 30u);
    EXPECT_GT(rtc.offset_seconds(), 0);
}

TEST_F(RtcTest, IsSetWhileTheDividerIsHeld) {
    // As Linux does: the divider is let go after SET.
    set(0x0b, 0x82);
    set(0x0a, 0x76);
    set(9, 0x32);
    set(0x0b, 0x02);
    set(0x0a, 0x26);
    clock.advance(2 * kNsPerSec);
    EXPECT_EQ(get(9), 0x32u);
    EXPECT_EQ(get(0), 0x58u);
}

TEST_F(RtcTest, UpdateAlarmAndPeriodicInterrupts) {
    clock.advance(999'900'000);
    EXPECT_TRUE(get(0x0a) & 0x80);
    set(0x0b, 0x12);
    clock.advance(200'000);
    EXPECT_TRUE(line.level);
    EXPECT_EQ(get(0x0c), 0x90u);
    EXPECT_FALSE(line.level);
    set(1, 0x05);
    set(3, 0x35);
    set(5, 0xff);
    set(0x0b, 0x22);
    clock.advance(7 * kNsPerSec);
    EXPECT_FALSE(line.level);
    clock.advance(2 * kNsPerSec);
    EXPECT_TRUE(line.level);
    EXPECT_TRUE(get(0x0c) & 0x20);
    set(0x0b, 0x42);
    line.edges = 0;
    for (int i = 0; i < 100; ++i) {
        clock.advance(kNsPerSec / 1024 + 1);
        get(0x0c);
    }
    EXPECT_NEAR(line.edges, 100, 2);
}

TEST_F(RtcTest, MemorySizes) {
    rtc.set_memory_sizes(512 * kMiB, kGiB);
    EXPECT_EQ(get(0x34) | get(0x35) << 8, (512 * kMiB - 16 * kMiB) / 65536);
    EXPECT_EQ(get(0x5b) | get(0x5c) << 8, kGiB / 65536);
}

TEST_F(Platform, UartBatchesOutputAndReportsInput) {
    Host host;
    Uart uart(bus, clock, line, &host, 0x3f8, "com1");
    for (char c : std::string("hello\n")) out(0x3f8, static_cast<u8>(c));
    EXPECT_EQ(host.text, "hello\n");
    EXPECT_EQ(host.writes, 1);
    out(0x3f8, '>');
    EXPECT_EQ(host.writes, 1);
    clock.advance(1'000'000);
    EXPECT_EQ(host.text, "hello\n>");
    out(0x3fa, 0xc1);  // FIFOs, trigger 14
    out(0x3f9, 1);
    const std::vector<u8> bytes(20, 'x');
    EXPECT_EQ(host.events.on_input(std::span(bytes).first(3)), 3u);
    EXPECT_FALSE(line.level);
    clock.advance(10'000'000);  // the FIFO's timeout
    EXPECT_TRUE(line.level);
    EXPECT_EQ(in(0x3fa), 0xccu);
    EXPECT_EQ(in(0x3fd), 0x61u);
    EXPECT_EQ(in(0x3f8), u64{'x'});
    EXPECT_FALSE(line.level);
    EXPECT_EQ(host.events.on_input(bytes), 14u);
    EXPECT_EQ(in(0x3fa), 0xc4u);
    in(0x3f8);
    EXPECT_EQ(host.resumed, 1);
    out(0x3fa, 0xc3);
    EXPECT_EQ(in(0x3fd), 0x60u);
}

TEST_F(Platform, UartTransmitInterruptAndLoopback) {
    Host host;
    Uart uart(bus, clock, line, &host, 0x3f8, "com1");
    out(0x3f9, 2);
    EXPECT_TRUE(line.level);
    EXPECT_EQ(in(0x3fa), 2u);
    EXPECT_FALSE(line.level);
    EXPECT_EQ(in(0x3fa), 1u);
    out(0x3f8, 'a');
    EXPECT_TRUE(line.level);
    out(0x3f9, 0);
    out(0x3fc, 0x1f);
    EXPECT_EQ(in(0x3fe) & 0xf0, 0xf0u);
    out(0x3f8, 'L');
    EXPECT_EQ(in(0x3f8), u64{'L'});
    out(0x3f8, '1');
    out(0x3f8, '2');
    EXPECT_EQ(in(0x3fd) & 2, 2u);  // overrun
    out(0x3fb, 0x80);
    out(0x3f8, 1);
    EXPECT_EQ(in(0x3f8), 1u);
}

TEST_F(Platform, AcpiTimerButtonAndSleep) {
    AcpiPm pm(bus, clock, line, events, 0x600, false);
    clock.advance(kNsPerSec);
    EXPECT_EQ(in(0x608, 4), AcpiPm::kTimerHz);
    out(0x602, 0x100, 2);
    pm.press_power_button();
    EXPECT_FALSE(line.level);
    out(0xb2, 2);
    EXPECT_EQ(in(0x604, 2), 1u);
    EXPECT_TRUE(line.level);
    EXPECT_EQ(in(0x600, 2), 0x100u);
    out(0x600, 0x100, 2);
    EXPECT_FALSE(line.level);
    out(0x628, 4);
    pm.raise_gpe(2);
    EXPECT_TRUE(line.level);
    out(0x620, 4);
    EXPECT_FALSE(line.level);
    out(0x602, 1, 2);
    clock.advance(601 * kNsPerSec);
    EXPECT_TRUE(line.level);
    out(0x600, 1, 2);
    EXPECT_FALSE(line.level);
    out(0x604, 0x3401, 2);
    EXPECT_EQ(events.shutdowns, 0);
    out(0x604, 0x3c01, 2);
    EXPECT_EQ(events.shutdowns, 1);
    EXPECT_EQ(in(0x604, 2), 0x1c01u);
    pm.move(0xb000);
    EXPECT_EQ(in(0xb004, 2), 0x1c01u);
}

TEST_F(Platform, SmallPorts) {
    SystemPorts ports(bus, events);
    PvPanic panic(bus, events);
    DebugExit leave(bus, events);
    std::string text;
    DebugConsole console(bus, 0xe9, [&](std::span<const u8> bytes) { text.append(bytes.begin(), bytes.end()); });
    out(0xcf9, 0x02);
    EXPECT_EQ(events.resets, 0);
    out(0xcf9, 0x06);
    EXPECT_EQ(events.resets, 1);
    out(0x92, 0x03);
    EXPECT_EQ(events.resets, 2);
    EXPECT_EQ(in(0x505), 3u);
    out(0x505, 1);
    out(0x505, 2);
    EXPECT_EQ(events.panics, 1);
    EXPECT_EQ(events.crashes, 1);
    out(0xf4, 5, 4);
    EXPECT_EQ(events.exit, 11);
    EXPECT_EQ(in(0xe9), 0xe9u);
    out(0xe9, 'A');
    out(0xe9, '\n');
    EXPECT_EQ(text, "A\n");
}

TEST_F(Platform, KeyboardControllerAnswersAProbe) {
    I8042 kbc(bus, line, line2, events);
    EXPECT_EQ(in(0x64) & 1, 0u);
    out(0x64, 0xaa);
    EXPECT_EQ(in(0x64) & 1, 1u);
    EXPECT_EQ(in(0x60), 0x55u);
    out(0x64, 0x60);
    out(0x60, 0x07);
    out(0x64, 0x20);
    EXPECT_EQ(in(0x60), 0x07u);
    out(0x60, 0xff);
    EXPECT_TRUE(line.level);
    EXPECT_EQ(in(0x60), 0xfau);
    EXPECT_EQ(in(0x60), 0xaau);
    EXPECT_FALSE(line.level);
    out(0x60, 0xf2);
    EXPECT_EQ(in(0x60), 0xfau);
    EXPECT_EQ(in(0x60), 0xabu);
    EXPECT_EQ(in(0x60), 0x83u);
    out(0x64, 0xd4);
    out(0x60, 0xff);
    EXPECT_TRUE(line2.level);
    EXPECT_EQ(in(0x64) & 0x20, 0x20u);
    EXPECT_EQ(in(0x60), 0xfau);
    EXPECT_EQ(in(0x60), 0xaau);
    EXPECT_EQ(in(0x60), 0x00u);
    kbc.type(std::array<u8, 2>{0x1e, 0x9e});
    EXPECT_EQ(in(0x60), 0x1eu);
    EXPECT_EQ(in(0x60), 0x9eu);
    out(0x64, 0xfe);
    EXPECT_EQ(events.resets, 1);
}

struct FwCfgTest : Platform {
    memory::GuestMemory memory{{}};
    FwCfg cfg{bus, memory};
    void SetUp() override { ASSERT_TRUE(memory.add_region("ram", {0}, kMiB)); }
    u32 dma(u32 control, u32 length, u64 address, u64 descriptor = 0x1000) {
        struct {
            u32 c, l;
            u64 a;
        } d{__builtin_bswap32(control), __builtin_bswap32(length), __builtin_bswap64(address)};
        EXPECT_TRUE(memory.write_object({descriptor}, d));
        out(0x514, 0, 4);
        out(0x518, __builtin_bswap32(static_cast<u32>(descriptor)), 4);
        return __builtin_bswap32(*memory.read_object<u32>({descriptor}));
    }
};

TEST_F(FwCfgTest, ItemsFilesAndDirectory) {
    out(0x510, 0, 2);
    std::string signature;
    for (int i = 0; i < 4; ++i) signature.push_back(static_cast<char>(in(0x511)));
    EXPECT_EQ(signature, "QEMU");
    EXPECT_EQ(in(0x511), 0u);
    EXPECT_EQ(in(0x514, 4), __builtin_bswap32(0x51454d55u));
    const u16 b = *cfg.add_file("etc/b", {1, 2, 3});
    const u16 a = *cfg.add_file("etc/a", std::vector<u8>(300, 7));
    EXPECT_FALSE(cfg.add_file("etc/a", {}));
    EXPECT_FALSE(cfg.add_file(std::string(56, 'x'), {}));
    EXPECT_EQ(b, 0x20);
    EXPECT_EQ(a, 0x21);
    EXPECT_EQ(dma(0x19 << 16 | 8 | 2, 132, 0x2000), 0u);
    std::array<u8, 132> directory;
    ASSERT_TRUE(memory.read({0x2000}, directory));
    EXPECT_EQ(directory[3], 2);
    EXPECT_EQ(directory[6], 1);  // 300 = 0x12c
    EXPECT_EQ(directory[9], 0x21);
    EXPECT_STREQ(reinterpret_cast<const char*>(&directory[12]), "etc/a");
}

TEST_F(FwCfgTest, HostileDescriptors) {
    ASSERT_TRUE(cfg.add_file("etc/a", {1, 2, 3}));
    EXPECT_EQ(dma(0x20 << 16 | 8 | 2, 0xffff'ffff, 0xf0000), 1u);
    EXPECT_EQ(dma(0x20 << 16 | 8 | 2, 3, ~u64{0} - 1), 1u);
    EXPECT_EQ(dma(0x20 << 16 | 8 | 16, 3, 0x2000), 1u);  // read-only
    EXPECT_EQ(dma(0x999 << 16 | 8 | 2, 8, 0x2000), 0u);  // nobody's item: zeroes
    out(0x514, 0xffff'ffff, 4);
    out(0x518, 0xffff'ffff, 4);
    std::vector<u8> got;
    ASSERT_TRUE(cfg.add_file("rw", {0, 0, 0}, [&](std::span<const u8> bytes) { got.assign(bytes.begin(), bytes.end()); }));
    ASSERT_TRUE(memory.write({0x2000}, std::array<u8, 4>{9, 8, 7, 6}));
    EXPECT_EQ(dma(0x21 << 16 | 8 | 16, 4, 0x2000), 1u);
    EXPECT_EQ(dma(0x21 << 16 | 8 | 16, 3, 0x2000), 0u);
    EXPECT_EQ(got, (std::vector<u8>{9, 8, 7}));
    EXPECT_EQ(dma(0x21 << 16 | 8 | 4, 2, 0), 0u);
    EXPECT_EQ(in(0x511), 7u);
}

template <class Device>
void survives(Device& from, Device& to) {
    state::Section section;
    from.save(section);
    auto decoded = state::Section::decode(section.encode());
    ASSERT_TRUE(decoded);
    auto loaded = to.load(*decoded, state::kStateVersion);
    ASSERT_TRUE(loaded) << loaded.error().message();
    state::Section again;
    to.save(again);
    EXPECT_EQ(section.fields(), again.fields()) << from.state_name();
}

TEST_F(Platform, StateSurvives) {
    bus::Bus other;
    Pic pic(bus, nullptr), pic2(other, nullptr);
    init_pic(*this);
    pic.line(4).pulse();
    survives(pic, pic2);
    EXPECT_EQ(pic2.acknowledge(), 0x34);
    Pit pit(bus, clock, line), pit2(other, clock, line2);
    out(0x43, 0x34);
    out(0x40, 0xa9);
    out(0x40, 0x04);
    survives(pit, pit2);
    line2.edges = 0;
    clock.advance(1'100'000);
    EXPECT_EQ(line2.edges, 1);
    I8042 kbc(bus, line, line2, events), kbc2(other, line, line2, events);
    out(0x60, 0xf2);
    survives(kbc, kbc2);
    EXPECT_EQ(other.read(Space::Pio, 0x60, 1), 0xfau);
    Uart uart(bus, clock, line, nullptr, 0x3f8, "com1"), uart2(other, clock, line, nullptr, 0x3f8, "com1");
    out(0x3ff, 0x42);
    survives(uart, uart2);
    EXPECT_EQ(other.read(Space::Pio, 0x3ff, 1), 0x42u);
}

}  // namespace
}  // namespace vezha::devices::platform
