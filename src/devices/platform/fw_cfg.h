// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "devices/stateful_device.h"
#include "memory/guest_memory.h"

namespace vezha::devices::platform {

/// fw_cfg: hands firmware its configuration, tables and boot files, by ports 0x510 to 0x51b, byte-wise or by DMA.
/// Source: the fw_cfg device specification (docs/specs/fw_cfg of the QEMU project). Fill before the guest runs.
class FwCfg final : public StatefulDevice<FwCfg> {
  public:
    FwCfg(bus::Bus& bus, memory::GuestMemory& memory, u16 port = 0x510);

    // Well-known selectors.
    static constexpr u16 kSignature = 0x00, kId = 0x01, kUuid = 0x02, kRamSize = 0x03, kCpus = 0x05, kBootMenu = 0x0e,
                         kMaxCpus = 0x0f, kKernelAddress = 0x07, kKernelSize = 0x08, kCommandLineAddress = 0x13,
                         kCommandLineSize = 0x14, kCommandLine = 0x15, kInitrdAddress = 0x0a, kInitrdSize = 0x0b,
                         kKernelData = 0x11, kInitrdData = 0x12, kSetupAddress = 0x16, kSetupSize = 0x17, kSetupData = 0x18,
                         kFileDirectory = 0x19, kFirstFile = 0x20;

    void set_item(u16 selector, std::vector<u8> bytes);
    template <class T>
    void set_value(u16 selector, T value) {
        std::vector<u8> bytes(sizeof value);
        std::memcpy(bytes.data(), &value, sizeof value);
        set_item(selector, std::move(bytes));
    }
    /// A named file. @param on_written called after the guest changed it (mutex held); null: read-only for the guest
    /// @return its selector; OutOfRange for a name over 55 bytes, NoSpace, AlreadyExists
    Result<u16> add_file(std::string name, std::vector<u8> bytes, std::function<void(std::span<const u8>)> on_written = nullptr);
    /// Replaces a file's bytes (tables rebuilt on reset). NotFound.
    Result<> replace_file(std::string_view name, std::vector<u8> bytes);
    /// The bytes of a file, or nullptr.
    const std::vector<u8>* file(std::string_view name) const;

    u64 read(u32 range, u64 offset, unsigned size) override;
    void write(u32 range, u64 offset, unsigned size, u64 value) override;
    std::string state_name() const override { return "fw-cfg"; }
    void reset() override {
        selector_ = 0;
        offset_ = 0;
        dma_address_ = 0;
    }

  private:
    struct Item {
        std::vector<u8> bytes;
        std::string name;  // files
        std::function<void(std::span<const u8>)> on_written;
    };
    void select(u16 selector);
    u8 next_byte();
    void run_dma(u64 descriptor);
    bool dma_transfer(u32 control, u64 address, u32 length);
    void rebuild_directory();

    memory::GuestMemory& memory_;
    std::map<u16, Item> items_;
    u16 selector_ = 0;
    u32 offset_ = 0;
    u64 dma_address_ = 0;

  public:
    static constexpr auto kState = std::to_array<state::StateField<FwCfg>>(
        {state::field<FwCfg, &FwCfg::selector_>("selector"), state::field<FwCfg, &FwCfg::offset_>("offset"),
         state::field<FwCfg, &FwCfg::dma_address_>("dma_address")});
};

}  // namespace vezha::devices::platform
