// SPDX-License-Identifier: Apache-2.0
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <set>

#include "machine/config/vm_config.h"

namespace vezha::machine {

namespace {
constexpr u64 kDefaultMemory = 2 * kGiB, kMinMemory = 2 * kMiB, kMaxMemory = 4096 * kGiB;
constexpr u32 kMaxCpus = 255;  // xAPIC IDs

Failure refuse(std::string message, std::string hint) {
    return Failure(Error(ErrorCode::InvalidArgument, std::move(message)).with_hint(std::move(hint)));
}

Result<> check_chardev(std::string_view key, std::string_view text, std::map<std::string, std::string, std::less<>>& paths,
                       u32& stdio_users) {
    if (text == "stdio") {
        if (++stdio_users > 1)
            return refuse(fmt::format("{} = 'stdio': standard input and output are used twice", key),
                          "give one of them file:PATH, unix:PATH, pty or null");
        return {};
    }
    if (text == "pty" || text == "null") return {};
    for (const std::string_view prefix : {"file:", "unix:"}) {
        if (!text.starts_with(prefix)) continue;
        const std::string path(text.substr(prefix.size()));
        if (path.empty()) break;
        if (prefix == "unix:" && path.size() > 107)
            return refuse(fmt::format("{} = '{}': the path of a socket has at most 107 characters", key, text), "use a shorter path");
        if (!paths.emplace(path, key).second)
            return refuse(fmt::format("{} = '{}': this path is used twice", key, text), "give each its own");
        return {};
    }
    return refuse(fmt::format("{} = '{}' is not known", key, text), "use stdio, file:PATH, unix:PATH, pty or null");
}

Result<> check_net(const NetConfig& net, usize index) {
    const std::string key = fmt::format("net {}", index);
    if (net.mac && (net.mac->bytes[0] & 1))
        return refuse(fmt::format("{}: mac '{}' is a multicast address", key, net.mac->to_string()),
                      "the first byte must be even, such as 52:54:00:12:34:56");
    if (net.type == NetKind::Tap) {
        if (net.name.empty() == !net.fd)
            return refuse(fmt::format("{}: a tap needs either name or fd", key), "for example --net tap,name=tap0");
        if (net.name.size() > 15) return refuse(fmt::format("{}: name '{}' is longer than 15 characters", key, net.name), "use the interface's name");
    } else if (!net.name.empty() || net.fd || net.queues != 1) {
        return refuse(fmt::format("{}: name, fd and queues belong to a tap", key), "for example --net tap,name=tap0");
    }
    if (net.queues < 1 || net.queues > 64) return refuse(fmt::format("{}: queues = {}", key, net.queues), "use 1 to 64");
    if (net.type == NetKind::Socket) {
        if (net.listen.empty() == net.connect.empty())
            return refuse(fmt::format("{}: a socket needs either listen or connect", key),
                          "one VM: --net socket,listen=/tmp/wire; the other: --net socket,connect=/tmp/wire");
    } else if (!net.listen.empty() || !net.connect.empty()) {
        return refuse(fmt::format("{}: listen and connect belong to a socket", key), "for example --net socket,listen=/tmp/wire");
    }
    return {};
}

u64 host_memory() {
    struct sysinfo info {};
    if (sysinfo(&info) != 0) return kDefaultMemory * 2;
    return u64{info.totalram} * info.mem_unit;
}
}  // namespace

Mac generated_mac(std::string_view name, u32 index) {
    u32 hash = 2166136261u;  // FNV-1a
    for (const char c : name) hash = (hash ^ static_cast<u8>(c)) * 16777619u;
    hash = (hash ^ (hash >> 24)) + index;
    return {{0x52, 0x54, 0x00, static_cast<u8>(hash >> 16), static_cast<u8>(hash >> 8), static_cast<u8>(hash)}};
}

std::string default_runtime_folder() {
    if (const char* runtime = std::getenv("XDG_RUNTIME_DIR"); runtime && *runtime) return std::string(runtime) + "/vezha";
    if (geteuid() == 0 && access("/run", W_OK) == 0) return "/run/vezha";
    return fmt::format("/tmp/vezha-{}", geteuid());
}

void apply_defaults(VmConfig& config) {
    // A VM that nobody named shares its runtime folder with others: its socket carries the process's number.
    const std::string socket_name = config.name.empty() ? fmt::format("vm-{}", getpid()) : config.name;
    if (config.name.empty()) config.name = "vm";
    if (config.memory.bytes == 0)
        config.memory.bytes = std::min(kDefaultMemory, std::max(align_down(host_memory() / 2, kMiB), 64 * kMiB));
    if (config.nets.empty()) config.nets.emplace_back();
    if (config.serials.empty()) {
        bool stdio_taken = false;
        for (const std::string& console : config.consoles) stdio_taken |= console.ends_with("stdio");
        config.serials.emplace_back(stdio_taken ? "null" : "stdio");
    }
    u32 index = 0;
    for (NetConfig& net : config.nets) {
        if (!net.mac && net.type != NetKind::None) net.mac = generated_mac(config.name, index);
        ++index;
    }
    if (!config.qmp || config.qmp->empty()) config.qmp = fmt::format("{}/{}.qmp", default_runtime_folder(), socket_name);
    if (config.io_threads == 0) config.io_threads = std::min(8u, 1 + config.cpus / 4);
}

Result<> validate(const VmConfig& config) {
    for (const char c : config.name)
        if (!(std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.'))
            return refuse(fmt::format("name = '{}'", config.name), "use letters, digits, '-', '_' and '.'");
    if (config.name.size() > 64 || config.name.starts_with('.')) return refuse(fmt::format("name = '{}'", config.name), "use up to 64 characters, no leading '.'");
    if (config.memory.bytes < kMinMemory || config.memory.bytes > kMaxMemory)
        return refuse(fmt::format("memory = {} ({} bytes)", to_string(config.memory), config.memory.bytes),
                      "use a size from 2M to 4T, with its unit, such as 512M or 2G");
    if (config.memory.bytes % kMiB != 0)
        return refuse(fmt::format("memory = {} is not a whole number of MiB", to_string(config.memory)), "use a size such as 512M or 2G");
    if (config.cpus < 1 || config.cpus > kMaxCpus) return refuse(fmt::format("cpus = {}", config.cpus), "use 1 to 255");
    if (config.kernel.empty())
        return refuse("there is nothing to boot: no kernel is given",
                      "give --kernel FILE; `./quickstart` makes a kernel and a disk to try");
    if (config.append.size() > 64 * kKiB) return refuse("append is longer than 64 KiB", "use a shorter kernel command line");
    if (config.io_threads > 64) return refuse(fmt::format("io_threads = {}", config.io_threads), "use 1 to 64");

    usize index = 0;
    std::set<std::string> files;
    for (const DiskConfig& disk : config.disks) {
        const std::string key = fmt::format("disk {}", index++);
        if (disk.path.empty()) return refuse(key + ": no path", "for example --disk disk.img");
        if (disk.serial.size() > 20) return refuse(fmt::format("{}: serial '{}' is longer than 20 characters", key, disk.serial), "shorten it");
        if (disk.queues > 64) return refuse(fmt::format("{}: queues = {}", key, disk.queues), "use 1 to 64");
        if (!disk.readonly && !files.insert(disk.path).second)
            return refuse(fmt::format("{}: '{}' is attached twice", key, disk.path), "a file that is written can be only one disk");
    }
    index = 0;
    std::map<std::array<u8, 6>, usize> macs;
    bool user_network = false, no_network = false;
    for (const NetConfig& net : config.nets) {
        TRY(check_net(net, index));
        user_network |= net.type == NetKind::User;
        no_network |= net.type == NetKind::None;
        if (net.mac) {
            if (const auto [other, fresh] = macs.emplace(net.mac->bytes, index); !fresh)
                return refuse(fmt::format("net {} and net {} have the same mac '{}'", other->second, index, net.mac->to_string()),
                              "give each card its own, or none to have one made");
        }
        ++index;
    }
    if (no_network && config.nets.size() > 1) return refuse("net 'none' stands beside other network cards", "leave it out");
    if (!config.share_ports.empty() && !user_network)
        return refuse(fmt::format("share_port '{}' needs the user network", config.share_ports[0].to_string()), "add --net user");

    std::map<std::string, std::string, std::less<>> paths;
    u32 stdio_users = 0;
    if (config.serials.size() > 4) return refuse(fmt::format("{} serial ports", config.serials.size()), "a PC has at most 4");
    for (const std::string& serial : config.serials) TRY(check_chardev("serial", serial, paths, stdio_users));
    for (const std::string& console : config.consoles) {
        const auto equals = console.find('=');
        TRY(check_chardev("console", equals == std::string::npos ? std::string_view(console) : std::string_view(console).substr(equals + 1),
                          paths, stdio_users));
    }
    if (config.qmp && config.qmp->size() > 107)
        return refuse(fmt::format("qmp = '{}': the path of a socket has at most 107 characters", *config.qmp), "use a shorter path");
    return {};
}

}  // namespace vezha::machine
