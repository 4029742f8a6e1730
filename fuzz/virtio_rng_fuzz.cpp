// SPDX-License-Identifier: Apache-2.0
// Requests to the entropy device.
#include "devices/virtio/entropy.h"
#include "virtio_fuzz.h"

using namespace vezha;
using namespace vezha::devices::virtio;

extern "C" int LLVMFuzzerTestOneInput(const u8* data, usize size) {
    static model::Board board;
    static auto device = VirtioEntropy::create(board.wiring, {board.loop.get(), 64}).value();
    model::fuzz_requests(board, *device, 1, {data, size}, [](model::Input&) {
        device->pause();
        device->resume();
    });
    return 0;
}
