// SPDX-License-Identifier: Apache-2.0
#include "machine/acpi.h"

#include <cstring>

#include "base/check.h"
#include "devices/platform/acpi_pm.h"
#include "machine/dsdt.h"

namespace vezha::machine::acpi {

namespace {

constexpr u32 kHeaderSize = 36;

/// Little-endian bytes of one table, or of all of them.
class Writer {
  public:
    Writer& u8_(u64 value) { return put(value, 1); }
    Writer& u16_(u64 value) { return put(value, 2); }
    Writer& u32_(u64 value) { return put(value, 4); }
    Writer& u64_(u64 value) { return put(value, 8); }
    Writer& text(std::string_view s) {
        for (char c : s) bytes.push_back(static_cast<u8>(c));
        return *this;
    }
    Writer& zeros(usize count) {
        while (count-- > 0) bytes.push_back(0);
        return *this;
    }
    /// Generic Address Structure of an I/O port block, 5.2.3.2.
    Writer& io(u64 port, u8 bits, u8 access) { return u8_(1).u8_(bits).u8_(0).u8_(access).u64_(port); }
    Writer& memory(u64 address) { return u8_(0).u8_(64).u8_(0).u8_(0).u64_(address); }
    std::vector<u8> bytes;

  private:
    Writer& put(u64 value, unsigned size) {
        for (unsigned i = 0; i < size; ++i) bytes.push_back(static_cast<u8>(value >> (8 * i)));
        return *this;
    }
};

/// A field that holds the address of something, for firmware that moves the tables.
struct Pointer {
    bool in_rsdp;
    u32 offset;
    u8 size;
};
struct Checksum {
    bool in_rsdp;
    u32 offset, start, length;
};

/// Lays the tables out one after another and remembers where pointers and checksums are.
class Layout {
  public:
    explicit Layout(u64 base) : base_(base) {}

    /// @param fields where `body` holds addresses: offset and width. @return the table's address
    u64 add(std::string_view signature, u8 revision, const std::vector<u8>& body, u32 alignment = 16,
            std::vector<std::pair<u32, u8>> fields = {}) {
        align(alignment);
        const u32 at = static_cast<u32>(out.tables.size()), size = static_cast<u32>(kHeaderSize + body.size());
        Writer header;
        header.text(signature).u32_(size).u8_(revision).u8_(0).text("VEZHA ").text("VEZHAQ35").u32_(1).text("VZHA").u32_(1);
        out.tables.insert(out.tables.end(), header.bytes.begin(), header.bytes.end());
        out.tables.insert(out.tables.end(), body.begin(), body.end());
        for (auto [offset, width] : fields) pointers.push_back({false, at + kHeaderSize + offset, width});
        checksums.push_back({false, at + 9, at, size});
        out.parts.push_back({std::string(signature), at, size});
        return base_ + at;
    }
    u64 add_raw(std::string_view signature, const std::vector<u8>& bytes, u32 alignment) {
        align(alignment);
        const u32 at = static_cast<u32>(out.tables.size());
        out.tables.insert(out.tables.end(), bytes.begin(), bytes.end());
        out.parts.push_back({std::string(signature), at, static_cast<u32>(bytes.size())});
        return base_ + at;
    }

    Tables out;
    std::vector<Pointer> pointers;
    std::vector<Checksum> checksums;

  private:
    void align(u32 alignment) { out.tables.resize(align_up(out.tables.size(), alignment)); }
    u64 base_;
};

std::vector<u8> facs() {
    Writer w;
    w.text("FACS").u32_(64).zeros(24).u8_(2).zeros(31);
    return w.bytes;
}

std::vector<u8> fadt(const Board& board, u64 facs_at, u64 dsdt_at) {
    constexpr u32 kFlags = 1u << 0     // WBINVD
                           | 1u << 2   // C1 on all processors
                           | 1u << 5   // no fixed sleep button; the power button is a fixed one
                           | 1u << 6   // the RTC's wake status is not in PM1
                           | 1u << 8   // the PM timer has 32 bits
                           | 1u << 10; // reset register
    const u16 boot_flags = static_cast<u16>(1 | (board.i8042 ? 2 : 0) | (board.vga ? 0 : 4));
    Writer w;
    w.u32_(facs_at).u32_(dsdt_at).u8_(0).u8_(1);  // preferred profile: desktop
    w.u16_(kGsiSci).u32_(0xb2).u8_(kAcpiEnable).u8_(kAcpiDisable).u8_(0).u8_(0);
    w.u32_(kPmBase + kPm1Event).u32_(0).u32_(kPmBase + kPm1Control).u32_(0).u32_(0).u32_(kPmBase + kPmTimer);
    w.u32_(kPmBase + kGpe0).u32_(0);
    w.u8_(4).u8_(2).u8_(0).u8_(4).u8_(kGpe0Size).u8_(0).u8_(0).u8_(0);
    w.u16_(0xfff).u16_(0xfff);  // no C2, no C3
    w.u16_(0).u16_(0).u8_(0).u8_(0);
    w.u8_(0).u8_(0).u8_(0x32);  // RTC: no day or month alarm; century byte
    w.u16_(boot_flags).u8_(0).u32_(kFlags);
    w.io(0xcf9, 8, 1).u8_(0x06);         // reset register and its value
    w.u16_(0).u8_(4);                    // no ARM boot flags; minor version
    w.u64_(0).u64_(dsdt_at);             // X_FIRMWARE_CTRL is 0 where FIRMWARE_CTRL is used
    w.io(kPmBase + kPm1Event, 32, 2).zeros(12);
    w.io(kPmBase + kPm1Control, 16, 2).zeros(12).zeros(12);
    w.io(kPmBase + kPmTimer, 32, 3);
    w.io(kPmBase + kGpe0, kGpe0Size * 8, 1).zeros(12);
    w.zeros(24);                         // no sleep registers
    w.text("VEZHA").zeros(3);            // hypervisor vendor identity
    CHECK(w.bytes.size() + kHeaderSize == 276);
    return w.bytes;
}

std::vector<u8> madt(const Board& board) {
    Writer w;
    w.u32_(kLapicBase).u32_(1);  // the 8259 pair exists
    for (usize i = 0; i < board.apic_ids.size(); ++i) {
        const u32 id = board.apic_ids[i];
        if (id < 255 && i < 255) w.u8_(0).u8_(8).u8_(i).u8_(id).u32_(1);
        else w.u8_(9).u8_(16).u16_(0).u32_(id).u32_(1).u32_(i);
    }
    w.u8_(1).u8_(12).u8_(0).u8_(0).u32_(kIoApicBase).u32_(0);
    w.u8_(2).u8_(10).u8_(0).u8_(0).u32_(2).u16_(0);              // the PIT is on input 2
    w.u8_(2).u8_(10).u8_(0).u8_(kGsiSci).u32_(kGsiSci).u16_(0xd);  // SCI: level, active high
    w.u8_(4).u8_(6).u8_(0xff).u16_(0).u8_(1);                    // NMI on LINT1 of all
    if (board.apic_ids.size() > 255) w.u8_(0xa).u8_(12).u16_(0).u32_(0xffff'ffff).u8_(1).zeros(3);
    return w.bytes;
}

std::vector<u8> hpet() {
    Writer w;
    w.u32_(0x8086'a201).u8_(0).u8_(64).u8_(0).u8_(0).u64_(kHpetBase).u8_(0).u16_(1000).u8_(0);
    return w.bytes;
}

std::vector<u8> mcfg() {
    Writer w;
    w.u64_(0).u64_(kEcamBase).u16_(0).u8_(0).u8_(kEcamSize / kMiB - 1).u32_(0);
    return w.bytes;
}

/// Serial console for debugging, "Serial Port Console Redirection Table" revision 2.
std::vector<u8> spcr(const SerialPort& serial) {
    Writer w;
    w.u8_(0).zeros(3);           // 16550
    w.io(serial.port, 8, 1);
    w.u8_(3).u8_(serial.irq).u32_(serial.irq);
    w.u8_(7).u8_(0).u8_(1).u8_(0).u8_(0).u8_(0);  // 115200 8N1, no flow control, VT100
    w.u16_(0xffff).u16_(0xffff).u8_(0).u8_(0).u8_(0).u32_(0).u8_(0).u32_(0);
    CHECK(w.bytes.size() + kHeaderSize == 80);
    return w.bytes;
}

Layout lay_out(const Board& board, u64 rsdp_address, u64 base) {
    Layout layout(base);
    const u64 facs_at = layout.add_raw("FACS", facs(), 64);
    const u64 dsdt_at = layout.add("DSDT", 2, dsdt_body(board));
    std::vector<u64> all;
    all.push_back(layout.add("FACP", 6, fadt(board, facs_at, dsdt_at), 16, {{0, 4}, {4, 4}, {104, 8}}));
    all.push_back(layout.add("APIC", 5, madt(board)));
    if (board.hpet) all.push_back(layout.add("HPET", 1, hpet()));
    all.push_back(layout.add("MCFG", 1, mcfg()));
    // The guest need not work around lost RTC reads and unsteady PM timers.
    all.push_back(layout.add("WAET", 1, {3, 0, 0, 0}));
    if (!board.serial_ports.empty()) all.push_back(layout.add("SPCR", 2, spcr(board.serial_ports[0])));

    Writer rsdt, xsdt;
    std::vector<std::pair<u32, u8>> narrow, wide;
    for (u32 i = 0; i < all.size(); ++i) {
        rsdt.u32_(all[i]);
        xsdt.u64_(all[i]);
        narrow.emplace_back(4 * i, u8{4});
        wide.emplace_back(8 * i, u8{8});
    }
    const u64 rsdt_at = layout.add("RSDT", 1, rsdt.bytes, 16, narrow);
    const u64 xsdt_at = layout.add("XSDT", 1, xsdt.bytes, 16, wide);

    Writer rsdp;
    rsdp.text("RSD PTR ").u8_(0).text("VEZHA ").u8_(2).u32_(rsdt_at).u32_(36).u64_(xsdt_at).u8_(0).zeros(3);
    layout.out.rsdp = std::move(rsdp.bytes);
    layout.out.rsdp_address = rsdp_address;
    layout.out.tables_address = base;
    layout.pointers.push_back({true, 16, 4});
    layout.pointers.push_back({true, 24, 8});
    layout.checksums.push_back({true, 8, 0, 20});
    layout.checksums.push_back({true, 32, 0, 36});
    return layout;
}

}  // namespace

Tables build(const Board& board, u64 address) {
    CHECK(is_aligned(address, 64));
    Layout layout = lay_out(board, address, address + 64);
    for (const Checksum& sum : layout.checksums) {
        std::vector<u8>& file = sum.in_rsdp ? layout.out.rsdp : layout.out.tables;
        u8 total = 0;
        for (u32 i = 0; i < sum.length; ++i) total = static_cast<u8>(total + file[sum.start + i]);
        file[sum.offset] = static_cast<u8>(-total);
    }
    return std::move(layout.out);
}

FirmwareFiles build_for_firmware(const Board& board) {
    // Pointers hold offsets into the tables file; the loader's commands turn them into addresses.
    Layout layout = lay_out(board, 0, 0);
    constexpr std::string_view kRsdp = "etc/acpi/rsdp", kTables = "etc/acpi/tables";
    Writer w;
    const auto file = [&](std::string_view name) { w.text(name).zeros(56 - name.size()); };
    const auto finish = [&](usize start) { w.zeros(128 - (w.bytes.size() - start)); };
    usize start = w.bytes.size();
    w.u32_(1);  // allocate, high memory
    file(kTables);
    w.u32_(64).u8_(1);
    finish(start);
    start = w.bytes.size();
    w.u32_(1);  // allocate, where the guest searches for the RSDP
    file(kRsdp);
    w.u32_(16).u8_(2);
    finish(start);
    for (const Pointer& pointer : layout.pointers) {
        start = w.bytes.size();
        w.u32_(2);
        file(pointer.in_rsdp ? kRsdp : kTables);
        file(kTables);
        w.u32_(pointer.offset).u8_(pointer.size);
        finish(start);
    }
    for (const Checksum& sum : layout.checksums) {
        start = w.bytes.size();
        w.u32_(3);
        file(sum.in_rsdp ? kRsdp : kTables);
        w.u32_(sum.offset).u32_(sum.start).u32_(sum.length);
        finish(start);
    }
    return {std::move(layout.out.rsdp), std::move(layout.out.tables), std::move(w.bytes)};
}

}  // namespace vezha::machine::acpi
