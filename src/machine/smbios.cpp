// SPDX-License-Identifier: Apache-2.0
#include "machine/smbios.h"

#include <algorithm>
#include <string_view>

#include "base/check.h"

namespace vezha::machine::smbios {

namespace {
using Bytes = std::vector<u8>;

void put(Bytes& out, u64 value, unsigned size) {
    for (unsigned i = 0; i < size; ++i) out.push_back(static_cast<u8>(value >> (8 * i)));
}
void fix_checksum(Bytes& bytes, usize at, usize start, usize length) {
    u8 total = 0;
    bytes[at] = 0;
    for (usize i = 0; i < length; ++i) total = static_cast<u8>(total + bytes[start + i]);
    bytes[at] = static_cast<u8>(-total);
}

/// One structure: its formatted area, then its strings (6.1.3).
class Structure {
  public:
    Structure(u8 type, u16 handle) {
        put(area_, type, 1);
        put(area_, 0, 1);
        put(area_, handle, 2);
    }
    Structure& b(u64 v) { return put(area_, v, 1), *this; }
    Structure& w(u64 v) { return put(area_, v, 2), *this; }
    Structure& d(u64 v) { return put(area_, v, 4), *this; }
    Structure& q(u64 v) { return put(area_, v, 8), *this; }
    Structure& text(std::string_view s) {
        if (s.empty()) return b(0);
        strings_.emplace_back(s);
        return b(strings_.size());
    }
    void append_to(Bytes& out) const {
        const usize start = out.size();
        out.insert(out.end(), area_.begin(), area_.end());
        out[start + 1] = static_cast<u8>(area_.size());
        for (const std::string& s : strings_) {
            // A zero byte would end the list early.
            for (char c : s) out.push_back(c ? static_cast<u8>(c) : u8{' '});
            out.push_back(0);
        }
        if (strings_.empty()) out.push_back(0);
        out.push_back(0);
    }
    usize size() const {
        usize total = area_.size() + 1 + (strings_.empty() ? 1 : 0);
        for (const std::string& s : strings_) total += s.size() + 1;
        return total;
    }

  private:
    Bytes area_;
    std::vector<std::string> strings_;
};

struct Built {
    Bytes bytes;
    u16 count = 0;
    usize largest = 0;
    void add(const Structure& s) {
        s.append_to(bytes);
        ++count;
        largest = std::max(largest, s.size());
    }
};

Built structures(const System& system) {
    Built out;
    // BIOS information: no characteristics; virtual machine (extension byte 2, bit 4), UEFI unknown.
    out.add(Structure(0, 0x000).text(system.manufacturer).text(VEZHA_VERSION).w(0xe800).text("01/01/2024").b(0).q(1 << 3)
                .b(0).b(0x14).b(0).b(1).b(0xff).b(0xff).w(0));
    Structure one(1, 0x100);
    one.text(system.manufacturer).text(system.product).text(system.version).text(system.serial);
    // The first three fields of the UUID are little-endian (7.2.1).
    static constexpr std::array<u8, 16> kOrder{3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
    for (u8 i : kOrder) one.b(system.uuid[i]);
    one.b(6).text("").text(system.family);  // woken by the power switch
    out.add(one);
    out.add(Structure(3, 0x300).text(system.manufacturer).b(1).text(system.version).text(system.serial).text("")
                .b(3).b(3).b(3).b(2).d(0).b(0).b(0).b(0).b(0).text(""));
    for (u32 i = 0; i < system.sockets; ++i) {
        const u32 cores = system.cores_per_socket, threads = cores * system.threads_per_core;
        out.add(Structure(4, static_cast<u16>(0x400 + i)).text("CPU " + std::to_string(i)).b(3).b(1).text(system.manufacturer)
                    .d(system.cpu_signature).d(system.cpu_features).text(system.cpu_name).b(0).w(0).w(system.cpu_mhz)
                    .w(system.cpu_mhz).b(0x41).b(1).w(0xffff).w(0xffff).w(0xffff).text("").text("").text("")
                    .b(std::min(cores, 255u)).b(std::min(cores, 255u)).b(std::min(threads, 255u)).w(0x04).w(1)
                    .w(cores).w(cores).w(threads));
    }
    const u64 total = system.low_ram + system.high_ram;
    constexpr u64 kModule = 16 * kGiB;
    const u16 modules = static_cast<u16>(std::clamp<u64>((total + kModule - 1) / kModule, 1, 256));
    const bool large = total / kKiB >= 0x8000'0000;
    out.add(Structure(16, 0x1000).b(1).b(3).b(6).d(large ? 0x8000'0000 : total / kKiB).w(0xfffe).w(modules)
                .q(large ? total : 0));
    u64 left = total;
    for (u16 i = 0; i < modules; ++i) {
        const u64 size = i + 1 == modules ? left : std::min(left, kModule);
        left -= size;
        const u64 mib = size / kMiB;
        out.add(Structure(17, static_cast<u16>(0x1100 + i)).w(0x1000).w(0xfffe).w(0xffff).w(0xffff)
                    .w(mib >= 0x7fff ? 0x7fff : mib).b(9).b(0).text("DIMM " + std::to_string(i)).text("").b(7).w(2).w(0)
                    .text(system.manufacturer).text("").text("").text("").b(0).d(mib >= 0x7fff ? mib : 0).w(0).w(0).w(0).w(0));
    }
    auto mapped = [&, n = u16{0}](u64 base, u64 size) mutable {
        if (!size) return;
        const u64 first = base / kKiB, last = (base + size - 1) / kKiB;
        const bool wide = last >= 0xffff'ffff;
        out.add(Structure(19, static_cast<u16>(0x1300 + n++)).d(wide ? 0xffff'ffff : first).d(wide ? 0xffff'ffff : last)
                    .w(0x1000).b(std::min<unsigned>(modules, 255)).q(wide ? base : 0).q(wide ? base + size - 1 : 0));
    };
    mapped(0, system.low_ram);
    mapped(0x1'0000'0000, system.high_ram);
    out.add(Structure(32, 0x2000).w(0).w(0).w(0).b(0));
    out.add(Structure(127, 0x7f00));
    return out;
}

Bytes entry64(u64 tables_at, const Built& built) {
    Bytes out{'_', 'S', 'M', '3', '_', 0, 24, 3, 0, 0, 1, 0};
    put(out, built.bytes.size(), 4);
    put(out, tables_at, 8);
    fix_checksum(out, 5, 0, out.size());
    return out;
}

Bytes entry32(u64 tables_at, const Built& built) {
    Bytes out{'_', 'S', 'M', '_', 0, 31, 2, 8};
    put(out, built.largest, 2);
    put(out, 0, 6);
    const usize middle = out.size();
    for (char c : std::string_view("_DMI_")) out.push_back(static_cast<u8>(c));
    out.push_back(0);
    put(out, built.bytes.size(), 2);
    put(out, tables_at, 4);
    put(out, built.count, 2);
    out.push_back(0x28);
    fix_checksum(out, middle + 5, middle, 15);
    fix_checksum(out, 4, 0, out.size());
    return out;
}
}  // namespace

Tables build(const System& system, u64 address) {
    CHECK(is_aligned(address, 16));
    const Built built = structures(system);
    Tables out{address, {}};
    const u64 tables_at = address + 64;
    out.image = entry64(tables_at, built);
    out.image.resize(32);
    // The older entry point counts to 64 KiB only.
    if (built.bytes.size() < 0x1'0000) {
        const Bytes old = entry32(tables_at, built);
        out.image.insert(out.image.end(), old.begin(), old.end());
    }
    out.image.resize(64);
    out.image.insert(out.image.end(), built.bytes.begin(), built.bytes.end());
    return out;
}

FirmwareFiles build_for_firmware(const System& system) {
    const Built built = structures(system);
    return {entry64(0, built), built.bytes};
}

}  // namespace vezha::machine::smbios
