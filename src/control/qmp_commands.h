// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "machine/vm_control.h"

namespace vezha::control {

/// A QMP error: its class is GenericError but for the few that clients branch on.
struct QmpError {
    std::string error_class = "GenericError";
    std::string description;
};
using QmpReply = std::expected<nlohmann::json, QmpError>;

enum class ArgumentType : u8 { Integer, String, Boolean, Array };

struct Argument {
    std::string_view name;
    ArgumentType type;
    bool required = false;
};

/// A row of the table of commands: query-commands, argument checks and dispatch read it.
struct Command {
    std::string_view name;
    QmpReply (*run)(machine::VmControl& vm, const nlohmann::json& arguments);
    std::span<const Argument> arguments{};
    bool while_negotiating = false;
};

std::span<const Command> commands();
/// The events this build can send.
std::span<const std::string_view> event_names();
/// QEMU's version whose conventions we follow, and ours as its package.
nlohmann::json version();
/// Looks up, checks the arguments and runs.
QmpReply execute(machine::VmControl& vm, std::string_view name, const nlohmann::json& arguments, bool negotiated);

}  // namespace vezha::control
