// SPDX-License-Identifier: Apache-2.0
#include "machine/engine_choice.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "engine/dbt/dbt_engine.h"
#include "engine/kvm/kvm_engine.h"

namespace vezha::machine {

namespace {

/// Names this boot of this host's kernel and the KVM modules in it: a result holds as long as they stay.
std::string host_identity() {
    std::string id = read_file("/proc/sys/kernel/random/boot_id", 128).value_or("unknown");
    while (!id.empty() && id.back() == '\n') id.pop_back();
    for (const char* module : {"/sys/module/kvm", "/sys/module/kvm_intel", "/sys/module/kvm_amd"}) {
        struct stat info {};
        if (stat(module, &info) == 0) id += fmt::format(":{}", static_cast<long long>(info.st_ctime));
    }
    return id + " " VEZHA_VERSION;
}

std::string cache_path() { return default_runtime_folder() + "/kvm-self-test"; }

std::optional<Result<>> read_cache(const std::string& identity) {
    UniqueFd fd(open(cache_path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    struct stat info {};
    // Somebody else's file could make us trust a broken KVM.
    if (!fd || fstat(fd.get(), &info) != 0 || info.st_uid != geteuid() || info.st_size > 4096) return std::nullopt;
    std::string text(static_cast<usize>(info.st_size), '\0');
    if (read(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) return std::nullopt;
    const auto first = text.find('\n');
    if (first == std::string::npos || text.substr(0, first) != identity) return std::nullopt;
    std::string rest = text.substr(first + 1);
    if (rest == "ok") return Result<>{};
    return Result<>(fail(ErrorCode::Unsupported, "{}", rest));
}

void write_cache(const std::string& identity, const Result<>& result) {
    mkdir(default_runtime_folder().c_str(), 0700);
    const std::string text = identity + "\n" + (result ? "ok" : result.error().message());
    const std::string temporary = fmt::format("{}.{}", cache_path(), getpid());
    UniqueFd fd(open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd) return;
    if (write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) || rename(temporary.c_str(), cache_path().c_str()) != 0)
        unlink(temporary.c_str());
}

Result<ChosenEngine> software(const engine::VmWiring& wiring, std::string line, bool kvm_present) {
    auto vm = TRY(engine::dbt::create(wiring));
    return ChosenEngine{std::move(vm), std::move(line), kvm_present};
}

}  // namespace

Result<> kvm_self_test_cached() {
    const std::string identity = host_identity();
    // A file that cannot be opened is no property of the boot: permissions change.
    if (access("/dev/kvm", R_OK | W_OK) != 0)
        return Failure(errno_error(errno, "/dev/kvm").with_hint(errno == EACCES ? "add yourself to the group kvm" : "this host offers no KVM: load kvm_intel or kvm_amd"));
    if (auto known = read_cache(identity)) return *std::move(known);
    Result<> result = engine::kvm::self_test();
    write_cache(identity, result);
    return result;
}

std::vector<EngineOffer> engine_offers() {
    std::vector<EngineOffer> offers;
    EngineOffer kvm{.name = "kvm"};
    if (auto probe = engine::kvm::probe(); !probe) {
        kvm.remark = probe.error().to_string();
    } else {
        kvm.usable = true;
        if (auto test = kvm_self_test_cached(); !test) {
            kvm.remark = fmt::format("/dev/kvm is there, but the self-test fails: {}", test.error().message());
        } else {
            kvm.trusted = true;
            kvm.remark = fmt::format("hardware virtualization, up to {} CPUs, the self-test passes", probe->max_vcpus);
        }
    }
    offers.push_back(std::move(kvm));
    offers.push_back({.name = "dbt", .usable = true, .trusted = true,
                      .remark = "software: translates guest code, needs nothing from the host, several times slower than kvm"});
    return offers;
}

Result<ChosenEngine> choose_engine(EngineChoice choice, const engine::VmWiring& wiring) {
    const bool present = access("/dev/kvm", R_OK | W_OK) == 0;
    if (choice == EngineChoice::Dbt) return software(wiring, "", present);
    const Result<> test = kvm_self_test_cached();
    if (choice == EngineChoice::Kvm) {
        auto vm = engine::kvm::create(wiring);
        if (!vm) return Failure(std::move(vm.error()).with_context("--engine kvm").with_hint("use --engine auto to fall back to the software engine"));
        ChosenEngine chosen{*std::move(vm), "", true};
        if (!test) chosen.line = fmt::format("warning: KVM fails its self-test on this host ({}); operating systems may not run", test.error().message());
        return chosen;
    }
    if (!test) return software(wiring, fmt::format("using the software engine: {}", test.error().message()), present);
    auto vm = engine::kvm::create(wiring);
    if (!vm) return software(wiring, fmt::format("using the software engine: {}", vm.error().message()), present);
    return ChosenEngine{*std::move(vm), "", true};
}

}  // namespace vezha::machine
