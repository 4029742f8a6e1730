// SPDX-License-Identifier: Apache-2.0
#include "machine/boot/boot.h"

#include <gmock/gmock.h>

#include <algorithm>

#include "arch/x86/registers.h"
#include "machine/boot/elf.h"

namespace vezha::machine::boot {
namespace {
using ::testing::HasSubstr;

template <class T>
void put(std::vector<u8>& bytes, usize offset, T value) {
    std::memcpy(bytes.data() + offset, &value, sizeof value);
}

std::vector<u8> tiny_bzimage() {
    std::vector<u8> k(512 * 2 + 0x400);
    put<u8>(k, 0x1f1, 1);
    put<u32>(k, 0x1f4, 0x400 / 16);
    put<u16>(k, 0x1fe, 0xaa55);
    put<u8>(k, 0x201, 0x66);
    put<u32>(k, 0x202, 0x53726448);
    put<u16>(k, 0x206, 0x020f);
    put<u8>(k, 0x211, 1);
    put<u32>(k, 0x22c, 0x7fffffff);
    put<u32>(k, 0x230, 0x200000);
    put<u8>(k, 0x234, 1);
    put<u16>(k, 0x236, 1);
    put<u32>(k, 0x238, 2047);
    put<u64>(k, 0x258, 0x1000000);
    put<u32>(k, 0x260, 0x100000);
    for (usize i = 0; i < 0x400; ++i) k[1024 + i] = static_cast<u8>(i);
    return k;
}

std::vector<u8> elf32(u32 entry, u32 address, std::vector<u8> body) {
    std::vector<u8> f(0x54 + body.size());
    put<u32>(f, 0, 0x464c457f);
    f[4] = 1;
    f[5] = 1;
    put<u16>(f, 16, 2);
    put<u16>(f, 18, 3);
    put<u32>(f, 24, entry);
    put<u32>(f, 28, 52);
    put<u16>(f, 42, 32);
    put<u16>(f, 44, 1);
    put<u32>(f, 52, 1);
    put<u32>(f, 56, 0x54);
    put<u32>(f, 64, address);
    put<u32>(f, 68, static_cast<u32>(body.size()));
    put<u32>(f, 72, static_cast<u32>(body.size() + 4096));
    std::copy(body.begin(), body.end(), f.begin() + 0x54);
    return f;
}

struct Boot : ::testing::Test {
    memory::GuestMemory memory{{}};
    Payload payload;
    void SetUp() override {
        ASSERT_TRUE(memory.add_pc_ram(64 * kMiB));
        payload.map = {{0, 0x9fc00, 1}, {0x9fc00, 0x400, 2}, {0xf0000, 0x10000, 2}, {kMiB, 63 * kMiB, 1}};
    }
};

TEST_F(Boot, LinuxStartsAtIts64BitEntry) {
    const auto kernel = tiny_bzimage();
    const std::vector<u8> initrd(5000, 0xab);
    const std::vector<u8> seed(32, 7);
    payload.kernel = kernel;
    payload.initrd = initrd;
    payload.command_line = "console=ttyS0";
    payload.rsdp = 0xf0010;
    payload.random_seed = seed;
    auto state = load(memory, payload);
    ASSERT_TRUE(state) << state.error().to_string();
    EXPECT_EQ(state->rip, 0x1000200u);
    EXPECT_EQ(state->gpr[x86::kRsi], layout::kZeroPage);
    EXPECT_TRUE(state->efer & x86::efer::kLma);
    EXPECT_EQ(*memory.read_object<u8>({0x1000000 + 5}), 5);
    const u32 at = *memory.read_object<u32>({layout::kZeroPage + 0x218});
    EXPECT_EQ(*memory.read_object<u32>({layout::kZeroPage + 0x21c}), 5000u);
    EXPECT_GE(at, 0x1100000u);
    EXPECT_EQ(*memory.read_object<u8>({at + 4999}), 0xab);
    EXPECT_EQ(*memory.read_object<u8>({layout::kZeroPage + 0x1e8}), 4);
    EXPECT_EQ(*memory.read_object<u64>({layout::kZeroPage + 0x70}), 0xf0010u);
    EXPECT_EQ(*memory.read_object<u64>({layout::kPageDirectories + 8}), 0x2000'83u);
}

TEST_F(Boot, EveryTruncationOfLinuxIsRefused) {
    const auto kernel = tiny_bzimage();
    for (usize size = 0; size + 15 < kernel.size(); size += 13) {  // the header counts in units of 16 bytes
        payload.kernel = std::span(kernel).first(size);
        EXPECT_FALSE(load(memory, payload)) << size;
    }
}

TEST_F(Boot, TooLargeThingsAreNamed) {
    auto kernel = tiny_bzimage();
    payload.kernel = kernel;
    const std::vector<u8> initrd(60 * kMiB);
    payload.initrd = initrd;
    EXPECT_THAT(load(memory, payload).error().to_string(), ::testing::AllOf(HasSubstr("initrd (60 MiB)"), HasSubstr("--memory")));
    payload.initrd = {};
    put<u32>(kernel, 0x260, 0x7000000);
    EXPECT_THAT(load(memory, payload).error().to_string(), HasSubstr("--memory"));
    payload.command_line.assign(5000, 'x');
    EXPECT_FALSE(load(memory, payload));
}

TEST_F(Boot, MultibootLoadsByProgramHeaders) {
    std::vector<u8> body(64, 0x90);
    put<u32>(body, 0, 0x1badb002);
    put<u32>(body, 4, 0);
    put<u32>(body, 8, 0u - 0x1badb002u);
    const auto kernel = elf32(0x40000c, 0x400000, body);
    payload.kernel = kernel;
    payload.kernel_name = "test.flat";
    payload.command_line = "one two";
    auto state = load(memory, payload);
    ASSERT_TRUE(state) << state.error().to_string();
    EXPECT_EQ(state->rip, 0x40000cu);
    EXPECT_EQ(state->gpr[x86::kRax], 0x2badb002u);
    EXPECT_EQ(state->cr0 & x86::cr0::kPg, 0u);
    const u64 info = state->gpr[x86::kRbx];
    EXPECT_EQ(*memory.read_object<u32>({info + 8}), 63 * 1024u);
    EXPECT_EQ(*memory.read_object<u8>({*memory.read_object<u32>({info + 16})}), 't');
}

TEST_F(Boot, PvhFindsItsNote) {
    auto kernel = elf32(0, 0x200000, std::vector<u8>(128, 0x90));
    // A second program header: PT_NOTE at the end of the file.
    put<u16>(kernel, 44, 2);
    std::vector<u8> with_room(kernel.size() + 0x20 + 20);
    std::copy(kernel.begin(), kernel.begin() + 0x54, with_room.begin());
    std::copy(kernel.begin() + 0x54, kernel.end(), with_room.begin() + 0x74);
    put<u32>(with_room, 56, 0x74);
    const usize note = with_room.size() - 20;
    put<u32>(with_room, note, 4);
    put<u32>(with_room, note + 4, 4);
    put<u32>(with_room, note + 8, 18);
    put<u32>(with_room, note + 12, 0x006e6558);
    put<u32>(with_room, note + 16, 0x200010);
    put<u32>(with_room, 0x54, 4);
    put<u32>(with_room, 0x58, static_cast<u32>(note));
    put<u32>(with_room, 0x64, 20);
    payload.kernel = with_room;
    auto state = load(memory, payload);
    ASSERT_TRUE(state) << state.error().to_string();
    EXPECT_EQ(state->rip, 0x200010u);
    EXPECT_EQ(*memory.read_object<u32>({state->gpr[x86::kRbx]}), 0x336ec578u);
    for (usize size = 0; size < with_room.size(); ++size) {
        payload.kernel = std::span(with_room).first(size);
        EXPECT_FALSE(load(memory, payload)) << size;
    }
}

TEST_F(Boot, NonsenseSaysWhatIsExpected) {
    const std::vector<u8> zeros(100000);
    payload.kernel = zeros;
    EXPECT_THAT(load(memory, payload).error().to_string(), HasSubstr("bzImage"));
    auto huge = elf32(0x100000, 0xfff00000, std::vector<u8>(64));
    payload.kernel = huge;
    EXPECT_FALSE(load_multiboot(memory, payload));
}

}  // namespace
}  // namespace vezha::machine::boot
