// SPDX-License-Identifier: Apache-2.0
#include "net/user.h"

#include <charconv>
#include <cstring>

#include "net/slirp_stack.h"

namespace vezha::net {

namespace {

class UserBackend;

class UserQueue final : public BackendQueue {
  public:
    explicit UserQueue(UserBackend& backend);
    ~UserQueue() override;
    Result<> send(std::span<const iovec> packet) override;
    Result<usize> receive(std::span<const iovec> buffers) override;
    usize next_packet_size() override;

  private:
    SlirpStack& stack_;
    std::vector<u8> packet_;
};

class UserBackend final : public Backend {
  public:
    explicit UserBackend(std::unique_ptr<SlirpStack> stack) : stack_(std::move(stack)) {}
    Offloads accepts() const override { return {.checksum = true, .tso4 = true, .tso6 = true, .ecn = true}; }
    Offloads provides() const override { return {.checksum = true, .tso4 = true}; }
    Result<> set_receive_offloads(const Offloads& offloads) override {
        stack_->set_receive_offloads(offloads);
        return {};
    }
    Result<std::unique_ptr<BackendQueue>> attach(EventLoop& loop, u32 index, QueueEvents events) override {
        if (index != 0) return fail(ErrorCode::OutOfRange, "the user-mode network has one queue");
        TRY(stack_->attach(loop, std::move(events.on_readable)));
        return std::unique_ptr<BackendQueue>(std::make_unique<UserQueue>(*this));
    }
    std::string describe() const override { return "user"; }
    SlirpStack& stack() { return *stack_; }

  private:
    std::unique_ptr<SlirpStack> stack_;
};

UserQueue::UserQueue(UserBackend& backend) : stack_(backend.stack()) {}
UserQueue::~UserQueue() { stack_.detach(); }

Result<> UserQueue::send(std::span<const iovec> pieces) {
    TRY(gather_packet(pieces, packet_));
    VnetHeader header;
    std::memcpy(&header, packet_.data(), sizeof header);
    const std::span<u8> frame = std::span(packet_).subspan(sizeof header);
    if (header.flags & VnetHeader::kNeedsChecksum) TRY(complete_checksum(header, frame));
    // A TCP segment of up to 64 KiB is one packet to the stack: nothing to cut.
    if ((header.gso_type & ~VnetHeader::kGsoEcn) == VnetHeader::kGsoUdp) return fail(ErrorCode::Unsupported, "UDP fragments");
    stack_.input(frame);
    return {};
}

Result<usize> UserQueue::receive(std::span<const iovec> buffers) {
    auto size = stack_.to_guest().receive(buffers);
    if (size.has_value()) stack_.guest_took();
    return size;
}

usize UserQueue::next_packet_size() { return stack_.to_guest().next_size(); }

Result<u16> parse_port(std::string_view text) {
    u16 port = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
    if (error != std::errc{} || end != text.data() + text.size() || port == 0)
        return fail(ErrorCode::InvalidArgument, "'{}' is no port (1 to 65535)", text);
    return port;
}

}  // namespace

Result<PortForward> parse_port_forward(std::string_view text) {
    static constexpr const char* kHint = "for example 2222:22, 127.0.0.1:5353:53/udp or [::1]:8080:80";
    PortForward forward;
    const std::string whole(text);
    if (text.ends_with("/udp")) forward.udp = true;
    if (text.ends_with("/udp") || text.ends_with("/tcp")) text.remove_suffix(4);
    const auto last = text.rfind(':');
    if (last == text.npos)
        return Failure(Error(ErrorCode::InvalidArgument, fmt::format("'{}' is no port forward", whole)).with_hint(kHint));
    forward.guest_port = TRY(parse_port(text.substr(last + 1)).context(whole).hint(kHint));
    text = text.substr(0, last);
    if (const auto colon = text.rfind(':'); colon != text.npos && text.find(']') != text.size() - 1) {
        forward.host_address = text.substr(0, colon);
        text = text.substr(colon + 1);
        std::string& address = forward.host_address;
        if (address.size() > 2 && address.front() == '[' && address.back() == ']') address = address.substr(1, address.size() - 2);
    }
    forward.host_port = TRY(parse_port(text).context(whole).hint(kHint));
    return forward;
}

Result<std::unique_ptr<Backend>> open_user(const UserOptions& options) {
    auto stack = TRY(SlirpStack::create(options).context("user-mode network"));
    for (const PortForward& forward : options.forwards) TRY(stack->forward(forward));
    return std::unique_ptr<Backend>(std::make_unique<UserBackend>(std::move(stack)));
}

}  // namespace vezha::net
