// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "block/disk.h"
#include "devices/virtio/pci_device.h"

namespace vezha::devices::virtio {

struct BlockOptions {
    std::string serial;               ///< at most 20 bytes are shown
    std::vector<QueueOptions> queues; ///< one per I/O loop that shall serve the disk
    bool read_only = false;           ///< also if the disk is
    bool write_cache = true;          ///< what the guest finds; it may change it
};

/// Virtio block device. Source: virtio 1.2, 5.2.
class VirtioBlock final : public PciDevice {
  public:
    static Result<std::unique_ptr<VirtioBlock>> create(const Wiring& wiring, block::Disk& disk, BlockOptions options);
    ~VirtioBlock() override;

    /// The disk has another size now. Any thread.
    void size_changed();

  protected:
    void on_queue(u16 index) override;
    void on_driver_ready() override;
    void on_reset() override;
    void on_config_written(u32 offset, u32 size) override;

  private:
    struct Header {
        u32 type, priority;
        u64 sector;
    };
    struct Slot {  // a request in flight
        Chain chain;
        u16 queue = 0;
        u32 parts = 0;      // requests to the disk not yet done
        u64 written = 0;    // bytes for the guest, without the status
        u8 status = 0;
        bool flush_after = false;
    };
    struct QueueState {  // its loop
        std::unique_ptr<block::DiskQueue> disk;
        std::vector<std::unique_ptr<Slot>> slots;
        std::vector<Slot*> free;
    };
    VirtioBlock(const Wiring& wiring, block::Disk& disk, BlockOptions options);
    void begin(Slot& slot);
    void transfer(Slot& slot, const Header& header, bool write);
    void discard_or_zero(Slot& slot, bool zero);
    void submit(Slot& slot, block::Request request);
    void part_done(Slot& slot, const Result<>& result);
    void finish(Slot& slot);

    block::Disk& disk_;
    const BlockOptions options_;
    const bool read_only_;
    std::vector<QueueState> states_;
    std::atomic<bool> write_through_{false};
};

}  // namespace vezha::devices::virtio
