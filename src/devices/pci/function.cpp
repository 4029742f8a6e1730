// SPDX-License-Identifier: Apache-2.0
#include "devices/pci/function.h"

#include <bit>
#include <cstring>

#include "base/check.h"
#include "devices/pci/pci_bus.h"

namespace vezha::devices::pci {

namespace {
// Below platform devices, so that a BAR placed over one of them does not take it from the guest.
constexpr int kBarPriority = -1;
constexpr u16 kDeviceCapFlr = 28;  // bit of Device Capabilities, PCIe 7.5.3.3
constexpr u16 kDeviceControlFlr = 1 << 15;
}  // namespace

Function::Function(bus::Bus& bus, bus::MsiSink& msi, std::string name, const Identity& identity, u8 header_type)
    : bus_(bus), sink_(msi), name_(std::move(name)) {
    set_config<u16>(kVendorId, identity.vendor);
    set_config<u16>(kDeviceId, identity.device);
    set_config<u8>(kRevision, identity.revision);
    set_config<u8>(kClass, static_cast<u8>(identity.class_code));
    set_config<u16>(kClass + 1, static_cast<u16>(identity.class_code >> 8));
    set_config<u8>(kHeaderType, header_type);
    if (header_type == 0) {
        set_config<u16>(kSubsystemVendor, identity.subsystem_vendor);
        set_config<u16>(kSubsystem, identity.subsystem);
    }
    set_writable<u16>(kCommand, kCommandIo | kCommandMemory | kCommandMaster | kCommandParity | kCommandSerr |
                                    kCommandIntxDisable);
    set_write_one_to_clear<u16>(kStatus, kStatusErrors);
    set_writable<u8>(kCacheLine, 0xff);
    set_writable<u8>(kInterruptLine, 0xff);
}

Function::~Function() = default;

void Function::add_bar(unsigned bar, BarKind kind, u64 size, bool prefetchable) {
    const bool io = kind == BarKind::Io, wide = kind == BarKind::Memory64;
    CHECK(bar + wide < ((config_[kHeaderType] & 0x7f) ? 2u : 6u) && bars_[bar].size == 0);
    CHECK(std::has_single_bit(size) && size >= (io ? 4u : 16u) && (wide || size <= (io ? 0x1'0000u : 0x8000'0000u)));
    const u64 mask = ~(size - 1);
    const u16 at = static_cast<u16>(kBar0 + 4 * bar);
    set_config<u32>(at, (io ? 1u : 0u) | (wide ? 4u : 0u) | (prefetchable && !io ? 8u : 0u));
    set_writable<u32>(at, static_cast<u32>(mask));
    if (wide) set_writable<u32>(static_cast<u16>(at + 4), static_cast<u32>(mask >> 32));
    auto mapping = bus_.map(io ? bus::Space::Pio : bus::Space::Mmio, std::nullopt, size, *this, bar, name_, kBarPriority);
    CHECK(mapping.has_value());
    bars_[bar] = {kind, size, std::nullopt, *std::move(mapping)};
}

u8 Function::add_capability(u8 id, std::span<const u8> body, std::span<const u8> writable, CapabilityHooks hooks) {
    const u16 at = next_capability_, size = static_cast<u16>(body.size() + 2);
    CHECK(at + size <= 0x100 && writable.size() <= body.size());
    config_[last_link_] = static_cast<u8>(at);
    last_link_ = static_cast<u16>(at + 1);
    next_capability_ = static_cast<u16>(align_up(at + size, 4));
    config_[at] = id;
    std::copy(body.begin(), body.end(), config_.begin() + at + 2);
    std::copy(writable.begin(), writable.end(), writable_.begin() + at + 2);
    config_[kStatus] |= kStatusCapabilities;
    if (hooks.before_read || hooks.after_write) capabilities_.push_back({at, size, std::move(hooks)});
    return static_cast<u8>(at);
}

u16 Function::add_extended_capability(u16 id, u8 version, std::span<const u8> body, std::span<const u8> writable) {
    const u16 at = next_extended_;
    CHECK(at + 4 + body.size() <= kConfigSize && writable.size() <= body.size());
    set_config<u32>(at, id | u32{version} << 16);
    if (last_extended_) set_config<u32>(last_extended_, (config<u32>(last_extended_) & 0xf'ffff) | u32{at} << 20);
    last_extended_ = at;
    next_extended_ = static_cast<u16>(align_up(at + 4 + body.size(), 4));
    std::copy(body.begin(), body.end(), config_.begin() + at + 4);
    std::copy(writable.begin(), writable.end(), writable_.begin() + at + 4);
    return at;
}

u8 Function::add_express_capability(PortType type, bool slot_implemented) {
    // PCIe 7.5.3: version 2 of the structure, 60 bytes.
    std::array<u8, 58> body{};
    express_ = add_capability(kCapExpress, body);
    const u8 at = express_;
    set_config<u16>(at + 2, static_cast<u16>(2 | static_cast<u16>(type) << 4 | (slot_implemented ? 1 << 8 : 0)));
    // Role-based error reporting; 128-byte payloads; endpoints: function-level reset.
    set_config<u32>(at + 4, 1u << 15 | (type == PortType::RootPort ? 0 : 1u << kDeviceCapFlr));
    set_writable<u16>(at + 8, 0x7fff);
    set_config<u16>(at + 8, 0x2810);  // maximum read request 512, relaxed ordering, no snoop
    set_write_one_to_clear<u16>(at + 10, 0x000f);
    if (type != PortType::RootComplexEndpoint) {
        set_config<u32>(at + 12, 0x0000'0011);  // 2.5 GT/s, x1
        set_config<u16>(at + 18, 0x0011);
        set_writable<u16>(at + 16, 0x0fc3);
    }
    set_writable<u16>(at + 40, 0x001f);  // Device Control 2: completion timeout
    return at;
}

u8 Function::add_power_management() {
    // PCI Power Management 1.2, 3.2: version 3, no PME; No_Soft_Reset set, so D3hot keeps the state.
    const std::array<u8, 6> body{0x03, 0x00, 0x08, 0x00, 0x00, 0x00}, writable{0x00, 0x00, 0x03, 0x00, 0x00, 0x00};
    return add_capability(kCapPowerManagement, body, writable);
}

void Function::add_msix(u16 vectors, unsigned bar, u32 table_offset, u32 pba_offset) {
    CHECK(!msix_ && bar < 6 && bars_[bar].size > 0);
    msix_ = std::make_unique<Msix>(sink_, vectors, static_cast<u8>(bar), table_offset, pba_offset);
    CHECK(table_offset + msix_->table_size() <= bars_[bar].size && pba_offset + msix_->pba_size() <= bars_[bar].size);
    std::array<u8, 10> body{};
    const u16 control = static_cast<u16>(vectors - 1);
    const u32 table = table_offset | bar, pba = pba_offset | bar;
    std::memcpy(body.data(), &control, 2);
    std::memcpy(body.data() + 2, &table, 4);
    std::memcpy(body.data() + 6, &pba, 4);
    const std::array<u8, 2> writable{0x00, 0xc0};
    msix_offset_ = add_capability(kCapMsix, body, writable);
}

void Function::add_msi(u8 vectors) {
    CHECK(!msi_ && std::has_single_bit(vectors) && vectors <= 32);
    std::array<u8, Msi::kSize - 2> body{}, writable{};
    // 64-bit, per-vector masks; multiple messages capable.
    body[0] = static_cast<u8>(0x80 | std::countr_zero(vectors) << 1);
    body[1] = 0x01;
    writable[0] = 0x71;
    for (unsigned i = 2; i < 12; ++i) writable[i] = 0xff;
    writable[2] = 0xfc;
    const u32 mask = static_cast<u32>((u64{1} << vectors) - 1);
    std::memcpy(writable.data() + 14, &mask, 4);
    const u8 at = static_cast<u8>(next_capability_);
    CapabilityHooks hooks;
    hooks.before_read = [this, at](u16, unsigned) { set_config<u32>(at + 20, msi_->pending()); };
    add_capability(kCapMsi, body, writable, std::move(hooks));
    msi_ = std::make_unique<Msi>(sink_, vectors, at);
}

void Function::attached(PciBus& parent, Slot slot, std::string address) {
    CHECK(!built_);
    parent_ = &parent;
    slot_ = slot;
    address_ = std::move(address);
    if (express_ && parent.is_root() && (config_[express_ + 2] & 0xf0) == 0) {
        config_[express_ + 2] |= static_cast<u8>(static_cast<u8>(PortType::RootComplexEndpoint) << 4);
        // Integrated endpoints have no link (PCIe 7.5.3.6).
        for (unsigned i = 12; i < 20; ++i) config_[express_ + i] = writable_[express_ + i] = 0;
    }
    power_on_ = config_;
    built_ = true;
}

void Function::call_hooks(u16 offset, unsigned size, bool write) {
    for (const Capability& capability : capabilities_) {
        if (offset + size <= capability.offset || offset >= capability.offset + capability.size) continue;
        const auto& hook = write ? capability.hooks.after_write : capability.hooks.before_read;
        // An access that begins before the capability is reported from its first byte on.
        const u16 start = std::max(offset, capability.offset);
        const unsigned end = std::min<unsigned>(offset + size, capability.offset + capability.size);
        if (hook) hook(static_cast<u16>(start - capability.offset), end - start);
    }
}

u32 Function::config_read(u16 offset, unsigned size) {
    if (offset + size > kConfigSize) return static_cast<u32>(mask_bytes(size));
    if (offset <= kStatus && offset + size > kStatus) {
        std::lock_guard lock(intx_mutex_);
        config_[kStatus] = static_cast<u8>((config_[kStatus] & ~kStatusInterrupt) | (intx_wanted_ ? kStatusInterrupt : 0));
    }
    if (!capabilities_.empty() && offset >= 0x3d) call_hooks(offset, size, false);
    u32 value = 0;
    std::memcpy(&value, config_.data() + offset, size);
    return value;
}

void Function::config_write(u16 offset, unsigned size, u32 value) {
    if (offset + size > kConfigSize) return;
    for (unsigned i = 0; i < size; ++i) {
        const u8 byte = static_cast<u8>(value >> (8 * i));
        u8& stored = config_[offset + i];
        const u8 changeable = writable_[offset + i];
        stored = static_cast<u8>((stored & ~changeable) | (byte & changeable));
        stored = static_cast<u8>(stored & ~(byte & clearable_[offset + i]));
    }
    const auto touches = [&](u16 start, unsigned length) { return offset < start + length && offset + size > start; };
    if (express_ && touches(express_ + 9, 1) && (config<u32>(express_ + 4) >> kDeviceCapFlr & 1)) {
        const unsigned byte = express_ + 9u - offset;
        if (value >> (8 * byte) & (kDeviceControlFlr >> 8)) {
            config_[express_ + 9] &= 0x7f;
            return function_level_reset();
        }
    }
    if (touches(kCommand, 2) || touches(kBar0, 24)) update_bars();
    if (touches(kCommand, 2) || (msix_ && touches(msix_offset_, 4)) || (msi_ && touches(msi_->offset(), Msi::kSize)))
        update_interrupts();
    if (!capabilities_.empty() && offset + size > 0x40) call_hooks(offset, size, true);
    config_written(offset, size);
}

std::optional<u64> Function::wanted_base(unsigned bar) const {
    const Bar& b = bars_[bar];
    const u16 command = config<u16>(kCommand), at = static_cast<u16>(kBar0 + 4 * bar);
    if (!(command & (b.kind == BarKind::Io ? kCommandIo : kCommandMemory))) return std::nullopt;
    const u64 raw = b.kind == BarKind::Memory64 ? config<u64>(at) : config<u32>(at);
    const u64 base = raw & ~(b.size - 1);
    // Zero is "not placed"; a range up to the end of its space is what sizing leaves behind.
    const u64 end = b.kind == BarKind::Io ? 0x1'0000 : b.kind == BarKind::Memory32 ? 0x1'0000'0000 : 0;
    if (base == 0 || base + b.size == end || (end && base + b.size > end)) return std::nullopt;
    return base;
}

void Function::update_bars() {
    for (unsigned i = 0; i < bars_.size(); ++i) {
        Bar& bar = bars_[i];
        if (!bar.size) continue;
        const std::optional<u64> base = wanted_base(i);
        if (base == bar.mapped_at) continue;
        bar.mapped_at = base;
        bar.mapping->move(base);
        bar_moved(i, base);
    }
}

void Function::update_interrupts() {
    const u16 command = config<u16>(kCommand);
    const bool master = command & kCommandMaster;
    bus_master_.store(master, std::memory_order_release);
    bool message_signalled = false;
    if (msix_) {
        const u16 control = config<u16>(msix_offset_ + 2);
        msix_->set_control(control & 0x8000, control & 0x4000, master);
        message_signalled |= (control & 0x8000) != 0;
    }
    if (msi_) {
        msi_->follow(std::span<const u8>(config_).subspan(msi_->offset(), Msi::kSize), master);
        message_signalled |= msi_->enabled();
    }
    std::lock_guard lock(intx_mutex_);
    intx_allowed_ = !message_signalled && !(command & kCommandIntxDisable);
    drive_intx();
}

void Function::set_intx(bool asserted) {
    std::lock_guard lock(intx_mutex_);
    intx_wanted_ = asserted;
    drive_intx();
}

void Function::drive_intx() {
    const bool level = intx_wanted_ && intx_allowed_;
    const u8 pin = config_[kInterruptPin];
    if (level == intx_driven_ || !parent_ || pin == 0) return;
    intx_driven_ = level;
    parent_->set_intx(slot_.device, static_cast<u8>(pin - 1), level);
}

u64 Function::bar_read(unsigned, u64, unsigned size) { return mask_bytes(size); }
void Function::bar_write(unsigned, u64, unsigned, u64) {}

u64 Function::read(u32 range, u64 offset, unsigned size) {
    if (msix_ && msix_->covers(static_cast<u8>(range), offset, size)) return msix_->read(offset, size);
    return bar_read(range, offset, size);
}

void Function::write(u32 range, u64 offset, unsigned size, u64 value) {
    if (msix_ && msix_->covers(static_cast<u8>(range), offset, size)) return msix_->write(offset, size, value);
    bar_write(range, offset, size, value);
}

std::string Function::state_name() const { return "pci/" + address_ + "/" + name_; }

void Function::save(state::Section& out) const {
    out.put("pci.config", config_);
    out.put_value<bool>("pci.intx", intx_wanted_);
    if (msix_) msix_->save(out);
    if (msi_) msi_->save(out);
}

Result<> Function::load(const state::Section& in, u32) {
    const std::vector<u8>* saved = in.get("pci.config");
    if (!saved || saved->size() != kConfigSize)
        return fail(ErrorCode::InvalidFormat, "{}: configuration space is missing or has a wrong size", state_name());
    if (std::memcmp(saved->data(), config_.data(), 4) != 0)
        return fail(ErrorCode::InvalidFormat, "{}: saved from another kind of device", state_name());
    const bool intx = TRY(in.get_value<u8>("pci.intx")) & 1;
    if (msix_) TRY(msix_->load(in));
    if (msi_) TRY(msi_->load(in));
    // Only what software can change is taken: the rest describes the device that we are.
    for (unsigned i = 0; i < kConfigSize; ++i) {
        const u8 mask = writable_[i] | clearable_[i];
        config_[i] = static_cast<u8>((config_[i] & ~mask) | ((*saved)[i] & mask));
    }
    update_bars();
    {
        std::lock_guard lock(intx_mutex_);
        intx_wanted_ = intx;
    }
    update_interrupts();
    return {};
}

void Function::reset() {
    if (built_) {
        config_ = power_on_;
    }
    if (msix_) msix_->reset();
    if (msi_) msi_->reset();
    {
        std::lock_guard lock(intx_mutex_);
        intx_wanted_ = false;
    }
    update_bars();
    update_interrupts();
    reset_device();
}

}  // namespace vezha::devices::pci
