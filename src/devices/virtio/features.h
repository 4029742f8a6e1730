// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/types.h"

/// Numbers of virtio 1.2 that are not one device's own.
namespace vezha::devices::virtio {

/// Device types, chapter 5.
enum class Type : u16 { Network = 1, Block = 2, Console = 3, Entropy = 4, Balloon = 5 };

/// Feature bits are named by number; bit() makes the mask.
constexpr u64 bit(unsigned number) { return u64{1} << number; }

// Chapter 6.
inline constexpr unsigned kRingIndirect = 28, kRingEventIndex = 29, kVersion1 = 32, kRingPacked = 34, kRingReset = 40;

// Device status, 2.1.
inline constexpr u8 kStatusAcknowledge = 1, kStatusDriver = 2, kStatusDriverOk = 4, kStatusFeaturesOk = 8,
                    kStatusNeedsReset = 64, kStatusFailed = 128;

// Capability types, 4.1.4.
inline constexpr u8 kCapCommon = 1, kCapNotify = 2, kCapIsr = 3, kCapDevice = 4, kCapPciAccess = 5;

inline constexpr u16 kNoVector = 0xffff;

/// Common configuration, 4.1.4.3.
namespace common {
inline constexpr u64 kDeviceFeatureSelect = 0, kDeviceFeature = 4, kDriverFeatureSelect = 8, kDriverFeature = 12,
                     kConfigVector = 16, kNumQueues = 18, kStatus = 20, kConfigGeneration = 21, kQueueSelect = 22,
                     kQueueSize = 24, kQueueVector = 26, kQueueEnable = 28, kQueueNotifyOff = 30, kQueueDesc = 32,
                     kQueueDriver = 40, kQueueDevice = 48, kQueueNotifyData = 56, kQueueReset = 58, kSize = 60;
}

// Places in BAR 0.
inline constexpr u64 kCommonAt = 0x0000, kIsrAt = 0x1000, kConfigAt = 0x2000, kNotifyAt = 0x3000, kMsixAt = 0x4000,
                     kPbaAt = 0x6000, kBarSize = 0x8000;
inline constexpr u32 kNotifyMultiplier = 4;

}  // namespace vezha::devices::virtio
