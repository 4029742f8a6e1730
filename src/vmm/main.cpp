// SPDX-License-Identifier: Apache-2.0
// vezha-vmm: the process of one virtual machine. Started by `vezha run`, which hands over the configuration as JSON in an
// inherited descriptor.
#include <fmt/core.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <optional>
#include <string>

#include "base/log.h"
#include "control/qmp_server.h"
#include "machine/engine_choice.h"
#include "machine/machine.h"
#include "vmm/sandbox.h"
#include "vmm/signals.h"

namespace vezha::vmm {
namespace {

using machine::ExitCode;

/// A line for the user, whatever the log level.
void say(const std::string& text) { fmt::print(stderr, "vezha: {}\n", text); }

constexpr const char* kUsage =
    "Usage: vezha-vmm --config FILE | --config-fd N     runs the machine that the JSON describes (see `vezha run --help`)\n"
    "       vezha-vmm --engines                         what this host offers\n"
    "       vezha-vmm --version\n";

int show_engines() {
    const auto offers = machine::engine_offers();
    bool chosen = false;
    for (const auto& offer : offers) {
        const bool automatic = offer.trusted && !chosen;
        chosen |= automatic;
        std::string remark = offer.remark;
        for (usize at = 0; (at = remark.find('\n', at)) != std::string::npos; at += 7) remark.replace(at, 1, "\n      ");
        fmt::print("{:<5} {}{}\n      {}\n", offer.name, offer.trusted ? "usable" : offer.usable ? "usable with --engine kvm, not recommended" : "not usable",
                   automatic ? "; what --engine auto takes" : "", remark);
    }
    return 0;
}

/// Makes the folder of a control socket in our runtime folder, for us alone.
Result<> prepare_folder(const std::string& socket_path) {
    const std::string folder = machine::default_runtime_folder();
    if (!socket_path.starts_with(folder + "/")) return {};
    if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) return fail_errno(errno, "--qmp: cannot make {}", folder);
    struct stat info {};
    if (lstat(folder.c_str(), &info) != 0 || !S_ISDIR(info.st_mode) || info.st_uid != geteuid())
        return Failure(Error(ErrorCode::PermissionDenied, fmt::format("--qmp: {} belongs to somebody else", folder)).with_hint("name a socket: --qmp PATH"));
    return {};
}

Result<int> run(const machine::VmConfig& config) {
    auto loop = TRY(EventLoop::create("main"));
    auto signals = TRY(Signals::create(*loop));
    std::optional<int> status;
    auto machine = TRY(machine::Machine::create(config, {.loop = *loop, .exit = [&](int code) {
                                                             status = code;
                                                             loop->stop();
                                                         }}));
    std::unique_ptr<control::QmpServer> qmp;
    if (config.qmp && *config.qmp != "none" && !config.qmp->empty()) {
        TRY(prepare_folder(*config.qmp));
        qmp = TRY(control::QmpServer::create(*loop, *machine, *config.qmp).context("--qmp"));
    }
    signals->control(*machine);
    if (!machine->engine_line().empty()) say(machine->engine_line());
    if (config.sandbox != machine::SandboxChoice::Off) {
        const auto mode = config.sandbox == machine::SandboxChoice::Log ? SandboxMode::Log : SandboxMode::Enforce;
        TRY(enter_sandbox(mode).context("--sandbox"));
    }
    TRY(machine->start());
    loop->run();
    // What the last events left to be sent: the SHUTDOWN event of the control socket.
    for (int i = 0; i < 4; ++i) loop->run_once(0);
    return status.value_or(static_cast<int>(ExitCode::Host));
}

int tell(const Error& error, ExitCode code) {
    say(error.to_string());
    return static_cast<int>(code);
}

Result<machine::VmConfig> read_config(const std::string& flag, const std::string& value) {
    std::string path = value;
    if (flag == "--config-fd") path = "/proc/self/fd/" + value;
    const std::string text = TRY(read_file(path, kMiB));
    if (flag == "--config-fd") close(std::atoi(value.c_str()));
    auto config = TRY(machine::config_from_json(text));
    machine::apply_defaults(config);
    TRY(machine::validate(config));
    return config;
}

}  // namespace
}  // namespace vezha::vmm

int main(int argc, char** argv) {
    using namespace vezha;
    const std::string flag = argc > 1 ? argv[1] : "";
    if (argc == 2 && flag == "--engines") return vmm::show_engines();
    if (argc == 2 && flag == "--version") return std::puts("vezha-vmm " VEZHA_VERSION) < 0;
    if (argc != 3 || (flag != "--config" && flag != "--config-fd")) {
        std::fputs(vmm::kUsage, stderr);
        return static_cast<int>(machine::ExitCode::Usage);
    }
    auto config = vmm::read_config(flag, argv[2]);
    if (!config) return vmm::tell(config.error(), machine::ExitCode::Usage);
    set_log_level(static_cast<LogLevel>(config->log));
    auto status = vmm::run(*config);
    if (!status) return vmm::tell(status.error(), machine::ExitCode::Host);
    return *status;
}
