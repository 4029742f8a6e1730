// SPDX-License-Identifier: Apache-2.0
// The packed ring: the input is the guest's memory. Chains lie inside it, or there is an error; work is bounded.
#include "virtio_fuzz.h"

using namespace vezha;
using namespace vezha::devices::virtio;

extern "C" int LLVMFuzzerTestOneInput(const u8* data, usize size) {
    static constexpr u64 kSize = 64 * kKiB;
    static memory::GuestMemory memory({.huge_pages = false});
    static u8* const ram = [] {
        CHECK(memory.add_region("ram", {0}, kSize).has_value());
        return memory.host_range({0}, kSize, true);
    }();
    model::Input input(data, size);
    RingLayout layout{.event_index = (input.take<u8>() & 1) != 0};
    layout.size = input.take<u8>();
    layout.descriptors = {input.take<u16>()};
    layout.driver = {input.take<u16>()};
    layout.device = {input.take<u16>()};
    std::fill_n(ram, kSize, u8{0});
    const auto bytes = input.bytes(kSize);
    std::copy(bytes.begin(), bytes.end(), ram);

    Queue queue(memory, 256);
    queue.layout() = layout;
    if (!queue.enable(true)) return 0;
    queue.set_running(true);
    std::vector<Chain> taken;
    for (unsigned step = 0; step < 600; ++step) {
        Chain chain;
        const auto popped = queue.pop(chain);
        if (!popped || !*popped) break;
        for (const auto& pieces : {chain.readable(), chain.writable()})
            for (const iovec& piece : pieces) {
                const u8* at = static_cast<const u8*>(piece.iov_base);
                CHECK(at >= ram && piece.iov_len <= kSize && at + piece.iov_len <= ram + kSize);
            }
        if (step % 5 == 4) {
            queue.unpop(chain);
            break;
        }
        if (step % 3 == 2) {
            queue.push(chain, chain.writable_bytes());
            (void)queue.flush();
        } else {
            taken.push_back(std::move(chain));
        }
        CHECK(taken.size() <= layout.size);
    }
    for (auto& chain : taken) queue.push(chain, 1);
    (void)queue.flush();
    CHECK(queue.in_flight() == 0);
    return 0;
}
