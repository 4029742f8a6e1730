// SPDX-License-Identifier: Apache-2.0
#include "control/qmp_commands.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>

namespace vezha::control {

using nlohmann::json;
using machine::VmControl;

namespace {

std::unexpected<QmpError> refuse(std::string description, std::string error_class = "GenericError") {
    return std::unexpected(QmpError{std::move(error_class), std::move(description)});
}

/// An outcome without a value becomes QMP's empty object.
QmpReply reply(Result<> outcome) {
    if (!outcome) return refuse(outcome.error().message());
    return json::object();
}

QmpReply negotiate(VmControl&, const json& arguments) {
    if (auto enable = arguments.find("enable"); enable != arguments.end() && !enable->empty())
        return refuse(fmt::format("Capability '{}' is not available", enable->front().is_string() ? enable->front().get<std::string>() : enable->front().dump()));
    return json::object();
}

QmpReply query_version(VmControl&, const json&) { return version(); }

QmpReply query_status(VmControl& vm, const json&) {
    const auto state = vm.run_state();
    return json{{"running", state == machine::RunState::Running}, {"singlestep", false}, {"status", name(state)}};
}

QmpReply query_commands(VmControl&, const json&) {
    json out = json::array();
    for (const Command& command : commands()) out.push_back({{"name", command.name}});
    return out;
}

QmpReply query_events(VmControl&, const json&) {
    json out = json::array();
    for (std::string_view event : event_names()) out.push_back({{"name", event}});
    return out;
}

QmpReply query_name(VmControl& vm, const json&) { return json{{"name", vm.vm_name()}}; }
QmpReply query_uuid(VmControl& vm, const json&) { return json{{"UUID", vm.uuid()}}; }
QmpReply query_target(VmControl&, const json&) { return json{{"arch", "x86_64"}}; }

QmpReply query_cpus_fast(VmControl& vm, const json&) {
    json out = json::array();
    for (const auto& cpu : vm.cpus())
        out.push_back({{"cpu-index", cpu.index},
                       {"qom-path", fmt::format("/machine/unattached/device[{}]", cpu.index)},
                       {"thread-id", cpu.thread_id},
                       {"props", {{"socket-id", cpu.socket_id}, {"core-id", cpu.core_id}, {"thread-id", cpu.smt_id}}},
                       {"target", "x86_64"}});
    return out;
}

QmpReply query_kvm(VmControl& vm, const json&) {
    const auto engine = vm.engine();
    return json{{"enabled", engine.name == "kvm"}, {"present", engine.kvm_present}};
}

QmpReply query_block(VmControl& vm, const json&) {
    json out = json::array();
    for (const auto& disk : vm.disks()) {
        const bool writeback = true;
        out.push_back(
            {{"device", disk.device},
             {"qdev", disk.qdev},
             {"type", "unknown"},
             {"removable", false},
             {"locked", false},
             {"io-status", "ok"},
             {"inserted",
              {{"file", disk.file},
               {"node-name", disk.node_name},
               {"ro", disk.geometry.read_only},
               {"drv", disk.driver},
               {"backing_file_depth", 0},
               {"encrypted", false},
               {"detect_zeroes", "off"},
               {"active", true},
               {"bps", 0}, {"bps_rd", 0}, {"bps_wr", 0}, {"iops", 0}, {"iops_rd", 0}, {"iops_wr", 0},
               {"write_threshold", 0},
               {"cache", {{"writeback", writeback}, {"direct", disk.direct}, {"no-flush", disk.no_flush}}},
               {"image",
                {{"filename", disk.file},
                 {"format", disk.driver},
                 {"virtual-size", disk.geometry.size},
                 {"actual-size", disk.actual_size},
                 {"dirty-flag", false}}}}}});
    }
    return out;
}

QmpReply query_blockstats(VmControl& vm, const json&) {
    json out = json::array();
    for (const auto& disk : vm.disks()) {
        const auto& s = disk.statistics;
        out.push_back({{"device", disk.device},
                       {"qdev", disk.qdev},
                       {"node-name", disk.node_name},
                       {"stats",
                        {{"rd_bytes", s.read_bytes},
                         {"wr_bytes", s.write_bytes},
                         {"unmap_bytes", s.discard_bytes},
                         {"rd_operations", s.read_operations},
                         {"wr_operations", s.write_operations},
                         {"flush_operations", s.flush_operations},
                         {"unmap_operations", s.discard_operations},
                         {"rd_total_time_ns", s.read_time_ns},
                         {"wr_total_time_ns", s.write_time_ns},
                         {"flush_total_time_ns", s.flush_time_ns},
                         {"unmap_total_time_ns", 0},
                         {"wr_highest_offset", 0},
                         {"rd_merged", 0}, {"wr_merged", 0}, {"unmap_merged", 0},
                         {"failed_rd_operations", 0},
                         {"failed_wr_operations", s.failed_operations},
                         {"failed_flush_operations", 0}, {"failed_unmap_operations", 0},
                         {"invalid_rd_operations", 0}, {"invalid_wr_operations", 0},
                         {"invalid_flush_operations", 0}, {"invalid_unmap_operations", 0},
                         {"account_invalid", true}, {"account_failed", true},
                         {"timed_stats", json::array()}}}});
    }
    return out;
}

QmpReply query_memory_size_summary(VmControl& vm, const json&) {
    return json{{"base-memory", vm.memory_size()}, {"plugged-memory", 0}};
}

QmpError balloon_error(const Error& error) {
    return {error.code() == ErrorCode::Unsupported ? "DeviceNotActive" : "GenericError", error.message()};
}

QmpReply query_balloon(VmControl& vm, const json&) {
    auto actual = vm.balloon_actual();
    if (!actual) return std::unexpected(balloon_error(actual.error()));
    return json{{"actual", *actual}};
}

QmpReply balloon(VmControl& vm, const json& arguments) {
    const json& value = arguments["value"];
    if (!value.is_number_unsigned() || value.get<u64>() == 0) return refuse("Parameter 'value' expects a size");
    auto outcome = vm.set_balloon_target(value.get<u64>());
    if (!outcome) return std::unexpected(balloon_error(outcome.error()));
    return json::object();
}

QmpReply stop(VmControl& vm, const json&) { return reply(vm.stop()); }
QmpReply cont(VmControl& vm, const json&) { return reply(vm.cont()); }
QmpReply system_powerdown(VmControl& vm, const json&) { return reply(vm.system_powerdown()); }
QmpReply system_reset(VmControl& vm, const json&) { return reply(vm.system_reset()); }
QmpReply inject_nmi(VmControl& vm, const json&) { return reply(vm.inject_nmi()); }
QmpReply quit(VmControl& vm, const json&) {
    vm.quit(machine::ShutdownCause::HostQuit);
    return json::object();
}

constexpr Argument kNegotiateArguments[] = {{"enable", ArgumentType::Array}};
constexpr Argument kBalloonArguments[] = {{"value", ArgumentType::Integer, true}};
constexpr Argument kBlockStatsArguments[] = {{"query-nodes", ArgumentType::Boolean}};

constexpr Command kCommands[] = {
    {"qmp_capabilities", negotiate, kNegotiateArguments, true},
    {"balloon", balloon, kBalloonArguments},
    {"cont", cont},
    {"inject-nmi", inject_nmi},
    {"query-balloon", query_balloon},
    {"query-block", query_block},
    {"query-blockstats", query_blockstats, kBlockStatsArguments},
    {"query-commands", query_commands},
    {"query-cpus-fast", query_cpus_fast},
    {"query-events", query_events},
    {"query-kvm", query_kvm},
    {"query-memory-size-summary", query_memory_size_summary},
    {"query-name", query_name},
    {"query-status", query_status},
    {"query-target", query_target},
    {"query-uuid", query_uuid},
    {"query-version", query_version},
    {"quit", quit},
    {"stop", stop},
    {"system_powerdown", system_powerdown},
    {"system_reset", system_reset},
};

constexpr std::string_view kEvents[] = {"BALLOON_CHANGE", "GUEST_PANICKED", "POWERDOWN", "RESET", "RESUME", "SHUTDOWN", "STOP"};

std::string_view type_name(ArgumentType type) {
    switch (type) {
        case ArgumentType::Integer: return "integer";
        case ArgumentType::String: return "string";
        case ArgumentType::Boolean: return "boolean";
        case ArgumentType::Array: return "array";
    }
    return "value";
}

bool has_type(const json& value, ArgumentType type) {
    switch (type) {
        case ArgumentType::Integer: return value.is_number_integer();
        case ArgumentType::String: return value.is_string();
        case ArgumentType::Boolean: return value.is_boolean();
        case ArgumentType::Array: return value.is_array();
    }
    return false;
}

}  // namespace

std::span<const Command> commands() { return kCommands; }
std::span<const std::string_view> event_names() { return kEvents; }

json version() {
    return {{"qemu", {{"major", 7}, {"minor", 2}, {"micro", 0}}}, {"package", "Vezha " VEZHA_VERSION}};
}

QmpReply execute(VmControl& vm, std::string_view name, const json& arguments, bool negotiated) {
    auto command = std::find_if(std::begin(kCommands), std::end(kCommands), [name](const Command& c) { return c.name == name; });
    if (!negotiated && (command == std::end(kCommands) || !command->while_negotiating))
        return refuse("Expecting capabilities negotiation with 'qmp_capabilities'", "CommandNotFound");
    if (command == std::end(kCommands)) return refuse(fmt::format("The command {} has not been found", name), "CommandNotFound");
    if (negotiated && command->while_negotiating)
        return refuse("Capabilities negotiation is already complete, command ignored", "CommandNotFound");
    for (const auto& [key, value] : arguments.items()) {
        auto known = std::find_if(command->arguments.begin(), command->arguments.end(), [&](const Argument& a) { return a.name == key; });
        if (known == command->arguments.end()) return refuse(fmt::format("Parameter '{}' is unexpected", key));
        if (!has_type(value, known->type))
            return refuse(fmt::format("Invalid parameter type for '{}', expected: {}", key, type_name(known->type)));
    }
    for (const Argument& argument : command->arguments)
        if (argument.required && !arguments.contains(argument.name))
            return refuse(fmt::format("Parameter '{}' is missing", argument.name));
    return command->run(vm, arguments);
}

}  // namespace vezha::control
