// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/types.h"

/// Numbers of configuration space. Sources: PCI Local Bus 3.0, chapter 6; PCI Express Base 5.0, chapter 7.
namespace vezha::devices::pci {

inline constexpr u16 kConfigSize = 4096;

// Header, both types.
inline constexpr u16 kVendorId = 0x00, kDeviceId = 0x02, kCommand = 0x04, kStatus = 0x06, kRevision = 0x08,
                     kClass = 0x09, kCacheLine = 0x0c, kHeaderType = 0x0e, kBar0 = 0x10, kSubsystemVendor = 0x2c,
                     kSubsystem = 0x2e, kCapabilities = 0x34, kInterruptLine = 0x3c, kInterruptPin = 0x3d;
// Header type 1 (bridges).
inline constexpr u16 kPrimaryBus = 0x18, kSecondaryBus = 0x19, kSubordinateBus = 0x1a, kIoBase = 0x1c,
                     kSecondaryStatus = 0x1e, kMemoryBase = 0x20, kPrefetchBase = 0x24, kPrefetchBaseUpper = 0x28,
                     kPrefetchLimitUpper = 0x2c, kIoBaseUpper = 0x30, kBridgeControl = 0x3e;

inline constexpr u16 kCommandIo = 1 << 0, kCommandMemory = 1 << 1, kCommandMaster = 1 << 2, kCommandParity = 1 << 6,
                     kCommandSerr = 1 << 8, kCommandIntxDisable = 1 << 10;
inline constexpr u16 kStatusInterrupt = 1 << 3, kStatusCapabilities = 1 << 4;
inline constexpr u16 kStatusErrors = 0xf900;  // write 1 to clear

inline constexpr u8 kCapPowerManagement = 0x01, kCapMsi = 0x05, kCapVendor = 0x09, kCapSubsystem = 0x0d,
                    kCapExpress = 0x10, kCapMsix = 0x11;

/// Type 0, 4 and 9 of the device/port type field, PCIe 7.5.3.2.
enum class PortType : u8 { Endpoint = 0, RootPort = 4, RootComplexEndpoint = 9 };

/// Place of a function on its bus: device 0-31, function 0-7.
struct Slot {
    u8 device = 0;
    u8 function = 0;
    constexpr u8 devfn() const { return static_cast<u8>(device << 3 | function); }
    bool operator==(const Slot&) const = default;
};

}  // namespace vezha::devices::pci
