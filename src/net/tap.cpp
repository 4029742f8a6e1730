// SPDX-License-Identifier: Apache-2.0
#include "net/tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "net/vnet_header.h"

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

namespace vezha::net {

namespace {

constexpr usize kPacketSize = sizeof(VnetHeader) + kMaxFrame;
constexpr usize kMaxPieces = 256;

unsigned offload_flags(const Offloads& offloads) {
    if (!offloads.checksum) return 0;  // the others build on it
    unsigned flags = TUN_F_CSUM;
    if (offloads.tso4) flags |= TUN_F_TSO4;
    if (offloads.tso6) flags |= TUN_F_TSO6;
    if (offloads.ecn && (offloads.tso4 || offloads.tso6)) flags |= TUN_F_TSO_ECN;
    if (offloads.ufo) flags |= TUN_F_UFO;
    if (offloads.uso) flags |= TUN_F_USO4 | TUN_F_USO6;
    return flags;
}

class TapQueue final : public BackendQueue {
  public:
    static Result<std::unique_ptr<BackendQueue>> create(int fd, EventLoop& loop, QueueEvents events) {
        auto queue = std::unique_ptr<TapQueue>(new TapQueue(fd, std::move(events)));
        // Edge-triggered: one call for each arrival after the device has drained us, none while it has no buffers.
        queue->watch_ = TRY(loop.watch(fd, EPOLLIN | EPOLLOUT | EPOLLET, [raw = queue.get()](u32 ready) { raw->on_ready(ready); }));
        return std::unique_ptr<BackendQueue>(std::move(queue));
    }

    Result<> send(std::span<const iovec> packet) override {
        if (packet.size() > kMaxPieces || total_size(packet) > kPacketSize)
            return fail(ErrorCode::InvalidFormat, "a packet of {} bytes in {} pieces", total_size(packet), packet.size());
        ssize_t n;
        do n = ::writev(fd_, packet.data(), static_cast<int>(packet.size()));
        while (n < 0 && errno == EINTR);
        if (n >= 0) return {};
        if (errno == EAGAIN || errno == ENOBUFS) {
            blocked_ = true;
            return fail(ErrorCode::WouldBlock, "the tap is full");
        }
        return fail_errno(errno, "tap: write of {} bytes", total_size(packet));  // EIO: the interface is down
    }

    Result<usize> receive(std::span<const iovec> buffers) override {
        if (kept_size_ == 0 && buffers.size() < kMaxPieces) {
            // Straight into the guest's buffers; what does not fit lands behind them, and the packet is kept whole.
            const usize room = total_size(buffers);
            iovec pieces[kMaxPieces];
            std::memcpy(pieces, buffers.data(), buffers.size_bytes());
            pieces[buffers.size()] = {kept_.data() + std::min(room, kPacketSize), kPacketSize - std::min(room, kPacketSize)};
            const usize size = TRY(read_packet({pieces, buffers.size() + 1}));
            if (size <= room) return size;
            usize at = 0;
            for (const iovec& buffer : buffers) {
                std::memcpy(kept_.data() + at, buffer.iov_base, buffer.iov_len);
                at += buffer.iov_len;
            }
            kept_size_ = size;
            return fail(ErrorCode::OutOfRange, "a packet of {} bytes", size);
        }
        const usize size = next_packet_size();
        if (size == 0) return fail(ErrorCode::WouldBlock, "no packet");
        if (total_size(buffers) < size) return fail(ErrorCode::OutOfRange, "a packet of {} bytes", size);
        scatter({kept_.data(), size}, buffers);
        kept_size_ = 0;
        return size;
    }

    usize next_packet_size() override {
        if (kept_size_ == 0) {
            iovec whole{kept_.data(), kPacketSize};
            kept_size_ = read_packet({&whole, 1}).value_or(0);
        }
        return kept_size_;
    }

  private:
    TapQueue(int fd, QueueEvents events) : fd_(fd), events_(std::move(events)), kept_(kPacketSize) {}

    Result<usize> read_packet(std::span<const iovec> pieces) {
        ssize_t n;
        do n = ::readv(fd_, pieces.data(), static_cast<int>(pieces.size()));
        while (n < 0 && errno == EINTR);
        if (n < 0 && errno == EAGAIN) return fail(ErrorCode::WouldBlock, "no packet");
        if (n < 0) return fail_errno(errno, "tap: read");
        if (static_cast<usize>(n) < sizeof(VnetHeader)) return fail(ErrorCode::WouldBlock, "no packet");
        return static_cast<usize>(n);
    }

    void on_ready(u32 ready) {
        if ((ready & EPOLLOUT) && std::exchange(blocked_, false) && events_.on_writable) events_.on_writable();
        if ((ready & EPOLLIN) && events_.on_readable) events_.on_readable();
    }

    const int fd_;
    QueueEvents events_;
    std::vector<u8> kept_;
    usize kept_size_ = 0;
    bool blocked_ = false;
    std::unique_ptr<EventLoop::Watch> watch_;
};

class TapBackend final : public Backend {
  public:
    TapBackend(std::string name, std::vector<UniqueFd> fds) : name_(std::move(name)), fds_(std::move(fds)) {
        const int fd = fds_.front().get();
        supported_ = {.checksum = true, .tso4 = true, .tso6 = true, .ecn = true};
        Offloads more = supported_;
        more.uso = true;
        if (::ioctl(fd, TUNSETOFFLOAD, offload_flags(more)) == 0) supported_ = more;
        ::ioctl(fd, TUNSETOFFLOAD, 0u);
    }
    u32 queue_pairs() const override { return static_cast<u32>(fds_.size()); }
    Offloads accepts() const override { return supported_; }
    Offloads provides() const override { return supported_; }
    Result<> set_receive_offloads(const Offloads& offloads) override {
        if (::ioctl(fds_.front().get(), TUNSETOFFLOAD, offload_flags(offloads)) < 0)
            return fail_errno(errno, "{}: cannot set offloads", describe());
        return {};
    }
    Result<std::unique_ptr<BackendQueue>> attach(EventLoop& loop, u32 index, QueueEvents events) override {
        if (index >= fds_.size()) return fail(ErrorCode::OutOfRange, "{} has {} queues", describe(), fds_.size());
        return TapQueue::create(fds_[index].get(), loop, std::move(events));
    }
    std::string describe() const override { return "tap:" + name_; }

  private:
    std::string name_;
    std::vector<UniqueFd> fds_;
    Offloads supported_;
};

Result<> set_header(int fd, const std::string& name) {
    int size = sizeof(VnetHeader), little_endian = 1;
    if (::ioctl(fd, TUNSETVNETHDRSZ, &size) < 0) return fail_errno(errno, "tap {}: cannot set the header's size", name);
    ::ioctl(fd, TUNSETVNETLE, &little_endian);  // the host's order on x86 in any case
    return {};
}

Result<UniqueFd> open_queue(const std::string& name, u32 pairs, std::string& actual_name) {
    UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
    if (!fd)
        return Failure(errno_error(errno, "cannot open /dev/net/tun")
                           .with_hint(errno == ENOENT ? "load the driver: modprobe tun; in a container, pass the device in"
                                                      : "you need permission to /dev/net/tun; the user network needs none"));
    ifreq request = {};
    request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (pairs > 1 ? IFF_MULTI_QUEUE : 0));
    std::memcpy(request.ifr_name, name.data(), name.size());
    if (::ioctl(fd.get(), TUNSETIFF, &request) < 0) {
        const int error_number = errno;
        std::string hint;
        switch (error_number) {
            case EPERM:
            case EACCES:
                hint = fmt::format("have the administrator make it for you: ip tuntap add dev {} mode tap user $USER{}; or run as root",
                                   name, pairs > 1 ? " multi_queue" : "");
                break;
            case EBUSY: hint = "another process uses the interface: stop it, or choose another name"; break;
            case EINVAL:
                hint = pairs > 1 ? fmt::format("made without multi_queue, or not a tap? `ip -d link show {}` tells", name)
                                 : fmt::format("made with multi_queue, or not a tap? `ip -d link show {}` tells", name);
                break;
            default: break;
        }
        return Failure(errno_error(error_number, fmt::format("cannot use the tap interface '{}'", name)).with_hint(std::move(hint)));
    }
    actual_name.assign(request.ifr_name, ::strnlen(request.ifr_name, IFNAMSIZ));
    TRY(set_header(fd.get(), actual_name));
    return fd;
}

}  // namespace

Result<std::unique_ptr<Backend>> open_tap(const TapOptions& options) {
    std::vector<UniqueFd> fds;
    std::string name = options.name;
    if (!options.fds.empty()) {
        for (int number : options.fds) {
            UniqueFd fd(number);
            ifreq request = {};
            if (::ioctl(number, TUNGETIFF, &request) < 0)
                return Failure(errno_error(errno, fmt::format("descriptor {} is no tap", number))
                                   .with_hint("the parent process opens it and leaves it open over exec"));
            if (!(request.ifr_flags & IFF_VNET_HDR))
                return Failure(Error(ErrorCode::Unsupported, fmt::format("descriptor {}: the tap has no virtio header", number))
                                   .with_hint("make it with IFF_VNET_HDR"));
            name.assign(request.ifr_name, ::strnlen(request.ifr_name, IFNAMSIZ));
            TRY(set_header(number, name));
            ::fcntl(number, F_SETFL, ::fcntl(number, F_GETFL) | O_NONBLOCK);
            ::fcntl(number, F_SETFD, FD_CLOEXEC);
            fds.push_back(std::move(fd));
        }
    } else {
        if (name.empty() || name.size() >= IFNAMSIZ || name.find('/') != name.npos)
            return Failure(Error(ErrorCode::InvalidArgument, fmt::format("'{}' is no name of an interface", name))
                               .with_hint("1 to 15 characters, for example tap0"));
        const u32 pairs = std::max(options.queue_pairs, 1u);
        for (u32 i = 0; i < pairs; ++i) fds.push_back(TRY(open_queue(i ? name : options.name, pairs, name)));
    }
    return std::unique_ptr<Backend>(std::make_unique<TapBackend>(std::move(name), std::move(fds)));
}

}  // namespace vezha::net
