// SPDX-License-Identifier: Apache-2.0
// Page lists, statistics and reports to the balloon.
#include "devices/virtio/balloon.h"
#include "virtio_fuzz.h"

using namespace vezha;
using namespace vezha::devices::virtio;

extern "C" int LLVMFuzzerTestOneInput(const u8* data, usize size) {
    static model::Board board;
    static auto device = VirtioBalloon::create(board.wiring, {.loop = board.loop.get()}).value();
    model::fuzz_requests(board, *device, 4, {data, size}, [](model::Input& input) {
        device->set_target(input.take<u64>());
        device->set_statistics_interval(input.take<u8>() & 1);
        CHECK(device->actual() <= model::Board::kRam);
        (void)device->statistics();
    });
    return 0;
}
