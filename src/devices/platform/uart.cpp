// SPDX-License-Identifier: Apache-2.0
#include "devices/platform/uart.h"

#include <algorithm>

namespace vezha::devices::platform {

namespace {
constexpr u8 kIerReceive = 1, kIerTransmit = 2, kIerLine = 4, kIerModem = 8;
constexpr u8 kLsrReady = 0x01, kLsrOverrun = 0x02, kLsrEmpty = 0x60;
constexpr u8 kMcrRts = 2, kMcrDtr = 1, kMcrOut1 = 4, kMcrOut2 = 8, kMcrLoop = 0x10;
constexpr u8 kMsrCts = 0x10, kMsrDsr = 0x20, kMsrRi = 0x40, kMsrDcd = 0x80;
constexpr u8 kIirNone = 1, kIirModem = 0, kIirTransmit = 2, kIirReceive = 4, kIirTimeout = 0xc, kIirLine = 6;
constexpr usize kBatch = 256;
constexpr u64 kFlushNs = 1'000'000;
}  // namespace

Uart::Uart(bus::Bus& bus, bus::Clock& clock, bus::IrqLine& irq, chardev::Chardev* host, u16 port, std::string name)
    : clock_(clock), irq_(irq), host_(host), name_(std::move(name)) {
    flush_timer_ = clock.new_timer([this] {
        std::lock_guard lock(mutex());
        flush_locked();
    });
    timeout_timer_ = clock.new_timer([this] {
        std::lock_guard lock(mutex());
        if (!timeout_at_ || clock_.now_ns() < timeout_at_) return;
        timeout_at_ = 0;
        timeout_pending_ = !received_.empty();
        update_irq();
    });
    reset();
    if (host_) {
        host_->attach({.on_input =
                           [this](std::span<const u8> bytes) {
                               std::lock_guard lock(mutex());
                               return take(bytes);
                           },
                       .on_connection = nullptr});
    }
    map(bus, bus::Space::Pio, port, 8, 0, name_);
}

Uart::~Uart() {
    flush();
    if (host_) host_->attach({});
}

void Uart::reset() {
    interrupt_enable_ = fifo_control_ = line_control_ = modem_control_ = scratch_ = line_errors_ = 0;
    modem_lines_ = host_ ? kMsrCts | kMsrDsr | kMsrDcd : 0;
    modem_delta_ = transmit_empty_pending_ = timeout_pending_ = 0;
    divisor_ = 12;
    timeout_at_ = 0;
    received_.clear();
    update_irq();
}

Result<> Uart::loaded() {
    if (received_.size() > kFifo) return fail(ErrorCode::InvalidFormat, "{}: receive FIFO too long", name_);
    update_irq();
    arm_receive_timeout();
    return {};
}

void Uart::flush() {
    std::lock_guard lock(mutex());
    flush_locked();
}

void Uart::flush_locked() {
    if (output_.empty()) return;
    if (host_) host_->write(output_);
    output_.clear();
}

void Uart::transmit(u8 byte) {
    if (!host_) return;
    output_.push_back(byte);
    if (byte == '\n' || output_.size() >= kBatch) return flush_locked();
    if (output_.size() == 1) flush_timer_->arm(clock_.now_ns() + kFlushNs);
}

usize Uart::take(std::span<const u8> bytes) {
    if (modem_control_ & kMcrLoop) {
        input_wanted_ = !bytes.empty();
        return 0;
    }
    const usize count = std::min(room(), bytes.size());
    for (u8 byte : bytes.first(count)) received_.push_back(byte);
    input_wanted_ = count < bytes.size();
    if (count) {
        timeout_pending_ = 0;
        arm_receive_timeout();
        update_irq();
    }
    return count;
}

void Uart::receive(u8 byte) {
    if (room() == 0) {
        line_errors_ |= kLsrOverrun;
        if (!(fifo_control_ & 1)) received_[0] = byte;
        return;
    }
    received_.push_back(byte);
    timeout_pending_ = 0;
    arm_receive_timeout();
}

void Uart::arm_receive_timeout() {
    timeout_at_ = 0;
    if (!(fifo_control_ & 1) || received_.empty() || !(interrupt_enable_ & kIerReceive)) return;
    // Four characters of ten bits at the programmed rate (115200 baud is divisor 1).
    timeout_at_ = clock_.now_ns() + u64{40} * kNsPerSec / 115200 * std::max<u16>(divisor_, 1);
    timeout_timer_->arm(timeout_at_);
}

u8 Uart::interrupt_id() const {
    static constexpr u8 kTrigger[4] = {1, 4, 8, 14};
    if ((interrupt_enable_ & kIerLine) && line_errors_) return kIirLine;
    if (interrupt_enable_ & kIerReceive) {
        const usize trigger = fifo_control_ & 1 ? kTrigger[fifo_control_ >> 6] : 1;
        if (received_.size() >= trigger) return kIirReceive;
        if (timeout_pending_ && !received_.empty()) return kIirTimeout;
    }
    if ((interrupt_enable_ & kIerTransmit) && transmit_empty_pending_) return kIirTransmit;
    if ((interrupt_enable_ & kIerModem) && modem_delta_) return kIirModem;
    return kIirNone;
}

void Uart::update_irq() {
    // OUT2 gates the interrupt on PCs, but guests that forget it work on real boards' successors too: not modelled.
    irq_.set(interrupt_id() != kIirNone);
}

u8 Uart::modem_status() const {
    if (!(modem_control_ & kMcrLoop)) return modem_lines_;
    u8 lines = 0;
    if (modem_control_ & kMcrRts) lines |= kMsrCts;
    if (modem_control_ & kMcrDtr) lines |= kMsrDsr;
    if (modem_control_ & kMcrOut1) lines |= kMsrRi;
    if (modem_control_ & kMcrOut2) lines |= kMsrDcd;
    return lines;
}

void Uart::set_modem_lines(u8 before) {
    const u8 now = modem_status(), changed = before ^ now;
    modem_delta_ |= changed >> 4 & 0x0b;                 // DCTS, DDSR, DDCD
    if ((before & kMsrRi) && !(now & kMsrRi)) modem_delta_ |= 4;  // trailing edge of RI
}

u8 Uart::read_register(u64 offset) {
    const bool divisor_latch = line_control_ & 0x80;
    switch (offset) {
        case 0: {
            if (divisor_latch) return static_cast<u8>(divisor_);
            u8 byte = 0;
            if (!received_.empty()) {
                byte = received_.front();
                received_.erase(received_.begin());
            }
            timeout_pending_ = 0;
            arm_receive_timeout();
            update_irq();
            if (input_wanted_ && host_) {
                input_wanted_ = false;
                host_->resume_input();
            }
            return byte;
        }
        case 1: return divisor_latch ? static_cast<u8>(divisor_ >> 8) : interrupt_enable_;
        case 2: {
            const u8 id = interrupt_id();
            if (id == kIirTransmit) {
                transmit_empty_pending_ = 0;
                update_irq();
            }
            return static_cast<u8>(id | (fifo_control_ & 1 ? 0xc0 : 0));
        }
        case 3: return line_control_;
        case 4: return modem_control_;
        case 5: {
            const u8 status = static_cast<u8>(kLsrEmpty | line_errors_ | (received_.empty() ? 0 : kLsrReady));
            if (line_errors_) {
                line_errors_ = 0;
                update_irq();
            }
            return status;
        }
        case 6: {
            const u8 status = modem_status() | modem_delta_;
            if (modem_delta_) {
                modem_delta_ = 0;
                update_irq();
            }
            return status;
        }
        default: return scratch_;
    }
}

void Uart::write_register(u64 offset, u8 value) {
    const bool divisor_latch = line_control_ & 0x80;
    switch (offset) {
        case 0:
            if (divisor_latch) {
                divisor_ = static_cast<u16>((divisor_ & 0xff00) | value);
                return;
            }
            if (modem_control_ & kMcrLoop) receive(value);
            else transmit(value);
            transmit_empty_pending_ = 1;
            break;
        case 1: {
            if (divisor_latch) {
                divisor_ = static_cast<u16>((divisor_ & 0x00ff) | value << 8);
                return;
            }
            const u8 old = interrupt_enable_;
            interrupt_enable_ = value & 0x0f;
            // Switching the transmit interrupt on with an empty transmitter raises it.
            if (!(old & kIerTransmit) && (interrupt_enable_ & kIerTransmit)) transmit_empty_pending_ = 1;
            if (!(old & kIerReceive)) arm_receive_timeout();
            break;
        }
        case 2: {
            const bool switched = (fifo_control_ ^ value) & 1;
            if (switched || (value & 2)) {
                received_.clear();
                timeout_pending_ = 0;
            }
            if (value & 4) transmit_empty_pending_ = 1;
            fifo_control_ = value & 0xc9;
            if (!(fifo_control_ & 1)) fifo_control_ = 0;
            if (input_wanted_ && host_) {
                input_wanted_ = false;
                host_->resume_input();
            }
            break;
        }
        case 3: line_control_ = value; return;
        case 4: {
            const u8 before = modem_status();
            const bool left_loop = (modem_control_ & kMcrLoop) && !(value & kMcrLoop);
            modem_control_ = value & 0x1f;
            set_modem_lines(before);
            if (left_loop && input_wanted_ && host_) {
                input_wanted_ = false;
                host_->resume_input();
            }
            break;
        }
        case 7: scratch_ = value; return;
        default: return;
    }
    update_irq();
}

u64 Uart::read(u32, u64 offset, unsigned size) {
    u64 value = 0;
    for (unsigned i = 0; i < size && offset + i < 8; ++i) value |= u64{read_register(offset + i)} << (8 * i);
    return value;
}

void Uart::write(u32, u64 offset, unsigned size, u64 value) {
    for (unsigned i = 0; i < size && offset + i < 8; ++i) write_register(offset + i, static_cast<u8>(value >> (8 * i)));
}

}  // namespace vezha::devices::platform
