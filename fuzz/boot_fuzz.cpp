// SPDX-License-Identifier: Apache-2.0
// Kernel images of every format: the first byte chooses the initrd's size, the rest is the kernel.
#include "machine/boot/boot.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace vezha;
    if (size < 1) return 0;
    memory::GuestMemory memory({.huge_pages = false});
    if (!memory.add_pc_ram(32 * kMiB)) return 0;
    const std::vector<u8> initrd(static_cast<usize>(data[0]) * 4096, 0x55);
    machine::boot::Payload payload;
    payload.kernel = {data + 1, size - 1};
    payload.initrd = initrd;
    payload.command_line = "console=ttyS0";
    payload.kernel_name = "kernel";
    payload.map = {{0, 0x9f000, machine::boot::MapEntry::kRam}, {kMiB, 31 * kMiB, machine::boot::MapEntry::kRam}};
    auto state = machine::boot::load(memory, payload);
    if (!state && state.error().message().empty()) __builtin_trap();
    return 0;
}
