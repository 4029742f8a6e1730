// SPDX-License-Identifier: Apache-2.0
#include "devices/platform/pic.h"

namespace vezha::devices::platform {

namespace {
enum Range : u32 { kMaster, kSlave, kElcr };
constexpr u8 kAeoi = 2, kSpecialFullyNested = 0x10;  // ICW4
}  // namespace

Pic::Pic(bus::Bus& bus, std::function<void()> intr_changed) : intr_changed_(std::move(intr_changed)) {
    for (u8 irq = 0; irq < 16; ++irq) {
        lines_[irq].pic = this;
        lines_[irq].irq = irq;
    }
    map(bus, bus::Space::Pio, 0x20, 2, kMaster, "pic-master");
    map(bus, bus::Space::Pio, 0xa0, 2, kSlave, "pic-slave");
    map(bus, bus::Space::Pio, 0x4d0, 2, kElcr, "pic-elcr");
}

void Pic::reset() {
    {
        std::lock_guard lock(lock_);
        for (Chip& chip : chips_) {
            const u8 lines = chip.lines;
            chip = {};
            chip.lines = lines;
        }
        update_locked();
    }
    if (intr_changed_) intr_changed_();
}

Result<> Pic::loaded() {
    {
        std::lock_guard lock(lock_);
        for (unsigned i = 0; i < 2; ++i) {
            chips_[i].lowest &= 7;
            chips_[i].elcr &= kElcrMask[i];
        }
        update_locked();
    }
    if (intr_changed_) intr_changed_();
    return {};
}

/// Runs `change` under the lock; tells the engine afterwards if INTR moved.
template <class Change>
auto Pic::changing(Change&& change) {
    bool moved;
    if constexpr (std::is_void_v<decltype(change())>) {
        {
            std::lock_guard lock(lock_);
            const bool before = intr_.load(std::memory_order_relaxed);
            change();
            update_locked();
            moved = before != intr_.load(std::memory_order_relaxed);
        }
        if (moved && intr_changed_) intr_changed_();
    } else {
        decltype(change()) value;
        {
            std::lock_guard lock(lock_);
            const bool before = intr_.load(std::memory_order_relaxed);
            value = change();
            update_locked();
            moved = before != intr_.load(std::memory_order_relaxed);
        }
        if (moved && intr_changed_) intr_changed_();
        return value;
    }
}

void Pic::set_line(u8 irq, bool asserted) {
    if (irq == 2) return;
    changing([&] {
        Chip& chip = chips_[irq / 8];
        const u8 bit = static_cast<u8>(1 << (irq % 8));
        const bool was = chip.lines & bit;
        if (asserted) chip.lines |= bit;
        else chip.lines &= static_cast<u8>(~bit);
        if (!(chip.elcr & bit) && asserted && !was) chip.irr |= bit;
    });
}

u8 Pic::requests(unsigned chip) const {
    const Chip& c = chips_[chip];
    // Level inputs ask as long as they are asserted; the cascade follows the slave's output.
    u8 asking = static_cast<u8>((c.irr & ~c.elcr) | (c.lines & c.elcr));
    if (chip == 0) {
        asking &= static_cast<u8>(~4);
        if (!c.single && requested(1) >= 0) asking |= 4;
    }
    return asking;
}

int Pic::requested(unsigned chip) const {
    const Chip& c = chips_[chip];
    if (c.icw_step) return -1;
    const u8 asking = static_cast<u8>(requests(chip) & ~c.imr);
    u8 busy = c.isr;
    if (c.special_mask) busy &= static_cast<u8>(~c.imr);
    if (chip == 0 && (c.icw4 & kSpecialFullyNested)) busy &= static_cast<u8>(~4);
    for (unsigned i = 1; i <= 8; ++i) {
        const u8 input = static_cast<u8>((c.lowest + i) & 7);
        if (asking >> input & 1) return input;  // an equal one in service blocks below
        if (busy >> input & 1) return -1;
    }
    return -1;
}

void Pic::serve(Chip& chip, u8 input) {
    chip.irr &= static_cast<u8>(~(1 << input));
    if (chip.icw4 & kAeoi) {
        if (chip.rotate_on_aeoi) chip.lowest = input;
    } else {
        chip.isr |= static_cast<u8>(1 << input);
    }
}

void Pic::update_locked() { intr_.store(requested(0) >= 0, std::memory_order_release); }

/// Does not call intr_changed_: the caller is the engine, which asks pending() again.
u8 Pic::acknowledge() {
    std::lock_guard lock(lock_);
    const int input = requested(0);
    u8 vector;
    if (input < 0) {
        vector = chips_[0].base + 7;  // spurious
    } else if (input != 2 || chips_[0].single) {
        serve(chips_[0], static_cast<u8>(input));
        vector = static_cast<u8>(chips_[0].base + input);
    } else {
        const int behind = requested(1);
        serve(chips_[0], 2);
        vector = static_cast<u8>(chips_[1].base + (behind < 0 ? 7 : behind));
        if (behind >= 0) serve(chips_[1], static_cast<u8>(behind));
    }
    update_locked();
    return vector;
}

void Pic::write_command(Chip& chip, u8 value) {
    if (value & 0x10) {  // ICW1
        const Chip old = chip;
        chip = {};
        chip.lines = old.lines;
        chip.elcr = old.elcr;
        chip.icw4 = 0;
        chip.single = value >> 1 & 1;
        chip.icw_step = 2;
        chip.poll = value & 1;  // borrowed until ICW3: "ICW4 needed"
        return;
    }
    if (value & 0x08) {  // OCW3
        if (value & 0x02) chip.read_isr = value & 1;
        if (value & 0x40) chip.special_mask = value >> 5 & 1;
        if (value & 0x04) chip.poll = 1;
        return;
    }
    // OCW2
    const u8 level = value & 7;
    auto highest_in_service = [&]() -> int {
        for (unsigned i = 1; i <= 8; ++i) {
            const u8 input = static_cast<u8>((chip.lowest + i) & 7);
            if ((chip.isr >> input & 1) && !(chip.special_mask && (chip.imr >> input & 1))) return input;
        }
        return -1;
    };
    switch (value >> 5) {
        case 0: chip.rotate_on_aeoi = 0; break;
        case 4: chip.rotate_on_aeoi = 1; break;
        case 1:
        case 5: {
            const int input = highest_in_service();
            if (input < 0) break;
            chip.isr &= static_cast<u8>(~(1 << input));
            if (value >> 5 == 5) chip.lowest = static_cast<u8>(input);
            break;
        }
        case 3: chip.isr &= static_cast<u8>(~(1 << level)); break;
        case 7:
            chip.isr &= static_cast<u8>(~(1 << level));
            chip.lowest = level;
            break;
        case 6: chip.lowest = level; break;
        default: break;
    }
}

void Pic::write_data(Chip& chip, u8 value) {
    switch (chip.icw_step) {
        case 0: chip.imr = value; break;
        case 2: {
            chip.base = value & 0xf8;
            const bool icw4 = chip.poll;
            if (!chip.single) chip.icw_step = 3;
            else chip.icw_step = icw4 ? 4 : 0;
            if (!chip.icw_step) chip.poll = 0;
            break;
        }
        case 3:
            chip.icw_step = chip.poll ? 4 : 0;
            chip.poll = 0;
            break;
        default:
            chip.icw4 = value;
            chip.icw_step = 0;
            chip.poll = 0;
    }
}

u64 Pic::read(u32 range, u64 offset, unsigned size) {
    return changing([&]() -> u64 {
        u64 value = 0;
        for (unsigned i = 0; i < size && offset + i < 2; ++i) {
            const unsigned at = static_cast<unsigned>(offset + i);
            u8 byte;
            if (range == kElcr) {
                byte = chips_[at].elcr;
            } else {
                Chip& chip = chips_[range];
                if (chip.poll && !chip.icw_step) {
                    chip.poll = 0;
                    const int input = requested(range);
                    if (input >= 0) serve(chip, static_cast<u8>(input));
                    byte = input >= 0 ? static_cast<u8>(0x80 | input) : 0;
                } else if (at == 1) {
                    byte = chip.imr;
                } else {
                    byte = chip.read_isr ? chip.isr : requests(range);
                }
            }
            value |= u64{byte} << (8 * i);
        }
        return value;
    });
}

void Pic::write(u32 range, u64 offset, unsigned size, u64 value) {
    changing([&] {
        for (unsigned i = 0; i < size && offset + i < 2; ++i) {
            const unsigned at = static_cast<unsigned>(offset + i);
            const u8 byte = static_cast<u8>(value >> (8 * i));
            if (range == kElcr) chips_[at].elcr = byte & kElcrMask[at];
            else if (at == 0) write_command(chips_[range], byte);
            else write_data(chips_[range], byte);
        }
    });
}

}  // namespace vezha::devices::platform
