// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "arch/x86/registers.h"
#include "base/bytes.h"
#include "machine/boot/boot.h"

namespace vezha::machine::boot {

namespace {
/// Offsets in the zero page and, from 0x1f1 on, in the image. Linux Documentation/arch/x86/{boot,zero-page}.rst.
enum : u32 {
    kAcpiRsdpAddr = 0x070, kExtRamdiskImage = 0x0c0, kExtRamdiskSize = 0x0c4, kExtCmdLinePtr = 0x0c8, kAltMemK = 0x1e0,
    kE820Entries = 0x1e8, kSetupSects = 0x1f1, kSysSize = 0x1f4, kVidMode = 0x1fa, kJump = 0x201, kHeaderVersion = 0x206,
    kTypeOfLoader = 0x210, kLoadFlags = 0x211, kRamdiskImage = 0x218, kRamdiskSize = 0x21c, kHeapEndPtr = 0x224,
    kCmdLinePtr = 0x228, kInitrdAddrMax = 0x22c, kKernelAlignment = 0x230, kRelocatable = 0x234, kXLoadFlags = 0x236,
    kCmdlineSize = 0x238, kSetupDataPtr = 0x250, kPrefAddress = 0x258, kInitSize = 0x260, kE820Table = 0x2d0,
};
constexpr u16 kMinVersion = 0x020c;
constexpr u8 kLoadedHigh = 1;
constexpr u16 kKernel64 = 1;
constexpr u32 kMaxE820 = 128, kSetupRngSeed = 9;
constexpr u8 kUnknownLoader = 0xff;

struct Header {
    u32 setup_bytes = 0;  ///< offset of the protected-mode part
    u32 initrd_max = 0, alignment = 0, command_line_max = 0;
    u64 preferred = 0;
    u32 init_size = 0;
    bool relocatable = false;
    std::vector<u8> raw;  ///< what goes to 0x1f1 of the zero page
};

Result<Header> parse_header(std::span<const u8> kernel) {
    const ByteReader in{std::as_bytes(kernel)};
    const u16 version = TRY(in.le<u16>(kHeaderVersion));
    if (version < kMinVersion)
        return Failure(Error(ErrorCode::Unsupported, fmt::format("boot protocol {}.{:02}", version >> 8, version & 0xff)).with_hint("Linux 3.8 or later is needed"));
    if (!(TRY(in.le<u8>(kLoadFlags)) & kLoadedHigh)) return fail(ErrorCode::Unsupported, "a zImage, which loads low");
    if (!(TRY(in.le<u16>(kXLoadFlags)) & kKernel64))
        return Failure(Error(ErrorCode::Unsupported, "a kernel without a 64-bit entry").with_hint("use a 64-bit (amd64) kernel"));
    Header header;
    const u8 sectors = TRY(in.le<u8>(kSetupSects));
    header.setup_bytes = ((sectors ? sectors : 4u) + 1) * 512;
    const u64 system_bytes = u64{TRY(in.le<u32>(kSysSize))} * 16;
    if (header.setup_bytes + 0x300 > kernel.size() || kernel.size() - header.setup_bytes + 15 < system_bytes)
        return Failure(Error(ErrorCode::InvalidFormat, fmt::format("truncated: {} bytes, its header speaks of {}", kernel.size(), header.setup_bytes + system_bytes))
                           .with_hint("copy the kernel again"));
    header.initrd_max = TRY(in.le<u32>(kInitrdAddrMax));
    header.alignment = TRY(in.le<u32>(kKernelAlignment));
    header.relocatable = TRY(in.le<u8>(kRelocatable)) != 0;
    header.command_line_max = TRY(in.le<u32>(kCmdlineSize));
    header.preferred = TRY(in.le<u64>(kPrefAddress));
    header.init_size = TRY(in.le<u32>(kInitSize));
    if (header.alignment == 0 || (header.alignment & (header.alignment - 1)) || header.preferred >= 0x1'0000'0000)
        return fail(ErrorCode::InvalidFormat, "impossible alignment {:#x} or address {:#x}", header.alignment, header.preferred);
    // The header ends where the jump at 0x200 leads.
    const u32 end = std::clamp<u32>(kJump + 1 + TRY(in.le<u8>(kJump)), kInitSize + 4, 0x290);
    if (end > kernel.size()) return fail(ErrorCode::InvalidFormat, "truncated header");
    header.raw.assign(kernel.begin() + kSetupSects, kernel.begin() + end);
    return header;
}

/// Identity-maps the first 4 GiB with 2 MiB pages.
Result<> write_page_tables(memory::GuestMemory& memory) {
    constexpr u64 table = x86::pte::kPresent | x86::pte::kWritable, large = table | x86::pte::kLarge;
    std::array<u64, 512> entries{};
    entries[0] = layout::kPdpt | table;
    TRY(memory.write_object({layout::kPml4}, entries));
    entries = {};
    for (u64 i = 0; i < 4; ++i) entries[i] = (layout::kPageDirectories + i * kPageSize) | table;
    TRY(memory.write_object({layout::kPdpt}, entries));
    for (u64 directory = 0; directory < 4; ++directory) {
        for (u64 i = 0; i < 512; ++i) entries[i] = ((directory * 512 + i) << 21) | large;
        TRY(memory.write_object({layout::kPageDirectories + directory * kPageSize}, entries));
    }
    return {};
}

template <class T>
void put(std::array<u8, 4096>& page, u32 offset, T value) {
    std::memcpy(page.data() + offset, &value, sizeof value);
}
}  // namespace

Result<x86::CpuState> load_linux(memory::GuestMemory& memory, const Payload& payload) {
    const Header header = TRY(parse_header(payload.kernel));
    if (payload.command_line.size() > std::min<u64>(header.command_line_max, layout::kCommandLineEnd - layout::kCommandLine - 1))
        return fail(ErrorCode::InvalidArgument, "the command line has {} bytes, this kernel takes {}", payload.command_line.size(), header.command_line_max);

    const u64 address = align_up(std::max(header.preferred, kMiB), header.alignment);
    const auto code = payload.kernel.subspan(header.setup_bytes);
    const u64 needs = std::max<u64>(header.init_size, code.size());
    const u64 ram_end = low_ram_end(payload.map);
    if (address + needs > ram_end)
        return Failure(Error(ErrorCode::OutOfMemory, fmt::format("the kernel needs memory up to {} MiB, the machine has {} MiB",
                                                                 (address + needs + kMiB - 1) / kMiB, ram_end / kMiB))
                           .with_hint("give the machine more memory: --memory"));
    TRY(memory.load({address}, code));

    std::array<u8, 4096> zero_page{};
    std::copy(header.raw.begin(), header.raw.end(), zero_page.begin() + kSetupSects);
    if (!payload.initrd.empty()) {
        const u64 floor = address + align_up(needs, kPageSize);
        const u64 limit = std::min<u64>(u64{header.initrd_max} + 1, ram_end);
        const u64 initrd = place_high(payload.map, payload.initrd.size(), floor, limit);
        if (!initrd) return initrd_too_large(payload.initrd.size(), limit > floor ? limit - floor : 0);
        TRY(memory.load({initrd}, payload.initrd));
        put(zero_page, kRamdiskImage, static_cast<u32>(initrd));
        put(zero_page, kRamdiskSize, static_cast<u32>(payload.initrd.size()));
    }
    std::vector<u8> text(payload.command_line.begin(), payload.command_line.end());
    text.push_back(0);
    TRY(memory.write({layout::kCommandLine}, text));
    put(zero_page, kCmdLinePtr, static_cast<u32>(layout::kCommandLine));
    put(zero_page, kTypeOfLoader, kUnknownLoader);
    put(zero_page, kVidMode, u16{0xffff});
    put(zero_page, kAcpiRsdpAddr, payload.rsdp);
    put(zero_page, kAltMemK, static_cast<u32>((ram_end - kMiB) / kKiB));
    if (!payload.random_seed.empty()) {
        // struct setup_data { u64 next; u32 type; u32 length; u8 data[]; }
        std::vector<u8> seed(16 + payload.random_seed.size());
        const u32 type = kSetupRngSeed, length = static_cast<u32>(payload.random_seed.size());
        std::memcpy(seed.data() + 8, &type, 4);
        std::memcpy(seed.data() + 12, &length, 4);
        std::copy(payload.random_seed.begin(), payload.random_seed.end(), seed.begin() + 16);
        TRY(memory.write({layout::kSetupData}, seed));
        put(zero_page, kSetupDataPtr, layout::kSetupData);
    }
    const u32 entries = static_cast<u32>(std::min<usize>(payload.map.size(), kMaxE820));
    put(zero_page, kE820Entries, static_cast<u8>(entries));
    for (u32 i = 0; i < entries; ++i) {
        put(zero_page, kE820Table + i * 20, payload.map[i].base);
        put(zero_page, kE820Table + i * 20 + 8, payload.map[i].size);
        put(zero_page, kE820Table + i * 20 + 16, payload.map[i].type);
    }
    TRY(memory.write_object({layout::kZeroPage}, zero_page));
    TRY(write_page_tables(memory));
    // 0x10 __BOOT_CS: 64-bit code; 0x18 __BOOT_DS: flat data.
    const std::array<u64, 4> gdt{0, 0, 0x00af'9b00'0000'ffff, 0x00cf'9300'0000'ffff};
    TRY(memory.write_object({layout::kGdt}, gdt));

    x86::CpuState state = x86::reset_state(true, 0);
    set_firmware_state(state);
    for (auto& segment : state.segment) segment = x86::flat_data();
    state.segment[x86::kCs] = x86::flat_code64();
    state.tr = {0, 0x8b, 0x67, 0};
    state.gdtr = {layout::kGdt, sizeof gdt - 1};
    state.idtr = {0, 0};
    state.cr0 = x86::cr0::kPe | x86::cr0::kEt | x86::cr0::kPg;
    state.cr3 = layout::kPml4;
    state.cr4 = x86::cr4::kPae;
    state.efer = x86::efer::kLme | x86::efer::kLma;
    state.rip = address + 0x200;
    state.gpr[x86::kRsi] = layout::kZeroPage;
    state.gpr[x86::kRsp] = layout::kStackTop;
    state.rflags = 2;
    return state;
}

}  // namespace vezha::machine::boot
