// SPDX-License-Identifier: Apache-2.0
// Output, input and control messages of the virtio console.
#include "devices/virtio/console.h"
#include "virtio_fuzz.h"

using namespace vezha;
using namespace vezha::devices::virtio;

namespace {
struct Terminal final : chardev::Chardev {
    void attach(Events e) override { events = std::move(e); }
    void write(std::span<const u8>) override {}
    void resume_input() override {}
    std::string describe() const override { return "fuzz"; }
    Events events;
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const u8* data, usize size) {
    static model::Board board;
    static std::array<Terminal, 2> terminals;
    static auto device = VirtioConsole::create(board.wiring, {.loop = board.loop.get(), .ports = {{"", &terminals[0], true}, {"port", &terminals[1], false}}}).value();
    model::fuzz_requests(board, *device, 6, {data, size}, [](model::Input& input) {
        const u8 what = input.take<u8>();
        Terminal& terminal = terminals[what & 1];
        const auto bytes = input.bytes(what >> 2);
        CHECK(terminal.events.on_input(bytes) <= bytes.size());
        if (what & 2) terminal.events.on_connection(what & 4);
        if (what & 8) device->resize(what, what);
    });
    return 0;
}
