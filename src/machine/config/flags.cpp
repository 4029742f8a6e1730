// SPDX-License-Identifier: Apache-2.0
#include "machine/config/vm_config.h"

namespace vezha::machine {

namespace {

std::string flag_name(std::string_view field) {
    std::string flag = "--" + std::string(field);
    std::replace(flag.begin(), flag.end(), '_', '-');
    return flag;
}

std::vector<std::string_view> known_flags(std::vector<std::string>& storage) {
    for (const auto& row : VmConfig::fields()) storage.push_back(flag_name(row.name));
    storage.insert(storage.end(), {"--help", "--no-reboot", "--config"});
    return {storage.begin(), storage.end()};
}

Failure usage(std::string message, std::string hint) {
    return Failure(Error(ErrorCode::InvalidArgument, std::move(message)).with_hint(std::move(hint)));
}

template <Configurable T>
void describe_keys(std::string& page, std::string_view title) {
    page += fmt::format("\n{}\n", title);
    for (const auto& row : T::fields())
        page += fmt::format("  {:<38} {}\n", fmt::format("{}={}", row.name, row.argument), row.help);
}

}  // namespace

Result<ParsedFlags> parse_flags(std::span<const std::string> arguments,
                                Result<std::string> (*read_text)(const std::string& path)) {
    // Flags are gathered into a table of the same shape as a file's, and read after the file: flags win.
    Node flags{.kind = Node::Kind::Table, .where = "command line"};
    std::string file;
    ParsedFlags out;
    for (usize i = 0; i < arguments.size(); ++i) {
        std::string argument = arguments[i];
        if (argument == "--help" || argument == "-h") {
            out.help = true;
            return out;
        }
        if (!argument.starts_with("--")) {
            if (argument.starts_with("-") && argument.size() > 1) return usage(fmt::format("unknown flag '{}'", argument), "flags are long: see `vezha run --help`");
            if (!file.empty()) return usage(fmt::format("two configuration files: '{}' and '{}'", file, argument), "give one");
            file = argument;
            continue;
        }
        std::optional<std::string> value;
        if (const auto equals = argument.find('='); equals != std::string::npos) {
            value = argument.substr(equals + 1);
            argument.resize(equals);
        }
        std::string key;
        if (argument == "--no-reboot") {
            if (value) return usage("--no-reboot takes no value", "write --on-reboot exit or --no-reboot");
            key = "on_reboot";
            value = "exit";
        } else {
            bool known = argument == "--config";
            for (const auto& row : VmConfig::fields())
                if (flag_name(row.name) == argument) {
                    known = true;
                    key = row.name;
                }
            if (!known) {
                std::vector<std::string> storage;
                const std::string guess = nearest(argument, known_flags(storage));
                return usage(fmt::format("unknown flag '{}'", argument),
                             guess.empty() ? "see `vezha run --help`" : fmt::format("did you mean '{}'?", guess));
            }
            if (!value) {
                if (i + 1 >= arguments.size()) return usage(fmt::format("{} needs a value", argument), "see `vezha run --help`");
                value = arguments[++i];
            }
            if (argument == "--config") {
                if (!file.empty()) return usage(fmt::format("two configuration files: '{}' and '{}'", file, *value), "give one");
                file = *value;
                continue;
            }
        }
        bool repeatable = false;
        for (const auto& row : VmConfig::fields())
            if (row.name == key) repeatable = row.repeatable;
        Node node = Node::of_text(*std::move(value), argument);
        Node* existing = nullptr;
        for (auto& [name, member] : flags.members)
            if (name == key) existing = &member;
        if (!repeatable) {
            if (existing) *existing = std::move(node);
            else flags.members.emplace_back(key, std::move(node));
            continue;
        }
        if (!existing) existing = &flags.members.emplace_back(key, Node{.kind = Node::Kind::List, .where = argument}).second;
        existing->items.push_back(std::move(node));
    }

    if (!file.empty()) {
        const std::string text = TRY(read_text(file));
        const Node table = TRY(parse_toml(text, file));
        TRY(read_fields(table, out.config));
        if (out.config.name.empty()) {
            std::string stem = file.substr(file.rfind('/') + 1);
            stem = stem.substr(0, stem.rfind('.'));
            for (char& c : stem)
                if (!std::isalnum(static_cast<unsigned char>(c))) c = '-';
            out.config.name = stem;
        }
    }
    TRY(read_fields(flags, out.config));
    return out;
}

std::string run_help() {
    std::string page =
        "Usage: vezha run [FILE.toml] [FLAGS]\n"
        "\n"
        "Starts a virtual machine and stays until it is powered off. Its serial port is this terminal:\n"
        "Ctrl-A x ends the machine at once, Ctrl-A h helps; or power it off from inside.\n"
        "\n"
        "  vezha run --kernel vmlinuz --initrd initrd.img --append \"console=ttyS0\"\n"
        "  vezha run --kernel vmlinuz --initrd initrd.img --append \"console=ttyS0 root=/dev/vda\" \\\n"
        "            --disk disk.img --share-port 2222:22 --memory 4G --cpus 4\n"
        "  vezha run web.toml --memory 8G\n"
        "\n"
        "FILE.toml holds the same settings: a flag --share-port is a key share_port, disks and cards are\n"
        "sections [[disk]] and [[net]] with the keys below. A flag wins over the file; a flag that can be given\n"
        "several times replaces the file's whole list.\n";
    std::string_view group;
    for (const auto& row : VmConfig::fields()) {
        if (row.group != group) page += fmt::format("\n{}\n", group = row.group);
        const std::string left = fmt::format("{} {}", flag_name(row.name), row.argument);
        if (left.size() <= 38) page += fmt::format("  {:<38} {}\n", left, row.help);
        else page += fmt::format("  {}\n  {:<38} {}\n", left, "", row.help);
    }
    page += "  --no-reboot                            the same as --on-reboot exit\n";
    describe_keys<DiskConfig>(page, "Keys of --disk (the file's name comes first, or as path=)");
    describe_keys<NetConfig>(page, "Keys of --net (the type comes first)");
    page +=
        "\nSignals\n"
        "  SIGTERM and SIGINT press the power button, so that the guest can shut down; a second one, or 60 seconds\n"
        "  without an answer, ends the machine at once. In a terminal Ctrl-C goes to the guest.\n"
        "\nThe exit code\n"
        "  0  the guest powered off, or was ended by the control socket, the escape key or a signal\n"
        "  1  the host or the configuration does not allow it; the message says what to do\n"
        "  2  the command line is wrong\n"
        "  3  the guest crashed, and --on-crash is exit\n"
        "  4  the engine could not go on\n";
    return page;
}

}  // namespace vezha::machine
