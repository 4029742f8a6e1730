// SPDX-License-Identifier: Apache-2.0
// A guest that writes what it likes to configuration space by ports 0xcf8 and 0xcfc and by ECAM.
#include <cstring>

#include "devices/pci/host_bridge.h"

namespace {
using namespace vezha;

class Router final : public devices::pci::IntxRouter {
  public:
    void set_intx(u8, u8, bool) override {}
};
class Sink final : public bus::MsiSink {
    class Route final : public bus::MsiRoute {
        void set(const bus::MsiMessage&) override {}
        void trigger() override {}
        int event_fd() override { return -1; }
    };

  public:
    void send(const bus::MsiMessage&) override {}
    Result<std::unique_ptr<bus::MsiRoute>> new_route() override { return std::make_unique<Route>(); }
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    bus::Bus bus;
    Sink sink;
    Router router;
    devices::pci::PciBus root(router);
    devices::pci::HostBridge bridge(bus, sink, root, {});
    for (; size >= 8; data += 8, size -= 8) {
        u32 value = 0;
        u16 where = 0;
        std::memcpy(&value, data + 4, 4);
        std::memcpy(&where, data + 2, 2);
        const unsigned width = 1u << (data[1] % 3);
        const u32 function = static_cast<u32>(data[1] >> 4) << 11 | (where & 0xffc);
        switch (data[0] % 5) {
            case 0:
                bus.write(bus::Space::Pio, 0xcf8, 4, 0x8000'0000u | function);
                bus.write(bus::Space::Pio, 0xcfc + (where & 3), width, value);
                break;
            case 1: (void)bus.read(bus::Space::Pio, 0xcfc + (where & 3), width); break;
            case 2: bus.write(bus::Space::Mmio, 0xb000'0000 + (static_cast<u64>(data[1] >> 4) << 15) + (where & 0xfff), width, value); break;
            case 3: (void)bus.read(bus::Space::Mmio, 0xb000'0000 + (static_cast<u64>(data[1] >> 4) << 15) + (where & 0xfff), width); break;
            case 4: bus.write(bus::Space::Mmio, value, width, where); break;
        }
    }
    return 0;
}
