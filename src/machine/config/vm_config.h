// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "machine/config/field.h"

/// What a virtual machine is made of, as the user says it. Plain aggregates; the field tables in fields.cpp derive TOML,
/// flags, JSON and help. Nothing here opens, allocates or decides: validate() checks, the machine builds.
namespace vezha::machine {

enum class EngineChoice : u8 { Auto, Kvm, Dbt };
enum class DiskFormat : u8 { Auto, Raw };
/// Which caches of the host lie between a guest's write and the file.
enum class DiskCache : u8 { Writeback, None, Unsafe };
enum class NetKind : u8 { User, Tap, Socket, None };
enum class Reaction : u8 { Restart, Exit };
enum class LogChoice : u8 { Error, Warning, Info, Debug };
enum class SandboxChoice : u8 { On, Off, Log };

std::span<const EnumName<EngineChoice>> enum_names(EngineChoice);
std::span<const EnumName<DiskFormat>> enum_names(DiskFormat);
std::span<const EnumName<DiskCache>> enum_names(DiskCache);
std::span<const EnumName<NetKind>> enum_names(NetKind);
std::span<const EnumName<Reaction>> enum_names(Reaction);
std::span<const EnumName<LogChoice>> enum_names(LogChoice);
std::span<const EnumName<SandboxChoice>> enum_names(SandboxChoice);

/// "52:54:00:12:34:56"
struct Mac {
    std::array<u8, 6> bytes{};
    Result<> parse(const Node& node);
    std::string to_string() const;
    bool operator==(const Mac&) const = default;
};

/// A host port forwarded into the guest: "2222:22", "127.0.0.1:2222:22/udp".
struct PortShare {
    std::string host_address = "127.0.0.1";
    u16 host_port = 0;
    u16 guest_port = 0;
    bool udp = false;
    Result<> parse(const Node& node);
    std::string to_string() const;
};

struct DiskConfig {
    std::string path;
    DiskFormat format = DiskFormat::Auto;
    DiskCache cache = DiskCache::Writeback;
    bool readonly = false;
    bool discard = true;
    std::string serial;
    u32 queues = 0;  ///< 0: one per I/O loop
    static constexpr std::string_view kBareKey = "path";
    static std::span<const Field<DiskConfig>> fields();
};

struct NetConfig {
    NetKind type = NetKind::User;
    std::optional<Mac> mac;
    std::string name;       ///< tap: interface
    std::optional<i32> fd;  ///< tap: an inherited descriptor instead of a name
    u32 queues = 1;
    std::string listen, connect;  ///< socket: UNIX socket path or ADDRESS:PORT
    bool restrict = false;        ///< user: no way out but the shared ports
    static constexpr std::string_view kBareKey = "type";
    static std::span<const Field<NetConfig>> fields();
};

struct VmConfig {
    std::string name;  ///< empty: "vm"
    ByteSize memory;   ///< 0: the default, 2 GiB or half of a smaller host
    u32 cpus = 2;
    std::string cpu = "host";
    EngineChoice engine = EngineChoice::Auto;

    std::string kernel, initrd, append;

    std::vector<DiskConfig> disks;
    std::vector<NetConfig> nets;  ///< empty: one user network
    std::vector<PortShare> share_ports;

    std::vector<std::string> serials;  ///< empty: stdio
    std::vector<std::string> consoles;
    std::optional<std::string> qmp;  ///< empty text or absent: the default path; "none": no socket

    bool rng = true, balloon = true;
    Reaction on_reboot = Reaction::Restart, on_crash = Reaction::Restart;

    u32 io_threads = 0;  ///< 0: one per four vCPUs
    bool memfd = false;
    bool huge_pages = true;
    bool paused = false;
    bool test_devices = false;
    LogChoice log = LogChoice::Warning;
    SandboxChoice sandbox = SandboxChoice::On;

    static constexpr std::string_view kBareKey = "kernel";
    static std::span<const Field<VmConfig>> fields();
};

/// Fills in what the user left open: name, memory, network, serial, MACs (stable for a name), QMP path.
void apply_defaults(VmConfig& config);

/// Everything that can be seen to be wrong without touching the host. Errors name the key, the value, and what to do.
Result<> validate(const VmConfig& config);

/// The address of the `index`-th network card of a VM called `name`: 52:54:00 and a hash.
Mac generated_mac(std::string_view name, u32 index);
/// Where the control socket of a VM is by default, and the folder (made with mode 0700) it lies in.
std::string default_runtime_folder();

/// The flags of `vezha run`. `arguments` is without the program's name.
struct ParsedFlags {
    VmConfig config;
    bool help = false;
};
/// @param read_text reads a named file (TOML); injected for tests.
Result<ParsedFlags> parse_flags(std::span<const std::string> arguments,
                                Result<std::string> (*read_text)(const std::string& path));
/// The page that `vezha run --help` prints.
std::string run_help();

std::string config_to_json(const VmConfig& config);
Result<VmConfig> config_from_json(std::string_view json);

}  // namespace vezha::machine
