// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/balloon.h"

#include <algorithm>

#include "base/log.h"
#include "base/time.h"

namespace vezha::devices::virtio {

namespace {
constexpr unsigned kStatsQueue = 1, kDeflateOnOom = 2, kPagePoison = 4, kReporting = 5;  // feature bits, 5.5.3
constexpr u16 kInflate = 0, kDeflate = 1, kStats = 2;

/// 5.5.4. Pages are of 4 KiB.
struct Config {
    u32 num_pages, actual;
    u32 free_page_hint_cmd_id;
    u32 poison_value;
};
static_assert(sizeof(Config) == 16);

struct [[gnu::packed]] Statistic {
    u16 tag;
    u64 value;
};
static_assert(sizeof(Statistic) == 10);

constexpr usize kPagesAtOnce = 4096;
}  // namespace

Result<std::unique_ptr<VirtioBalloon>> VirtioBalloon::create(const Wiring& wiring, BalloonOptions options) {
    std::unique_ptr<VirtioBalloon> device(new VirtioBalloon(wiring, options));
    TRY(device->start());
    return device;
}

VirtioBalloon::VirtioBalloon(const Wiring& wiring, BalloonOptions options)
    : PciDevice(wiring,
                {Type::Balloon, "virtio-balloon", 0x00ff00,
                 bit(kStatsQueue) | (options.deflate_on_oom ? bit(kDeflateOnOom) : 0) |
                     (options.free_page_reporting ? bit(kReporting) | bit(kPagePoison) : 0),
                 sizeof(Config)},
                std::vector<QueueOptions>(4, QueueOptions{options.loop, 128})),
      options_(options) {
    set_config_writable(offsetof(Config, actual), 4);
    set_config_writable(offsetof(Config, poison_value), 4);
    timer_ = options_.loop->new_timer([this] { ask_for_statistics(); });
}

VirtioBalloon::~VirtioBalloon() {
    interval_s_ = 0;
    timer_.reset();
    shutdown();
}

void VirtioBalloon::set_target(u64 bytes) {
    const u64 ram = memory().ram_size();
    const u64 pages = (ram - std::min(bytes, ram)) / kPageSize;
    set_device_config(offsetof(Config, num_pages), static_cast<u32>(std::min<u64>(pages, 0xffff'ffff)));
    config_changed();
}

u64 VirtioBalloon::target() const {
    return memory().ram_size() - u64{device_config<u32>(offsetof(Config, num_pages))} * kPageSize;
}

u64 VirtioBalloon::actual() const {
    const u64 ram = memory().ram_size();
    return ram - std::min(ram, u64{device_config<u32>(offsetof(Config, actual))} * kPageSize);
}

void VirtioBalloon::on_config_written(u32 offset, u32 size) {
    if (offset < offsetof(Config, actual) + 4 && offset + size > offsetof(Config, actual) && on_change_) on_change_(actual());
}

void VirtioBalloon::on_driver_ready() { kick(kStats); }

void VirtioBalloon::on_reset() {
    set_device_config<u32>(offsetof(Config, actual), 0);
    set_device_config<u32>(offsetof(Config, poison_value), 0);
    std::lock_guard lock(statistics_mutex_);
    statistics_ = {};
}

void VirtioBalloon::on_queue(u16 index) {
    if (index == kInflate) return inflate();
    if (index == kDeflate) return deflate();
    // Queues of features that the driver did not take have no number (as drivers count them).
    const u16 reporting = negotiated(kStatsQueue) ? 3 : 2;
    if (index == reporting) return report(index);
    if (index == kStats) read_statistics();
}

void VirtioBalloon::inflate() {
    std::vector<u32> pages;
    for (u32 budget = 64; budget > 0; --budget) {
        if (!pop(kInflate, chain_)) return complete(kInflate);
        const u64 total = chain_.readable_bytes() / 4;
        for (u64 at = 0; at < total; at += pages.size()) {
            pages.resize(std::min<u64>(kPagesAtOnce, total - at));
            copy_from(chain_.readable(), at * 4, {reinterpret_cast<u8*>(pages.data()), pages.size() * 4});
            const usize count = pages.size();
            discard_pages(pages);
            pages.resize(count);
        }
        queue(kInflate).push(chain_, 0);
    }
    complete(kInflate);
    kick(kInflate);
}

void VirtioBalloon::discard_pages(std::vector<u32>& pages) {
    // One call to the host for each run of pages.
    std::sort(pages.begin(), pages.end());
    for (usize i = 0; i < pages.size();) {
        usize end = i + 1;
        while (end < pages.size() && pages[end] - pages[end - 1] <= 1) ++end;
        const u64 first = u64{pages[i]} * kPageSize, size = (u64{pages[end - 1]} - pages[i] + 1) * kPageSize;
        if (auto given = memory().discard({first}, size); !given)
            LOG_GUEST_ERROR("virtio", "{}: {}", state_name(), given.error().message());
        i = end;
    }
}

void VirtioBalloon::deflate() {
    // Touching a page brings it back: nothing to do.
    for (u32 budget = kBatch; budget > 0; --budget) {
        if (!pop(kDeflate, chain_)) return complete(kDeflate);
        queue(kDeflate).push(chain_, 0);
    }
    complete(kDeflate);
    kick(kDeflate);
}

void VirtioBalloon::report(u16 index) {
    // The driver refills the pages with its poison, which only zero survives (5.5.6.5).
    const bool discard = !negotiated(kPagePoison) || device_config<u32>(offsetof(Config, poison_value)) == 0;
    for (u32 budget = 64; budget > 0; --budget) {
        if (!pop(index, chain_)) return complete(index);
        for (const iovec& piece : chain_.writable()) {
            if (!discard) break;
            for (const auto& region : memory().regions()) {
                const u8* at = static_cast<const u8*>(piece.iov_base);
                if (at < region->host() || at >= region->host() + region->size()) continue;
                const u64 offset = static_cast<u64>(at - region->host());
                const u64 start = align_up(offset, kPageSize), end = align_down(offset + piece.iov_len, kPageSize);
                if (start < end && memory().discard(region->base() + start, end - start)) reported_ += end - start;
            }
        }
        queue(index).push(chain_, 0);
    }
    complete(index);
    kick(index);
}

// Statistics ------------------------------------------------------------------------------------------------------------

void VirtioBalloon::read_statistics() {
    // The driver fills the buffer and we give it back to ask for the next: until then it stays in the ring, so that
    // nothing of ours is in flight.
    if (!pop(kStats, chain_)) return;
    BalloonStatistics fresh;
    Statistic statistic{};
    for (u64 at = 0; at < 64 * sizeof statistic && read_object(chain_.readable(), at, statistic); at += sizeof statistic)
        if (statistic.tag < BalloonStatistics::kTags) fresh.values[statistic.tag] = u64{statistic.value};
    queue(kStats).unpop(chain_);
    fresh.updated_ns = realtime_ns();
    std::lock_guard lock(statistics_mutex_);
    statistics_ = fresh;
}

void VirtioBalloon::ask_for_statistics() {
    const u32 interval = interval_s_.load();
    if (interval == 0) return;
    timer_->arm(monotonic_ns() + interval * kNsPerSec);
    if (!negotiated(kStatsQueue) || !bus_master() || !pop(kStats, chain_)) return;
    queue(kStats).push(chain_, 0);
    complete(kStats);
    read_statistics();  // asks to be notified
}

void VirtioBalloon::set_statistics_interval(u32 seconds) {
    interval_s_ = seconds;
    if (seconds) timer_->arm(monotonic_ns());
    else timer_->cancel();
}

BalloonStatistics VirtioBalloon::statistics() const {
    std::lock_guard lock(statistics_mutex_);
    return statistics_;
}

// Saved state -----------------------------------------------------------------------------------------------------------

void VirtioBalloon::save_device(state::Section& out) const {
    out.put_value("balloon.target", device_config<u32>(offsetof(Config, num_pages)));
    out.put_value("balloon.interval", interval_s_.load());
}

Result<> VirtioBalloon::load_device(const state::Section& in, u32) {
    set_device_config(offsetof(Config, num_pages), TRY(in.get_value<u32>("balloon.target")));
    set_statistics_interval(std::min<u32>(TRY(in.get_value<u32>("balloon.interval")), 86400));
    return {};
}

}  // namespace vezha::devices::virtio
