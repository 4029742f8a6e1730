// SPDX-License-Identifier: Apache-2.0
#include "machine/config/vm_config.h"

namespace vezha::machine {

namespace {
constexpr std::array kEngines{EnumName{EngineChoice::Auto, "auto"}, EnumName{EngineChoice::Kvm, "kvm"},
                              EnumName{EngineChoice::Dbt, "dbt"}};
constexpr std::array kFormats{EnumName{DiskFormat::Auto, "auto"}, EnumName{DiskFormat::Raw, "raw"}};
constexpr std::array kCaches{EnumName{DiskCache::Writeback, "writeback"}, EnumName{DiskCache::None, "none"},
                             EnumName{DiskCache::Unsafe, "unsafe"}};
constexpr std::array kNets{EnumName{NetKind::User, "user"}, EnumName{NetKind::Tap, "tap"},
                           EnumName{NetKind::Socket, "socket"}, EnumName{NetKind::None, "none"}};
constexpr std::array kReactions{EnumName{Reaction::Restart, "restart"}, EnumName{Reaction::Exit, "exit"}};
constexpr std::array kLogs{EnumName{LogChoice::Error, "error"}, EnumName{LogChoice::Warning, "warning"},
                           EnumName{LogChoice::Info, "info"}, EnumName{LogChoice::Debug, "debug"}};
constexpr std::array kSandboxes{EnumName{SandboxChoice::On, "on"}, EnumName{SandboxChoice::Off, "off"},
                                EnumName{SandboxChoice::Log, "log"}};
}  // namespace

std::span<const EnumName<EngineChoice>> enum_names(EngineChoice) { return kEngines; }
std::span<const EnumName<DiskFormat>> enum_names(DiskFormat) { return kFormats; }
std::span<const EnumName<DiskCache>> enum_names(DiskCache) { return kCaches; }
std::span<const EnumName<NetKind>> enum_names(NetKind) { return kNets; }
std::span<const EnumName<Reaction>> enum_names(Reaction) { return kReactions; }
std::span<const EnumName<LogChoice>> enum_names(LogChoice) { return kLogs; }
std::span<const EnumName<SandboxChoice>> enum_names(SandboxChoice) { return kSandboxes; }

std::span<const Field<DiskConfig>> DiskConfig::fields() {
    using C = DiskConfig;
    static constexpr auto rows = std::to_array<Field<C>>({
        config_field<C, &C::path>("path", "FILE", "the image file or block device"),
        config_field<C, &C::format>("format", "auto|raw", "auto refuses images that look like qcow2 and others; raw takes any bytes"),
        config_field<C, &C::cache>("cache", "writeback|none|unsafe", "none: past the host's page cache (O_DIRECT); unsafe: flushes do nothing"),
        config_field<C, &C::readonly>("readonly", "on|off", "the guest may not write"),
        config_field<C, &C::discard>("discard", "on|off", "what the guest trims is freed in the image"),
        config_field<C, &C::serial>("serial", "TEXT", "serial number the guest sees, up to 20 characters"),
        config_field<C, &C::queues>("queues", "N", "request queues (default: one per I/O thread)"),
    });
    return rows;
}

std::span<const Field<NetConfig>> NetConfig::fields() {
    using C = NetConfig;
    static constexpr auto rows = std::to_array<Field<C>>({
        config_field<C, &C::type>("type", "user|tap|socket|none", "what the card is plugged into"),
        config_field<C, &C::mac>("mac", "MAC", "the card's address (default: made from the VM's name)"),
        config_field<C, &C::name>("name", "IFNAME", "tap: the host's interface"),
        config_field<C, &C::fd>("fd", "N", "tap: an open descriptor instead of a name"),
        config_field<C, &C::queues>("queues", "N", "tap: queue pairs"),
        config_field<C, &C::listen>("listen", "PATH|ADDRESS:PORT", "socket: wait for the other VM here"),
        config_field<C, &C::connect>("connect", "PATH|ADDRESS:PORT", "socket: the other VM listens here"),
        config_field<C, &C::restrict>("restrict", "on|off", "user: the guest reaches nothing but shared ports"),
    });
    return rows;
}

std::span<const Field<VmConfig>> VmConfig::fields() {
    using C = VmConfig;
    static constexpr auto rows = std::to_array<Field<C>>({
        config_field<C, &C::kernel>("kernel", "FILE", "Linux bzImage, or an ELF with a PVH or multiboot entry", "Boot"),
        config_field<C, &C::initrd>("initrd", "FILE", "initial RAM disk for the kernel", "Boot"),
        config_field<C, &C::append>("append", "TEXT", "the kernel's command line, such as \"console=ttyS0 root=/dev/vda\"", "Boot"),

        config_field<C, &C::name>("name", "NAME", "what the VM is called; its MAC addresses follow from it (default: vm)", "Machine"),
        config_field<C, &C::memory>("memory", "SIZE", "RAM, such as 512M or 4G (default: 2G; half of the host's on a small host)", "Machine"),
        config_field<C, &C::cpus>("cpus", "N", "virtual processors (default: 2)", "Machine"),
        config_field<C, &C::cpu>("cpu", "MODEL", "host (default), x86-64-v2, x86-64-v3 or x86-64-v4", "Machine"),
        config_field<C, &C::engine>("engine", "auto|kvm|dbt", "what runs guest code (default: auto, see `vezha engines`)", "Machine"),

        config_field<C, &C::disks>("disk", "FILE[,KEY=VALUE...]", "a disk; can be given several times", "Disks and network"),
        config_field<C, &C::nets>("net", "TYPE[,KEY=VALUE...]", "a network card; can be given several times (default: user)", "Disks and network"),
        config_field<C, &C::share_ports>("share_port", "[ADDRESS:]HOST:GUEST[/udp]", "a port of the host leads into the guest, such as 2222:22", "Disks and network"),

        config_field<C, &C::serials>("serial", "stdio|file:PATH|unix:PATH|pty|null", "a serial port's other end (default: stdio)", "Consoles and control"),
        config_field<C, &C::consoles>("console", "[NAME=]stdio|file:PATH|unix:PATH|pty|null", "a virtio console port's other end", "Consoles and control"),
        config_field<C, &C::qmp>("qmp", "PATH|none", "the control socket (default: vezha/NAME.qmp in the runtime folder)", "Consoles and control"),

        config_field<C, &C::on_reboot>("on_reboot", "restart|exit", "when the guest resets itself (default: restart)", "Behaviour"),
        config_field<C, &C::on_crash>("on_crash", "restart|exit", "on a guest's panic notice or triple fault (default: restart)", "Behaviour"),
        config_field<C, &C::paused>("paused", "on|off", "build the VM and wait for `cont` on the control socket", "Behaviour"),
        config_field<C, &C::rng>("rng", "on|off", "a source of randomness for the guest (default: on)", "Behaviour"),
        config_field<C, &C::balloon>("balloon", "on|off", "memory can be taken back and freed pages reported (default: on)", "Behaviour"),

        config_field<C, &C::test_devices>("test_devices", "on|off", "devices for test guests: exit port 0xf4, test ports (default: off)", "Tuning"),
        config_field<C, &C::io_threads>("io_threads", "N", "threads for disks and network (default: one per four CPUs)", "Tuning"),
        config_field<C, &C::memfd>("memfd", "on|off", "keep guest memory in a memfd (default: off)", "Tuning"),
        config_field<C, &C::huge_pages>("huge_pages", "on|off", "transparent huge pages for guest memory (default: on)", "Tuning"),
        config_field<C, &C::sandbox>("sandbox", "on|off|log", "system call filter around the VM (default: on; log: report, do not stop)", "Tuning"),
        config_field<C, &C::log>("log", "error|warning|info|debug", "how much to say on standard error (default: warning)", "Tuning"),
    });
    return rows;
}

std::string config_to_json(const VmConfig& config) { return to_json(write_fields(config)); }

Result<VmConfig> config_from_json(std::string_view json) {
    VmConfig config;
    const Node node = TRY(parse_json(json));
    TRY(read_fields(node, config));
    return config;
}

}  // namespace vezha::machine
