// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "devices/virtio/pci_device.h"

namespace vezha::devices::virtio {

/// Entropy device: the host kernel's random bytes. Source: virtio 1.2, 5.4.
class VirtioEntropy final : public PciDevice {
  public:
    /// One request gets at most so many bytes; the driver asks again if it wants more.
    static constexpr u32 kMaxBytes = 64 * 1024;

    static Result<std::unique_ptr<VirtioEntropy>> create(const Wiring& wiring, QueueOptions queue);
    ~VirtioEntropy() override { shutdown(); }

  protected:
    void on_queue(u16 index) override;

  private:
    VirtioEntropy(const Wiring& wiring, QueueOptions queue);
    Chain chain_;  // loop
};

}  // namespace vezha::devices::virtio
