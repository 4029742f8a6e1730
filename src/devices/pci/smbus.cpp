// SPDX-License-Identifier: Apache-2.0
#include "devices/pci/smbus.h"

namespace vezha::devices::pci {

namespace {
constexpr u16 kHostConfig = 0x40;
constexpr unsigned kHostStatus = 0, kHostControl = 2;
constexpr u8 kInterrupt = 0x02, kDeviceError = 0x04, kClearable = 0xfe, kInUse = 0x40;
constexpr u8 kInterruptEnable = 0x01, kStart = 0x40;
}  // namespace

Smbus::Smbus(bus::Bus& bus, bus::MsiSink& msi, u16 io_base)
    : Function(bus, msi, "smbus", {0x8086, 0x2930, 0x0c0500, 2, 0x8086, 0x2930}) {
    set_interrupt_pin(1);
    add_bar(4, BarKind::Io, 32);
    set_writable<u8>(kHostConfig, 0x0f);
    if (io_base) {
        set_config<u32>(kBar0 + 16, io_base | 1u);
        set_config<u8>(kHostConfig, 0x01);
        config_write(kCommand, 2, kCommandIo);
    }
}

void Smbus::save(state::Section& out) const {
    Function::save(out);
    out.put("smbus.registers", registers_);
}

Result<> Smbus::load(const state::Section& in, u32 saved_version) {
    TRY(Function::load(in, saved_version));
    registers_ = TRY(in.get_value<std::array<u8, 32>>("smbus.registers"));
    return {};
}

u64 Smbus::bar_read(unsigned, u64 offset, unsigned size) {
    u64 value = 0;
    for (unsigned i = 0; i < size && offset + i < registers_.size(); ++i) {
        u8& byte = registers_[offset + i];
        value |= u64{byte} << (8 * i);
        if (offset + i == kHostStatus) byte |= kInUse;  // a semaphore: reading takes it
        if (offset + i == kHostControl) value &= ~(u64{kStart} << (8 * i));
    }
    return value;
}

void Smbus::write_byte(unsigned offset, u8 value) {
    u8& byte = registers_[offset];
    switch (offset) {
        case kHostStatus: byte &= static_cast<u8>(~(value & kClearable)); break;
        case kHostControl:
            byte = value & static_cast<u8>(~kStart);
            if (value & kStart) registers_[kHostStatus] |= kDeviceError;
            break;
        case 3: case 4: case 5: case 6: case 7: case 8: case 9: case 0x0a: case 0x0d: byte = value; break;
        default: break;
    }
    set_intx((registers_[kHostControl] & kInterruptEnable) && (registers_[kHostStatus] & (kInterrupt | kDeviceError)));
}

void Smbus::bar_write(unsigned, u64 offset, unsigned size, u64 value) {
    for (unsigned i = 0; i < size && offset + i < registers_.size(); ++i)
        write_byte(static_cast<unsigned>(offset) + i, static_cast<u8>(value >> (8 * i)));
}

}  // namespace vezha::devices::pci
