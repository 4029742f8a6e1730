// SPDX-License-Identifier: Apache-2.0
// How sizes, MAC addresses and shared ports are written.
#include "machine/config/vm_config.h"

namespace vezha::machine {

Failure wrong_value(const Node& node, std::string_view expected) {
    const char* kind = node.kind == Node::Kind::List ? "a list" : node.kind == Node::Kind::Table ? "a table" : nullptr;
    return Failure(Error(ErrorCode::InvalidArgument, kind ? fmt::format("{}: {} makes no sense here", node.where, kind)
                                                          : fmt::format("{}: '{}' makes no sense here", node.where, node.text))
                       .with_hint(fmt::format("expected {}", expected)));
}

Result<std::string_view> scalar_text(const Node& node) {
    if (node.kind != Node::Kind::Text) return wrong_value(node, "a single value");
    return std::string_view(node.text);
}

Result<ByteSize> parse_size(std::string_view text) {
    u64 number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{}) return fail(ErrorCode::InvalidArgument, "'{}' is not a size", text);
    std::string_view unit(end, static_cast<usize>(text.data() + text.size() - end));
    u64 scale = 1;
    if (!unit.empty()) {
        switch (unit[0] | 0x20) {
            case 'k': scale = kKiB; break;
            case 'm': scale = kMiB; break;
            case 'g': scale = kGiB; break;
            case 't': scale = kGiB * 1024; break;
            default: return fail(ErrorCode::InvalidArgument, "'{}' is not a size", text);
        }
        unit.remove_prefix(1);
        if (unit != "" && unit != "B" && unit != "iB" && unit != "b") return fail(ErrorCode::InvalidArgument, "'{}' is not a size", text);
    }
    u64 bytes = 0;
    if (__builtin_mul_overflow(number, scale, &bytes)) return fail(ErrorCode::OutOfRange, "'{}' is too large", text);
    return ByteSize{bytes};
}

std::string to_string(ByteSize size) {
    if (size.bytes && size.bytes % kGiB == 0) return fmt::format("{}G", size.bytes / kGiB);
    if (size.bytes && size.bytes % kMiB == 0) return fmt::format("{}M", size.bytes / kMiB);
    return std::to_string(size.bytes);
}

Result<> Mac::parse(const Node& node) {
    const std::string_view text = TRY(scalar_text(node));
    bool good = text.size() == 17;
    for (usize i = 0; good && i < 6; ++i) {
        const char* start = text.data() + i * 3;
        const auto [end, error] = std::from_chars(start, start + 2, bytes[i], 16);
        good = error == std::errc{} && end == start + 2 && (i == 5 || text[i * 3 + 2] == ':');
    }
    if (!good) return wrong_value(node, "a MAC address such as 52:54:00:12:34:56");
    return {};
}

std::string Mac::to_string() const {
    return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]);
}

namespace {
bool parse_port(std::string_view text, u16& port) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
    return error == std::errc{} && end == text.data() + text.size() && port != 0;
}
}  // namespace

Result<> PortShare::parse(const Node& node) {
    constexpr std::string_view expected = "HOST:GUEST such as 2222:22, with ADDRESS: in front or /udp behind if needed";
    std::string_view text = TRY(scalar_text(node));
    udp = false;
    if (const auto slash = text.rfind('/'); slash != std::string_view::npos) {
        const std::string_view protocol = text.substr(slash + 1);
        if (protocol != "udp" && protocol != "tcp") return wrong_value(node, expected);
        udp = protocol == "udp";
        text = text.substr(0, slash);
    }
    const auto last = text.rfind(':');
    if (last == std::string_view::npos || !parse_port(text.substr(last + 1), guest_port)) return wrong_value(node, expected);
    text = text.substr(0, last);
    if (const auto colon = text.rfind(':'); colon != std::string_view::npos) {
        host_address = text.substr(0, colon);
        text = text.substr(colon + 1);
    } else {
        host_address = "127.0.0.1";
    }
    if (!parse_port(text, host_port)) return wrong_value(node, expected);
    return {};
}

std::string PortShare::to_string() const {
    return fmt::format("{}:{}:{}{}", host_address, host_port, guest_port, udp ? "/udp" : "");
}

}  // namespace vezha::machine
