// SPDX-License-Identifier: Apache-2.0
// A guest that writes what it likes to fw_cfg's ports and memory. Operations of 12 bytes: kind, offset, size, value, address.
#include <cstring>

#include "devices/platform/fw_cfg.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace vezha;
    bus::Bus bus;
    memory::GuestMemory memory({.huge_pages = false});
    if (!memory.add_pc_ram(2 * kMiB)) return 0;
    devices::platform::FwCfg device(bus, memory);
    device.set_value(devices::platform::FwCfg::kCpus, u16{2});
    (void)device.add_file("etc/read-only", std::vector<u8>(300, 1));
    (void)device.add_file("etc/writable", std::vector<u8>(64, 2), [](std::span<const u8>) {});
    for (; size >= 12; data += 12, size -= 12) {
        u64 value = 0;
        u32 address = 0;
        std::memcpy(&value, data + 2, 4);
        std::memcpy(&address, data + 6, 4);
        const unsigned width = 1u << (data[1] >> 6);
        switch (data[0] % 4) {
            case 0: bus.write(bus::Space::Pio, 0x510 + (data[1] & 15), width > 4 ? 4 : width, value); break;
            case 1: (void)bus.read(bus::Space::Pio, 0x510 + (data[1] & 15), width > 4 ? 4 : width); break;
            case 2: (void)memory.write(memory::Gpa{address % (2 * kMiB)}, {data + 2, 10}); break;
            case 3: bus.write(bus::Space::Pio, 0x518, 4, __builtin_bswap32(address % (2 * kMiB))); break;
        }
    }
    return 0;
}
