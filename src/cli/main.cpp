// SPDX-License-Identifier: Apache-2.0
// vezha: the command line. Checks what the user asks for and becomes vezha-vmm, which lies beside it.
#include <fmt/core.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "base/fd.h"
#include "machine/config/vm_config.h"

namespace vezha::cli {
namespace {

constexpr int kHostError = 1, kUsageError = 2;

constexpr const char* kHelp =
    "Vezha runs virtual machines.\n"
    "\n"
    "Usage: vezha COMMAND [...]\n"
    "\n"
    "  run       start a virtual machine; `vezha run --help` explains its flags\n"
    "  engines   what this host offers to run guests with, and why\n"
    "  version   print the version\n"
    "  help      print this page\n"
    "\n"
    "To try it: ./quickstart in the source folder makes a Debian guest and starts it.\n";

int tell(const Error& error, int status) {
    fmt::print(stderr, "vezha: {}\n", error.to_string());
    return status;
}

/// Becomes vezha-vmm from our own folder.
Result<> become_vmm(std::vector<std::string> arguments) {
    std::string self(4096, '\0');
    const ssize_t length = readlink("/proc/self/exe", self.data(), self.size());
    if (length < 0) return fail_errno(errno, "/proc/self/exe");
    self.resize(static_cast<usize>(length));
    const std::string path = self.substr(0, self.rfind('/') + 1) + "vezha-vmm";
    arguments.insert(arguments.begin(), path);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    execv(path.c_str(), argv.data());
    return fail_errno(errno, "cannot start {}", path);
}

Result<std::string> read_config_text(const std::string& path) {
    auto text = read_file(path, kMiB);
    if (!text) return Failure(std::move(text.error()).with_hint("the first word after `run` without dashes is a TOML file; see `vezha run --help`"));
    return text;
}

int run(const std::vector<std::string>& arguments) {
    auto parsed = machine::parse_flags(arguments, read_config_text);
    if (!parsed) return tell(parsed.error(), kUsageError);
    if (parsed->help) {
        std::fputs(machine::run_help().c_str(), stdout);
        return 0;
    }
    machine::VmConfig& config = parsed->config;
    machine::apply_defaults(config);
    if (auto valid = machine::validate(config); !valid) return tell(valid.error(), kUsageError);

    const std::string json = machine::config_to_json(config);
    const int fd = memfd_create("vezha-config", 0);
    if (fd < 0) return tell(errno_error(errno, "memfd_create"), kHostError);
    if (write(fd, json.data(), json.size()) != static_cast<ssize_t>(json.size()) || lseek(fd, 0, SEEK_SET) != 0)
        return tell(errno_error(errno, "cannot hand over the configuration"), kHostError);
    return tell(become_vmm({"--config-fd", std::to_string(fd)}).error(), kHostError);
}

}  // namespace
}  // namespace vezha::cli

int main(int argc, char** argv) {
    using namespace vezha;
    const std::string command = argc > 1 ? argv[1] : "";
    if (command == "run") return cli::run({argv + 2, argv + argc});
    if (command == "engines" && argc == 2) return cli::tell(cli::become_vmm({"--engines"}).error(), cli::kHostError);
    if ((command == "version" || command == "--version") && argc == 2) return std::puts("vezha " VEZHA_VERSION) < 0;
    if (command == "help" || command == "--help" || command == "-h") return std::fputs(cli::kHelp, stdout) < 0;
    if (!command.empty()) {
        const std::string guess = machine::nearest(command, {"run", "engines", "version", "help"});
        fmt::print(stderr, "vezha: unknown command '{}'{}\n\n", command, guess.empty() ? "" : fmt::format("; did you mean '{}'?", guess));
    }
    std::fputs(cli::kHelp, stderr);
    return cli::kUsageError;
}
