// SPDX-License-Identifier: Apache-2.0
#include "machine/cards.h"

#include <sys/stat.h>

#include "block/open.h"
#include "devices/virtio/balloon.h"
#include "devices/virtio/block.h"
#include "devices/virtio/console.h"
#include "devices/virtio/entropy.h"
#include "devices/virtio/net.h"
#include "net/socket.h"
#include "net/tap.h"
#include "net/user.h"

namespace vezha::machine {

using devices::virtio::PciDevice;
using devices::virtio::QueueOptions;

/// Members are destroyed from the last to the first: devices, then what they use, then the loops.
struct Cards::State {
    struct DiskCard {
        std::string path;
        DiskCache cache;
        std::unique_ptr<block::Disk> disk;
    };
    std::vector<std::unique_ptr<LoopThread>> loops;
    std::vector<DiskCard> disks;
    std::vector<std::unique_ptr<net::Backend>> networks;
    std::vector<std::unique_ptr<PciDevice>> devices;
    devices::virtio::VirtioBalloon* balloon = nullptr;  // one of devices
    usize next_loop = 0;

    EventLoop& loop() { return loops[next_loop++ % loops.size()]->loop(); }

    Result<> add(const Parts& parts, std::unique_ptr<PciDevice> device) {
        if (auto slot = parts.pci.add(*device, u8{1}); !slot)
            return Failure(std::move(slot.error()).with_context(device->name()).with_hint("a machine takes about 29 disks and network cards"));
        devices.push_back(std::move(device));
        return {};
    }
    Result<> add_network(const Parts& parts, const NetConfig& config, bool first_user);
    Result<> add_disk(const Parts& parts, const DiskConfig& config, usize index);
};

namespace {
devices::virtio::Wiring wiring(const Cards::Parts& parts) { return {.bus = parts.bus, .msi = parts.msi, .memory = parts.memory}; }
}  // namespace

Result<> Cards::State::add_network(const Parts& parts, const NetConfig& config, bool first_user) {
    std::unique_ptr<net::Backend> backend;
    switch (config.type) {
        case NetKind::None: return {};
        case NetKind::User: {
            net::UserOptions options{.restrict = config.restrict, .host_name = parts.config.name};
            if (first_user)
                for (const PortShare& share : parts.config.share_ports)
                    options.forwards.push_back({share.host_address, share.host_port, share.guest_port, share.udp});
            backend = TRY(net::open_user(options).context("--net user"));
            break;
        }
        case NetKind::Tap: {
            net::TapOptions options{.name = config.name, .queue_pairs = config.queues};
            if (config.fd) options.fds = {*config.fd};
            backend = TRY(net::open_tap(options).context("--net tap"));
            break;
        }
        case NetKind::Socket:
            backend = TRY(net::open_socket({.address = config.listen.empty() ? config.connect : config.listen, .listen = !config.listen.empty()}).context("--net socket"));
            break;
    }
    devices::virtio::NetOptions options{.mac = config.mac.value_or(Mac{}).bytes};
    for (u32 pair = 0; pair < backend->queue_pairs(); ++pair) options.pair_loops.push_back(&loop());
    auto device = TRY(devices::virtio::VirtioNet::create(wiring(parts), *backend, options));
    networks.push_back(std::move(backend));
    return add(parts, std::move(device));
}

Result<> Cards::State::add_disk(const Parts& parts, const DiskConfig& config, usize index) {
    block::OpenOptions open;
    open.read_only = config.readonly;
    open.discard = config.discard;
    open.cache = config.cache == DiskCache::None ? block::CacheMode::None : config.cache == DiskCache::Unsafe ? block::CacheMode::Unsafe : block::CacheMode::Writeback;
    open.format = config.format == DiskFormat::Raw ? "raw" : "auto";
    auto disk = TRY(block::open(config.path, open).context(fmt::format("--disk {}", config.path)));
    devices::virtio::BlockOptions options{.serial = config.serial.empty() ? fmt::format("disk{}", index) : config.serial, .read_only = config.readonly};
    const u32 queues = config.queues ? config.queues : static_cast<u32>(loops.size());
    for (u32 i = 0; i < queues; ++i) options.queues.push_back({.loop = &loop()});
    auto device = TRY(devices::virtio::VirtioBlock::create(wiring(parts), *disk, std::move(options)).context(fmt::format("--disk {}", config.path)));
    disks.push_back({config.path, config.cache, std::move(disk)});
    return add(parts, std::move(device));
}

Cards::Cards(std::unique_ptr<State> state) : state_(std::move(state)) {}
Cards::~Cards() = default;

Result<std::unique_ptr<Cards>> Cards::create(const Parts& parts) {
    auto state = std::make_unique<State>();
    for (u32 i = 0; i < std::max(1u, parts.config.io_threads); ++i) state->loops.push_back(TRY(LoopThread::start(fmt::format("io{}", i))));
    // Network cards first: their slots, and so the names that guests give them, do not depend on the number of disks.
    bool first_user = true;
    for (const NetConfig& config : parts.config.nets) {
        TRY(state->add_network(parts, config, first_user));
        if (config.type == NetKind::User) first_user = false;
    }
    usize index = 0;
    for (const DiskConfig& config : parts.config.disks) TRY(state->add_disk(parts, config, index++));
    if (parts.config.rng) {
        auto entropy = TRY(devices::virtio::VirtioEntropy::create(wiring(parts), {.loop = &state->loop(), .size = 64}));
        TRY(state->add(parts, std::move(entropy)));
    }
    if (!parts.consoles.empty()) {
        devices::virtio::ConsoleOptions options{.loop = &state->loop()};
        // A port with a name is a channel for programs, one without is a terminal.
        for (const auto& [name, chardev] : parts.consoles) options.ports.push_back({.name = name, .chardev = chardev, .console = name.empty()});
        auto console = TRY(devices::virtio::VirtioConsole::create(wiring(parts), std::move(options)).context("--console"));
        TRY(state->add(parts, std::move(console)));
    }
    if (parts.config.balloon) {
        auto balloon = TRY(devices::virtio::VirtioBalloon::create(wiring(parts), {.loop = &state->loop()}));
        balloon->set_on_change(parts.balloon_changed);
        state->balloon = balloon.get();
        TRY(state->add(parts, std::move(balloon)));
    }
    return std::unique_ptr<Cards>(new Cards(std::move(state)));
}

void Cards::pause() {
    for (auto& device : state_->devices) device->pause();
}

void Cards::resume() {
    for (auto& device : state_->devices) device->resume();
}

std::vector<DiskInfo> Cards::disks() const {
    std::vector<DiskInfo> all;
    for (usize i = 0; i < state_->disks.size(); ++i) {
        const State::DiskCard& card = state_->disks[i];
        struct stat info {};
        const u64 actual = stat(card.path.c_str(), &info) == 0 ? static_cast<u64>(info.st_blocks) * 512 : 0;
        const std::string name = fmt::format("disk{}", i);
        all.push_back({.device = name, .qdev = "/machine/peripheral/" + name, .node_name = name, .driver = "raw", .file = card.path,
                       .direct = card.cache == DiskCache::None, .no_flush = card.cache == DiskCache::Unsafe, .actual_size = actual,
                       .geometry = card.disk->geometry(), .statistics = card.disk->statistics()});
    }
    return all;
}

Result<u64> Cards::balloon_actual() const {
    if (!state_->balloon) return Failure(Error(ErrorCode::Unsupported, "there is no balloon").with_hint("start the machine without --balloon off"));
    return state_->balloon->actual();
}

Result<> Cards::set_balloon_target(u64 bytes) {
    if (!state_->balloon) return Failure(Error(ErrorCode::Unsupported, "there is no balloon").with_hint("start the machine without --balloon off"));
    state_->balloon->set_target(bytes);
    return {};
}

}  // namespace vezha::machine
