// SPDX-License-Identifier: Apache-2.0
#include "devices/pci/lpc.h"

#include "base/check.h"

namespace vezha::devices::pci {

namespace {
constexpr u16 kPmBaseReg = 0x40, kAcpiControl = 0x44, kRcbaReg = 0xf0;
constexpr u16 pirq_register(unsigned pirq) { return static_cast<u16>(pirq < 4 ? 0x60 + pirq : 0x68 + pirq - 4); }
}  // namespace

void PirqRouter::set_intx(u8 device, u8 pin, bool asserted) {
    const unsigned n = pirq(device, pin);
    std::lock_guard lock(mutex_);
    const bool was = asserted_[n] > 0;
    asserted_[n] += asserted ? 1 : -1;
    const bool is = asserted_[n] > 0;
    if (was == is) return;
    gsi_(16 + n, is);
    drive_pic_locked();
}

void PirqRouter::set_route(unsigned pirq, u8 irq) {
    std::lock_guard lock(mutex_);
    route_[pirq] = irq;
    drive_pic_locked();
}

void PirqRouter::drive_pic_locked() {
    u16 wanted = 0;
    for (unsigned n = 0; n < 8; ++n)
        if (route_[n] && asserted_[n] > 0) wanted |= static_cast<u16>(1 << route_[n]);
    const u16 changed = wanted ^ driven_;
    driven_ = wanted;
    for (unsigned irq = 0; irq < 16; ++irq)
        if (changed >> irq & 1) pic_(irq, wanted >> irq & 1);
}

Lpc::Lpc(bus::Bus& bus, bus::MsiSink& msi, PirqRouter& router, std::function<void(std::optional<u16>)> move_pm,
         Options options)
    : Function(bus, msi, "lpc", {0x8086, 0x2918, 0x060100, 2, 0x8086, 0x2918}), router_(router), move_pm_(std::move(move_pm)) {
    set_multifunction();
    set_config<u32>(kPmBaseReg, 1u | options.pm_base.value_or(0));
    set_writable<u32>(kPmBaseReg, 0xff80);
    set_config<u8>(kAcpiControl, options.pm_base ? 0x80 : 0);
    set_writable<u8>(kAcpiControl, 0x87);  // bits 2-0: SCI on IRQ 9, 10, 11, ...; only 9 is wired
    for (unsigned n = 0; n < 8; ++n) {
        set_config<u8>(pirq_register(n), 0x80);
        set_writable<u8>(pirq_register(n), 0x8f);
    }
    set_config<u8>(0x64, 0x10);                // SERIRQ
    set_writable<u8>(0x64, 0xd3);
    set_writable<u16>(0x80, 0x3377);           // I/O decode ranges
    set_writable<u16>(0x82, 0x3f0f);
    for (u16 at = 0x84; at < 0x94; at += 4) set_writable<u32>(at, 0x00fc'fffd);
    set_writable<u16>(0xa0, 0x17ff);           // GEN_PMCON
    set_writable<u8>(0xdc, 0x33);              // BIOS control
    set_writable<u32>(kRcbaReg, 0xffff'c001);
    auto mapped = bus.map(bus::Space::Mmio, std::nullopt, 0x4000, rcrb_, 0, "rcrb", -2);
    CHECK(mapped.has_value());
    rcrb_mapping_ = *std::move(mapped);
    apply();
}

Result<> Lpc::load(const state::Section& in, u32 saved_version) {
    TRY(Function::load(in, saved_version));
    apply();
    return {};
}

void Lpc::config_written(u16 offset, unsigned size) {
    if (offset + size > kPmBaseReg) apply();
}

void Lpc::apply() {
    const bool on = config<u8>(kAcpiControl) & 0x80;
    const u16 base = config<u16>(kPmBaseReg) & 0xff80;
    move_pm_(on && base ? std::optional<u16>(base) : std::nullopt);
    for (unsigned n = 0; n < 8; ++n) {
        const u8 route = config<u8>(pirq_register(n)), irq = route & 0x0f;
        // 0, 1, 2, 8 and 13 are reserved: they are edges.
        const bool valid = !(route & 0x80) && !((1u << irq) & 0x2107u);
        router_.set_route(n, valid ? irq : 0);
    }
    const u32 rcba = config<u32>(kRcbaReg);
    rcrb_mapping_->move(rcba & 1 ? std::optional<u64>(rcba & 0xffff'c000) : std::nullopt);
}

}  // namespace vezha::devices::pci
