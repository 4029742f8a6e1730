// SPDX-License-Identifier: Apache-2.0
#include "control/qmp_session.h"

#include "base/time.h"
#include "control/qmp_commands.h"

namespace vezha::control {

using nlohmann::json;

namespace {

/// One line; text that is not UTF-8 (echoed from the client) is replaced, never thrown about.
std::string line_of(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

std::string error_line(const QmpError& error, const json* id) {
    json out{{"error", {{"class", error.error_class}, {"desc", error.description}}}};
    if (id) out["id"] = *id;
    return line_of(out);
}

}  // namespace

QmpSession::QmpSession(machine::VmControl& vm, std::function<void(std::string)> send) : vm_(vm), send_(std::move(send)) {}

void QmpSession::greet() { send_(line_of({{"QMP", {{"version", version()}, {"capabilities", json::array()}}}})); }

void QmpSession::receive(std::string_view bytes) {
    for (auto& text : stream_.feed(bytes)) {
        if (text) handle(*text);
        else send_(error_line({.description = text.error().message()}, nullptr));
    }
}

void QmpSession::handle(const std::string& text) {
    const json request = json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (request.is_discarded()) return send_(error_line({.description = "Invalid JSON syntax"}, nullptr));
    const auto found_id = request.find("id");
    const json* id = found_id == request.end() ? nullptr : &*found_id;
    for (const auto& [key, value] : request.items())
        if (key != "execute" && key != "arguments" && key != "id")
            return send_(error_line({.description = "QMP input member '" + key + "' is unexpected"}, id));
    const auto command = request.find("execute");
    if (command == request.end()) return send_(error_line({.description = "QMP input lacks member 'execute'"}, id));
    if (!command->is_string())
        return send_(error_line({.description = "QMP input member 'execute' must be a string"}, id));
    json arguments = json::object();
    if (auto given = request.find("arguments"); given != request.end()) {
        if (!given->is_object())
            return send_(error_line({.description = "QMP input member 'arguments' must be an object"}, id));
        arguments = *given;
    }
    const std::string name = command->get<std::string>();
    auto reply = execute(vm_, name, arguments, negotiated_);
    if (!reply) return send_(error_line(reply.error(), id));
    if (name == "qmp_capabilities") negotiated_ = true;
    json out{{"return", std::move(*reply)}};
    if (id) out["id"] = *id;
    send_(line_of(out));
}

void QmpSession::event(const std::string& line) {
    if (negotiated_) send_(line);
}

std::string event_line(const machine::VmEvent& event) {
    using Kind = machine::VmEvent::Kind;
    const u64 now = realtime_ns();
    json out{{"timestamp", {{"seconds", now / kNsPerSec}, {"microseconds", now % kNsPerSec / 1000}}}};
    switch (event.kind) {
        case Kind::Stop: out["event"] = "STOP"; break;
        case Kind::Resume: out["event"] = "RESUME"; break;
        case Kind::Powerdown: out["event"] = "POWERDOWN"; break;
        case Kind::Reset:
        case Kind::Shutdown:
            out["event"] = event.kind == Kind::Reset ? "RESET" : "SHUTDOWN";
            out["data"] = {{"guest", caused_by_guest(event.cause)}, {"reason", name(event.cause)}};
            break;
        case Kind::GuestPanicked:
            out["event"] = "GUEST_PANICKED";
            out["data"] = {{"action", event.panic_action}};
            break;
        case Kind::BalloonChange:
            out["event"] = "BALLOON_CHANGE";
            out["data"] = {{"actual", event.balloon_actual}};
            break;
    }
    return line_of(out);
}

}  // namespace vezha::control
