// SPDX-License-Identifier: Apache-2.0
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "base/fd.h"
#include "base/unix_socket.h"
#include "net/frame_stream.h"
#include "net/packet_queue.h"
#include "net/socket.h"
#include "net/tap.h"
#include "net/user.h"

namespace vezha::net {
namespace {

std::vector<u8> packet(std::span<const u8> frame, VnetHeader header = {}) {
    std::vector<u8> out(sizeof header + frame.size());
    std::memcpy(out.data(), &header, sizeof header);
    std::memcpy(out.data() + sizeof header, frame.data(), frame.size());
    return out;
}

Result<> send(BackendQueue& queue, std::vector<u8> bytes) {
    iovec piece{bytes.data(), bytes.size()};
    return queue.send({&piece, 1});
}

/// The next frame without its header; empty if there is none.
std::vector<u8> receive(BackendQueue& queue) {
    std::vector<u8> bytes(70'000);
    iovec piece{bytes.data(), bytes.size()};
    auto size = queue.receive({&piece, 1});
    if (!size.has_value()) return {};
    return {bytes.begin() + sizeof(VnetHeader), bytes.begin() + static_cast<std::ptrdiff_t>(*size)};
}

struct Loop : testing::Test {
    std::unique_ptr<EventLoop> loop = EventLoop::create("test").value();
    template <class Predicate>
    bool run_until(Predicate done) {
        for (int i = 0; i < 500; ++i) {
            if (done()) return true;
            loop->run_once(10);
        }
        return false;
    }
    std::vector<u8> next(BackendQueue& queue) {
        std::vector<u8> frame;
        run_until([&] { return !(frame = receive(queue)).empty(); });
        return frame;
    }
};

TEST(Checksum, SumsAnyLengthAndAlignment) {
    std::vector<u8> bytes(300);
    for (usize i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<u8>(i * 7 + 255);
    for (usize start : {0u, 1u, 3u})
        for (usize size : {0u, 1u, 2u, 7u, 8u, 9u, 64u, 255u}) {
            u32 sum = 0;
            for (usize i = 0; i < size; ++i) sum += static_cast<u32>(bytes[start + i]) << (i % 2 ? 8 : 0);
            while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
            EXPECT_EQ(internet_sum({bytes.data() + start, size}), sum) << start << " " << size;
        }
    std::vector<u8> frame(64, 0xab);
    EXPECT_TRUE(complete_checksum({.checksum_start = 34, .checksum_offset = 16}, frame).has_value());
    EXPECT_EQ(internet_sum(std::span(frame).subspan(34)), 0xffff - 0xabab);  // the inverse of what the field held
    EXPECT_FALSE(complete_checksum({.checksum_start = 60, .checksum_offset = 16}, frame).has_value());
    EXPECT_FALSE(complete_checksum({.checksum_start = 0xffff, .checksum_offset = 0xffff}, frame).has_value());
}

TEST(PacketQueue, KeepsPacketsThatDoNotFitAndIsBounded) {
    PacketQueue queue(10'000, 4);
    const std::vector<u8> frame(100, 1);
    EXPECT_TRUE(queue.push({}, frame));
    u8 small[50], large[200];
    iovec piece{small, sizeof small};
    EXPECT_EQ(queue.receive({&piece, 1}).error().code(), ErrorCode::OutOfRange);
    EXPECT_EQ(queue.next_size(), 112u);
    piece = {large, sizeof large};
    EXPECT_EQ(queue.receive({&piece, 1}).value(), 112u);
    EXPECT_EQ(queue.receive({&piece, 1}).error().code(), ErrorCode::WouldBlock);
    for (int i = 0; i < 4; ++i) EXPECT_TRUE(queue.push({}, frame));
    EXPECT_FALSE(queue.push({}, frame));
    EXPECT_FALSE(PacketQueue(50).push({}, frame));
}

TEST(FrameStream, TakesFramesCutAnywhereAndRefusesGiants) {
    std::vector<u8> bytes;
    for (u32 size : {60u, 1514u, 65536u, 1u}) {
        const u32 length = __builtin_bswap32(size);
        bytes.insert(bytes.end(), reinterpret_cast<const u8*>(&length), reinterpret_cast<const u8*>(&length) + 4);
        bytes.insert(bytes.end(), size, static_cast<u8>(size));
    }
    for (usize step : {1u, 3u, 1000u, 200'000u}) {
        FrameStream stream;
        std::vector<usize> sizes;
        for (usize at = 0; at < bytes.size();) {
            auto room = stream.room();
            const usize size = std::min({step, room.size(), bytes.size() - at});
            std::memcpy(room.data(), bytes.data() + at, size);
            stream.filled(size);
            at += size;
            for (auto frame = stream.next().value(); !frame.empty(); frame = stream.next().value()) {
                sizes.push_back(frame.size());
                EXPECT_EQ(frame.back(), static_cast<u8>(frame.size()));
            }
        }
        EXPECT_EQ(sizes, (std::vector<usize>{60, 1514, 65536, 1})) << step;
    }
    for (u32 length : {0u, 0xffffffffu, 70'000u}) {
        FrameStream stream;
        length = __builtin_bswap32(length);
        std::memcpy(stream.room().data(), &length, 4);
        stream.filled(4);
        EXPECT_FALSE(stream.next().has_value());
    }
}

TEST(PortForward, Parses) {
    auto simple = parse_port_forward("2222:22").value();
    EXPECT_EQ(simple.host_address, "127.0.0.1");
    EXPECT_EQ(simple.host_port, 2222);
    EXPECT_EQ(simple.guest_port, 22);
    EXPECT_FALSE(simple.udp);
    auto udp = parse_port_forward("0.0.0.0:5353:53/udp").value();
    EXPECT_EQ(udp.host_address, "0.0.0.0");
    EXPECT_TRUE(udp.udp);
    EXPECT_EQ(parse_port_forward("[::1]:8080:80/tcp").value().host_address, "::1");
    for (const char* bad : {"22", "a:b", "1:2:", "0:22", "70000:22", "2222:22/sctp", ""}) {
        auto result = parse_port_forward(bad);
        ASSERT_FALSE(result.has_value()) << bad;
        EXPECT_FALSE(result.error().hint().empty()) << bad;
    }
}

void put16(std::vector<u8>& out, u16 value) {
    out.push_back(static_cast<u8>(value >> 8));
    out.push_back(static_cast<u8>(value));
}
void put32(std::vector<u8>& out, u32 value) {
    put16(out, static_cast<u16>(value >> 16));
    put16(out, static_cast<u16>(value));
}
const u8 kGuestMac[6] = {0x52, 0x54, 0, 1, 2, 3};
constexpr u32 kGuest = 0x0a00020f, kGateway = 0x0a000202;

std::vector<u8> arp(bool reply, u32 target) {
    std::vector<u8> f(6, 0xff);
    f.insert(f.end(), kGuestMac, kGuestMac + 6);
    for (u16 word : {0x0806, 1, 0x0800, 0x0604, reply ? 2 : 1}) put16(f, word);
    f.insert(f.end(), kGuestMac, kGuestMac + 6);
    put32(f, kGuest);
    f.insert(f.end(), 6, 0);
    put32(f, target);
    return f;
}

/// An IPv4 frame to the gateway with its UDP or TCP checksum left to the back end.
std::vector<u8> ipv4(u8 protocol, std::vector<u8> payload, usize checksum_at, VnetHeader& header) {
    std::vector<u8> f(6, 0x52);
    f.insert(f.end(), kGuestMac, kGuestMac + 6);
    put16(f, 0x0800);
    put16(f, 0x4500);
    put16(f, static_cast<u16>(20 + payload.size()));
    put32(f, 0);
    put16(f, static_cast<u16>(0x4000 | protocol));
    put16(f, 0);
    put32(f, kGuest);
    put32(f, kGateway);
    const u16 sum = static_cast<u16>(~internet_sum(std::span(f).subspan(14, 20)));
    std::memcpy(f.data() + 24, &sum, 2);
    std::vector<u8> pseudo(f.begin() + 26, f.begin() + 34);
    put16(pseudo, protocol);
    put16(pseudo, static_cast<u16>(payload.size()));
    const u16 seed = internet_sum(pseudo);
    std::memcpy(payload.data() + checksum_at, &seed, 2);
    f.insert(f.end(), payload.begin(), payload.end());
    header = {.flags = VnetHeader::kNeedsChecksum, .checksum_start = 34, .checksum_offset = static_cast<u16>(checksum_at)};
    return f;
}

/// An IPv4 TCP segment as an outer host would send it.
std::vector<u8> segment(u32 sequence, std::string_view payload, u8 flags = 0x10, u32 options = 0) {
    std::vector<u8> tcp;
    put16(tcp, 5301);
    put16(tcp, 40'000);
    put32(tcp, sequence);
    put32(tcp, 77);
    put16(tcp, static_cast<u16>(0x6000 | flags));
    put16(tcp, 0xffff);
    put32(tcp, 0);
    put32(tcp, options);
    tcp.insert(tcp.end(), payload.begin(), payload.end());
    VnetHeader header;
    auto frame = ipv4(6, tcp, 16, header);
    EXPECT_TRUE(complete_checksum(header, frame).has_value());
    return frame;
}

TEST(TcpMerge, JoinsWhatFollowsAndNothingElse) {
    PacketQueue queue(1 * kMiB);
    EXPECT_FALSE(queue.merge(segment(100, "abcdef")));
    queue.push({.flags = VnetHeader::kDataValid, .buffer_count = 1}, segment(100, "abcdef"));
    EXPECT_FALSE(queue.merge(segment(107, "ghijkl")));         // a gap
    EXPECT_FALSE(queue.merge(segment(106, "ghijkl", 0x11)));   // FIN
    EXPECT_FALSE(queue.merge(segment(106, "ghijkl", 0x10, 5)));  // other options
    EXPECT_FALSE(queue.merge(segment(106, "ghijklm")));        // larger than the first
    EXPECT_FALSE(queue.merge(segment(106, "")));
    EXPECT_FALSE(queue.merge(std::vector<u8>(60)));
    EXPECT_TRUE(queue.merge(segment(106, "ghijkl")));
    EXPECT_TRUE(queue.merge(segment(112, "mn", 0x18)));  // smaller: the last one
    EXPECT_FALSE(queue.merge(segment(114, "opqrst")));

    std::vector<u8> bytes(2000);
    iovec piece{bytes.data(), bytes.size()};
    bytes.resize(queue.receive({&piece, 1}).value());
    VnetHeader header;
    std::memcpy(&header, bytes.data(), sizeof header);
    EXPECT_EQ(header.gso_type, VnetHeader::kGsoTcp4);
    EXPECT_EQ(header.gso_size, 6);
    EXPECT_EQ(header.header_length, 58);
    std::vector<u8> frame(bytes.begin() + sizeof header, bytes.end());
    ASSERT_TRUE(complete_checksum(header, frame).has_value());
    EXPECT_EQ(frame, segment(100, "abcdefghijklmn", 0x18));
}

TEST(TcpMerge, StopsBeforeSixtyFourKilobytes) {
    PacketQueue queue(1 * kMiB);
    const std::string payload(1440, 'x');
    queue.push({.buffer_count = 1}, segment(0, payload));
    u32 count = 1;
    while (queue.merge(segment(1440 * count, payload))) ++count;
    EXPECT_EQ(count, (65'535 - 44) / 1440u);
}

TEST_F(Loop, UserNetworkAnswersArpAndCarriesUdpBothWays) {
    UniqueFd server(::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0));
    sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    ASSERT_EQ(::bind(server.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    socklen_t length = sizeof address;
    ::getsockname(server.get(), reinterpret_cast<sockaddr*>(&address), &length);

    auto backend = open_user({.ipv6 = false}).value();
    EXPECT_TRUE(backend->accepts().tso4);
    int readable = 0;
    auto queue = backend->attach(*loop, 0, {.on_readable = [&] { ++readable; }}).value();
    EXPECT_FALSE(backend->attach(*loop, 0, {}).has_value());
    ASSERT_TRUE(send(*queue, packet(arp(false, kGateway))).has_value());
    std::vector<u8> reply = next(*queue);
    ASSERT_GE(reply.size(), 42u);
    EXPECT_EQ(reply[21], 2);
    loop->run_once(0);
    EXPECT_GT(readable, 0);

    std::vector<u8> udp;
    put16(udp, 4000);
    put16(udp, ntohs(address.sin_port));
    put32(udp, 12u << 16);
    for (char c : std::string_view("ping")) udp.push_back(static_cast<u8>(c));
    VnetHeader header;
    const auto frame = ipv4(17, udp, 6, header);
    ASSERT_TRUE(send(*queue, packet(frame, header)).has_value());
    char text[16];
    sockaddr_in from = {};
    ssize_t n = -1;
    EXPECT_TRUE(run_until([&] {
        length = sizeof from;
        return (n = ::recvfrom(server.get(), text, sizeof text, 0, reinterpret_cast<sockaddr*>(&from), &length)) >= 0;
    }));
    ASSERT_EQ(n, 4);
    ::sendto(server.get(), "pong!", 5, 0, reinterpret_cast<sockaddr*>(&from), sizeof from);
    reply = next(*queue);
    ASSERT_GE(reply.size(), 47u);
    EXPECT_EQ(std::memcmp(reply.data() + 42, "pong!", 5), 0);
    // Nonsense from the guest is dropped.
    EXPECT_FALSE(send(*queue, std::vector<u8>(5)).has_value());
    EXPECT_FALSE(send(*queue, packet(frame, {.flags = 1, .checksum_start = 9000})).has_value());
    for (u8 i = 0; i < 100; ++i) (void)send(*queue, packet(std::vector<u8>(14 + i, i)));
    for (int i = 0; i < 3; ++i) loop->run_once(1);
    // After a reset of the device, a new queue works.
    queue.reset();
    queue = backend->attach(*loop, 0, {}).value();
    ASSERT_TRUE(send(*queue, packet(arp(false, kGateway))).has_value());
    EXPECT_FALSE(next(*queue).empty());
}

TEST_F(Loop, UserNetworkForwardsATcpPort) {
    std::unique_ptr<Backend> backend;
    u16 port = 0;
    for (u16 candidate = 34'567; !backend && candidate < 34'667; ++candidate) {
        auto opened = open_user({.forwards = {{.host_port = port = candidate, .guest_port = 22}}});
        if (opened.has_value()) backend = *std::move(opened);
    }
    ASSERT_TRUE(backend);
    auto taken = open_user({.forwards = {{.host_port = port, .guest_port = 22}}});
    ASSERT_FALSE(taken.has_value());
    EXPECT_EQ(taken.error().code(), ErrorCode::AlreadyExists);
    EXPECT_FALSE(taken.error().hint().empty());

    auto queue = backend->attach(*loop, 0, {}).value();
    (void)send(*queue, packet(arp(false, kGateway)));  // so that the stack knows the guest's MAC
    UniqueFd client(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    ::connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof address);
    bool syn = false;
    for (int i = 0; i < 50 && !syn; ++i) {
        const auto frame = next(*queue);
        if (frame.size() >= 42 && frame[12] == 8 && frame[13] == 6 && frame[21] == 1) {  // asks who has 10.0.2.15
            (void)send(*queue, packet(arp(true, kGateway)));
            continue;
        }
        syn = frame.size() >= 54 && frame[23] == 6 && frame[37] == 22 && (frame[47] & 0x3f) == 2;
    }
    EXPECT_TRUE(syn);
}

TEST_F(Loop, SocketsJoinTwoMachinesAndComeBack) {
    const std::string path = fmt::format("{}vezha-net-{}", testing::TempDir(), ::getpid());
    auto right_backend = open_socket({.address = path}).value();
    auto right = right_backend->attach(*loop, 0, {}).value();
    EXPECT_EQ(send(*right, packet(std::vector<u8>(60, 1))).error().code(), ErrorCode::Disconnected);
    auto left_backend = open_socket({.address = path, .listen = true}).value();
    int writable = 0;
    auto left = left_backend->attach(*loop, 0, {.on_writable = [&] { ++writable; }}).value();
    ASSERT_TRUE(run_until([&] { return send(*right, packet(std::vector<u8>(60, 1))).has_value(); }));
    EXPECT_EQ(next(*left), std::vector<u8>(60, 1));
    ASSERT_TRUE(send(*left, packet(std::vector<u8>(65'000, 2))).has_value());
    EXPECT_EQ(next(*right), std::vector<u8>(65'000, 2));
    // A peer that does not take blocks the sender, and no more than that.
    int sent = 0;
    for (; sent < 10'000; ++sent) {
        auto result = send(*left, packet(std::vector<u8>(60'000, 3)));
        if (!result.has_value()) {
            EXPECT_EQ(result.error().code(), ErrorCode::WouldBlock);
            break;
        }
    }
    ASSERT_LT(sent, 10'000);
    int got = 0;
    EXPECT_TRUE(run_until([&] {
        while (!receive(*right).empty()) ++got;
        return got == sent;
    }));
    EXPECT_EQ(writable, 1);
    // The listener takes a new peer when the old one has gone.
    right.reset();
    for (int i = 0; i < 3; ++i) loop->run_once(5);
    right = right_backend->attach(*loop, 0, {}).value();
    ASSERT_TRUE(run_until([&] { return send(*right, packet(std::vector<u8>(60, 4))).has_value(); }));
    EXPECT_EQ(next(*left), std::vector<u8>(60, 4));
}

TEST_F(Loop, AHostilePeerIsLetGo) {
    const std::string path = fmt::format("{}vezha-net-hostile-{}", testing::TempDir(), ::getpid());
    auto backend = open_socket({.address = path, .listen = true}).value();
    auto queue = backend->attach(*loop, 0, {}).value();
    UniqueFd peer = connect_unix(path).value();
    ASSERT_EQ(::write(peer.get(), "\xff\xff\xff\xffgarbage", 11), 11);
    char byte;
    EXPECT_TRUE(run_until([&] { return ::recv(peer.get(), &byte, 1, MSG_DONTWAIT) == 0 || errno == ECONNRESET; }));
    EXPECT_FALSE(open_socket({.address = path, .listen = true}).has_value());
    EXPECT_FALSE(open_socket({.address = "nonsense"}).has_value());
    EXPECT_FALSE(open_socket({.address = "example:99999", .listen = true}).has_value());
}

TEST_F(Loop, TapCarriesFramesBothWays) {
    // The name space is this thread's alone, and ends with it.
    std::thread([&] {
        if (::unshare(CLONE_NEWNET) < 0) return;
        auto backend = open_tap({.name = "vezha0", .queue_pairs = 2});
        if (!backend.has_value()) return;  // no tun driver, or no permission
        EXPECT_EQ((*backend)->queue_pairs(), 2u);
        EXPECT_TRUE((*backend)->provides().tso4);
        int readable = 0;
        auto queue = (*backend)->attach(*loop, 0, {.on_readable = [&] { ++readable; }}).value();
        auto second = (*backend)->attach(*loop, 1, {.on_readable = [&] { ++readable; }}).value();
        EXPECT_FALSE(send(*queue, packet(arp(false, kGateway))).has_value());  // the interface is down
        UniqueFd control(::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0));
        ifreq request = {};
        std::strcpy(request.ifr_name, "vezha0");
        auto& address = reinterpret_cast<sockaddr_in&>(request.ifr_addr);
        address = {.sin_family = AF_INET, .sin_addr = {htonl(kGateway)}};
        ASSERT_EQ(::ioctl(control.get(), SIOCSIFADDR, &request), 0);
        address.sin_addr.s_addr = htonl(0xffffff00);
        ASSERT_EQ(::ioctl(control.get(), SIOCSIFNETMASK, &request), 0);
        request.ifr_flags = IFF_UP;
        ASSERT_EQ(::ioctl(control.get(), SIOCSIFFLAGS, &request), 0);
        // The host asks for us when it has something to send.
        sockaddr_in guest = {.sin_family = AF_INET, .sin_port = htons(4000), .sin_addr = {htonl(kGuest)}};
        ASSERT_EQ(::sendto(control.get(), "hello", 5, 0, reinterpret_cast<sockaddr*>(&guest), sizeof guest), 5);
        bool asked = false, greeted = false;
        for (int i = 0; i < 200 && !greeted; ++i) {
            loop->run_once(10);
            for (auto* one : {queue.get(), second.get()}) {
                iovec none{nullptr, 0};
                const usize size = one->next_packet_size();
                if (size != 0) {
                    EXPECT_EQ(one->receive({&none, 1}).error().code(), ErrorCode::OutOfRange);
                }
                EXPECT_EQ(one->next_packet_size(), size);
                u8 tiny[20];
                iovec little{tiny, sizeof tiny};
                EXPECT_FALSE(one->receive({&little, 1}).has_value());
                for (auto frame = receive(*one); !frame.empty(); frame = receive(*one)) {
                    if (frame[12] == 8 && frame[13] == 6) {
                        asked = true;
                        EXPECT_TRUE(send(*one, packet(arp(true, kGateway))).has_value());
                    }
                    greeted |= frame.size() >= 47 && std::memcmp(frame.data() + 42, "hello", 5) == 0;
                }
            }
        }
        EXPECT_TRUE(asked);
        EXPECT_TRUE(greeted);
        EXPECT_GT(readable, 0);
    }).join();
}

TEST(Tap, ErrorsHaveHints) {
    EXPECT_FALSE(open_tap({.name = ""}).has_value());
    EXPECT_FALSE(open_tap({.name = "a-name-far-too-long"}).error().hint().empty());
    EXPECT_FALSE(open_tap({.fds = {::dup(0)}}).has_value());
}

}  // namespace
}  // namespace vezha::net
