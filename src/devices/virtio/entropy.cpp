// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/entropy.h"

#include <sys/random.h>

#include <algorithm>

namespace vezha::devices::virtio {

Result<std::unique_ptr<VirtioEntropy>> VirtioEntropy::create(const Wiring& wiring, QueueOptions queue) {
    std::unique_ptr<VirtioEntropy> device(new VirtioEntropy(wiring, queue));
    TRY(device->start());
    return device;
}

VirtioEntropy::VirtioEntropy(const Wiring& wiring, QueueOptions queue)
    : PciDevice(wiring, {Type::Entropy, "virtio-rng", 0x00ff00, 0, 0}, {queue}) {}

void VirtioEntropy::on_queue(u16 index) {
    for (u32 budget = 64; budget > 0; --budget) {
        if (!pop(index, chain_)) return complete(index);
        u64 written = 0;
        for (const iovec& piece : chain_.writable()) {
            const usize wanted = std::min<usize>(piece.iov_len, kMaxBytes - written);
            const ssize_t got = wanted ? ::getrandom(piece.iov_base, wanted, 0) : 0;
            if (got <= 0) break;
            written += static_cast<u64>(got);
            if (static_cast<usize>(got) < piece.iov_len) break;
        }
        queue(index).push(chain_, written);
    }
    complete(index);
    kick(index);
}

}  // namespace vezha::devices::virtio
