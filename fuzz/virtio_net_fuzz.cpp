// SPDX-License-Identifier: Apache-2.0
// Packets and control commands of the virtio network card.
#include "devices/virtio/net.h"
#include "virtio_fuzz.h"

using namespace vezha;
using namespace vezha::devices::virtio;

namespace {
struct Backend final : net::Backend {
    struct Queue final : net::BackendQueue {
        explicit Queue(Backend& b) : backend(b) {}
        Result<> send(std::span<const iovec> packet) override {
            u64 sum = 0;
            for (const iovec& piece : packet) sum += piece.iov_len;
            CHECK(sum > 12 && sum < 70'000);
            if (backend.full) return fail(ErrorCode::WouldBlock, "full");
            return {};
        }
        Result<usize> receive(std::span<const iovec> buffers) override {
            if (backend.arriving.empty()) return fail(ErrorCode::WouldBlock, "none");
            const auto packet = std::move(backend.arriving.back());
            backend.arriving.pop_back();
            return copy_to(buffers, 0, packet);
        }
        usize next_packet_size() override { return backend.arriving.empty() ? 0 : backend.arriving.back().size(); }
        Backend& backend;
    };
    u32 queue_pairs() const override { return 2; }
    net::Offloads accepts() const override { return {true, true, true, true, true, true}; }
    net::Offloads provides() const override { return {true, true, true, true, true, true}; }
    Result<std::unique_ptr<net::BackendQueue>> attach(EventLoop&, u32 index, net::QueueEvents e) override {
        events[index] = std::move(e);
        return std::make_unique<Queue>(*this);
    }
    std::string describe() const override { return "fuzz"; }
    std::array<net::QueueEvents, 2> events;
    std::vector<std::vector<u8>> arriving;
    bool full = false;
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const u8* data, usize size) {
    static model::Board board;
    static Backend backend;
    static auto device = VirtioNet::create(board.wiring, backend, {.mac = {2, 0, 0, 0, 0, 1}, .pair_loops = {board.loop.get(), board.loop.get()}}).value();
    backend.arriving.clear();
    backend.full = false;
    model::fuzz_requests(board, *device, 5, {data, size}, [](model::Input& input) {
        const u8 what = input.take<u8>();
        backend.full = what & 1;
        if (what & 2) device->set_link(what & 4);
        if (what & 8) device->announce();
        if (what & 16) {
            std::vector<u8> packet(12 + 18 + input.take<u16>());
            const auto start = input.bytes(18);
            std::copy(start.begin(), start.end(), packet.begin() + 12);
            backend.arriving.push_back(std::move(packet));
            backend.events[what >> 5 & 1].on_readable();
        }
        if (!backend.full) backend.events[what >> 5 & 1].on_writable();
    });
    return 0;
}
