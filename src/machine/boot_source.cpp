// SPDX-License-Identifier: Apache-2.0
#include "machine/boot_source.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>

#include <optional>

namespace vezha::machine {

namespace {
/// A file's bytes, mapped privately.
class Mapped {
  public:
    static Result<Mapped> of(int fd) {
        struct stat info {};
        if (fstat(fd, &info) != 0) return fail_errno(errno, "fstat");
        Mapped mapped;
        if (info.st_size == 0) return mapped;
        void* address = mmap(nullptr, static_cast<usize>(info.st_size), PROT_READ, MAP_PRIVATE, fd, 0);
        if (address == MAP_FAILED) return fail_errno(errno, "cannot map");
        mapped.bytes_ = {static_cast<const u8*>(address), static_cast<usize>(info.st_size)};
        return mapped;
    }
    Mapped() = default;
    Mapped(Mapped&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
    ~Mapped() {
        if (!bytes_.empty()) munmap(const_cast<u8*>(bytes_.data()), bytes_.size());
    }
    std::span<const u8> bytes() const { return bytes_; }

  private:
    std::span<const u8> bytes_;
};
}  // namespace

Result<BootSource::File> BootSource::open_one(std::string flag, const std::string& path) {
    auto fd = open_file(path, O_RDONLY);
    if (!fd) return Failure(std::move(fd.error()).with_context(flag).with_hint("check the path and its permissions"));
    struct stat info {};
    if (fstat(fd->get(), &info) != 0) return fail_errno(errno, "{}: {}", flag, path);
    if (!S_ISREG(info.st_mode)) return fail(ErrorCode::InvalidArgument, "{}: {} is not a file", flag, path);
    return File{std::move(flag), path, *std::move(fd)};
}

Result<std::unique_ptr<BootSource>> BootSource::open(const std::string& kernel, const std::string& initrd, std::string command_line) {
    auto source = std::make_unique<BootSource>();
    source->kernel_ = TRY(open_one("--kernel", kernel));
    if (!initrd.empty()) source->initrd_ = TRY(open_one("--initrd", initrd));
    source->command_line_ = std::move(command_line);
    return source;
}

Result<x86::CpuState> BootSource::load(memory::GuestMemory& memory, std::vector<boot::MapEntry> map, u64 rsdp) const {
    Mapped kernel = TRY(Mapped::of(kernel_.fd.get()).context(kernel_.path));
    std::optional<Mapped> initrd;
    boot::Payload payload;
    payload.kernel = kernel.bytes();
    if (initrd_.fd) {
        initrd.emplace(TRY(Mapped::of(initrd_.fd.get()).context(initrd_.path)));
        payload.initrd = initrd->bytes();
        if (payload.initrd.empty()) return fail(ErrorCode::InvalidFormat, "--initrd: {} is empty", initrd_.path);
    }
    payload.command_line = command_line_;
    payload.kernel_name = kernel_.path;
    payload.map = std::move(map);
    payload.rsdp = rsdp;
    std::array<u8, 32> seed{};
    if (getrandom(seed.data(), seed.size(), GRND_NONBLOCK) == static_cast<ssize_t>(seed.size())) payload.random_seed = seed;
    auto state = boot::load(memory, payload);
    if (!state) return Failure(std::move(state.error()).with_context("--kernel: " + kernel_.path));
    return state;
}

}  // namespace vezha::machine
