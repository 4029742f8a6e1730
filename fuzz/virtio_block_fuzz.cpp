// SPDX-License-Identifier: Apache-2.0
// Requests to the virtio disk. What reaches the disk lies inside it.
#include "devices/virtio/block.h"
#include "virtio_fuzz.h"

using namespace vezha;
using namespace vezha::devices::virtio;

namespace {
struct Disk final : block::Disk {
    static constexpr u64 kSize = 1 * kMiB;
    struct Queue final : block::DiskQueue {
        explicit Queue(Disk& d) : disk(d) {}
        void submit(block::Request request) override {
            CHECK(request.offset <= kSize && request.length <= kSize - request.offset);
            u64 sum = 0;
            for (const iovec& piece : request.pieces) sum += piece.iov_len;
            CHECK(request.pieces.empty() || sum == request.length);
            if (disk.held) disk.waiting.push_back(std::move(request));
            else request.done({});
        }
        u32 in_flight() const override { return static_cast<u32>(disk.waiting.size()); }
        Disk& disk;
    };
    block::Geometry geometry() const override { return {.size = kSize, .can_discard = true}; }
    Result<std::unique_ptr<block::DiskQueue>> attach(EventLoop&) override { return std::make_unique<Queue>(*this); }
    block::Statistics statistics() const override { return {}; }
    std::string describe() const override { return "fuzz"; }
    void release(bool fine) {
        for (auto& request : std::exchange(waiting, {})) {
            if (fine) request.done({});
            else request.done(fail(ErrorCode::Io, "no"));
        }
    }
    std::vector<block::Request> waiting;
    bool held = false;
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const u8* data, usize size) {
    static model::Board board;
    static Disk disk;
    static auto device = VirtioBlock::create(board.wiring, disk, {.serial = "fuzz", .queues = {{board.loop.get(), 64}, {board.loop.get(), 64}}}).value();
    struct Release {
        ~Release() { disk.release(true); }
    } at_end;
    disk.held = false;
    model::fuzz_requests(board, *device, 2, {data, size}, [](model::Input& input) {
        const u8 what = input.take<u8>();
        disk.held = what & 1;
        if (!disk.held) disk.release(what & 2);
    });
    return 0;
}
