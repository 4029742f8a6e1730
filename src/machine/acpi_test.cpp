// SPDX-License-Identifier: Apache-2.0
#include "machine/acpi.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <numeric>
#include <span>

namespace vezha::machine::acpi {
namespace {

u8 sum(std::span<const u8> bytes) {
    return static_cast<u8>(std::accumulate(bytes.begin(), bytes.end(), 0u));
}
template <class T>
T get(std::span<const u8> bytes, usize at) {
    T value;
    std::memcpy(&value, bytes.data() + at, sizeof value);
    return value;
}

Board large() {
    Board board;
    board.apic_ids.resize(300);
    std::iota(board.apic_ids.begin(), board.apic_ids.end(), 0);
    board.pci64_base = 64 * kGiB;
    return board;
}

TEST(Acpi, ChainsFromTheRootPointerToEveryTable) {
    for (const Board& board : {Board{}, large()}) {
        const Tables t = build(board);
        EXPECT_EQ(std::memcmp(t.rsdp.data(), "RSD PTR ", 8), 0);
        EXPECT_EQ(sum(std::span(t.rsdp).first(20)), 0);
        EXPECT_EQ(sum(t.rsdp), 0);
        for (const auto& part : t.parts) {
            if (part.signature == "FACS") {
                EXPECT_EQ((t.tables_address + part.offset) % 64, 0u);
                continue;
            }
            const auto table = std::span(t.tables).subspan(part.offset, part.size);
            EXPECT_EQ(sum(table), 0) << part.signature;
            EXPECT_EQ(get<u32>(table, 4), part.size);
        }
        const u64 xsdt = get<u64>(t.rsdp, 24) - t.tables_address;
        EXPECT_EQ(std::memcmp(&t.tables[xsdt], "XSDT", 4), 0);
        std::string seen;
        for (u32 at = 36; at < get<u32>(t.tables, xsdt + 4); at += 8)
            seen.append(reinterpret_cast<const char*>(&t.tables[get<u64>(t.tables, xsdt + at) - t.tables_address]), 4);
        EXPECT_EQ(seen, "FACPAPICHPETMCFGWAETSPCR");
        EXPECT_LT(t.tables.size() + 64, 0x1'0000u);
    }
}

TEST(Acpi, LoaderScriptGivesTheSameTables) {
    // Does what firmware does, at the addresses of build(), and compares.
    const Tables direct = build(large());
    FirmwareFiles files = build_for_firmware(large());
    ASSERT_EQ(files.loader.size() % 128, 0u);
    for (usize at = 0; at < files.loader.size(); at += 128) {
        const u8* entry = &files.loader[at];
        const u32 command = get<u32>(files.loader, at);
        auto& file = std::string_view(reinterpret_cast<const char*>(entry + 4)) == "etc/acpi/rsdp" ? files.rsdp : files.tables;
        if (command == 2) {
            const u32 offset = get<u32>(files.loader, at + 116);
            u64 value = 0;
            std::memcpy(&value, &file[offset], entry[120]);
            value += direct.tables_address;
            std::memcpy(&file[offset], &value, entry[120]);
        } else if (command == 3) {
            const u32 offset = get<u32>(files.loader, at + 60), start = get<u32>(files.loader, at + 64),
                      length = get<u32>(files.loader, at + 68);
            file[offset] = 0;
            file[offset] = static_cast<u8>(-sum(std::span(file).subspan(start, length)));
        } else {
            EXPECT_EQ(command, 1u);
        }
    }
    EXPECT_EQ(files.rsdp, direct.rsdp);
    EXPECT_EQ(files.tables, direct.tables);
}

TEST(Acpi, CompilerReadsAndRewritesEveryTable) {
    if (std::system("command -v iasl >/dev/null 2>&1") != 0) GTEST_SKIP() << "iasl (acpica-tools) is not installed";
    char folder[] = "/tmp/vezha-acpi-XXXXXX";
    ASSERT_NE(mkdtemp(folder), nullptr);
    const Tables t = build(large());
    for (const auto& part : t.parts) {
        if (part.signature == "RSDT" || part.signature == "XSDT") continue;  // the compiler has no use for them
        const std::string base = std::string(folder) + "/" + part.signature;
        std::ofstream(base + ".aml", std::ios::binary)
            .write(reinterpret_cast<const char*>(&t.tables[part.offset]), part.size);
        const std::string log = base + ".log";
        ASSERT_EQ(std::system(("cd " + std::string(folder) + " && iasl -d " + part.signature + ".aml >" + log + " 2>&1").c_str()), 0)
            << part.signature;
        ASSERT_EQ(std::system(("cd " + std::string(folder) + " && iasl -p again " + part.signature + ".dsl >>" + log + " 2>&1").c_str()), 0)
            << part.signature;
        std::ifstream in(log);
        const std::string text((std::istreambuf_iterator<char>(in)), {});
        EXPECT_EQ(text.find("Invalid"), std::string::npos) << text;
        EXPECT_EQ(text.find("ERROR"), std::string::npos) << text;
        EXPECT_EQ(text.find("Error  "), std::string::npos) << text;
        EXPECT_EQ(text.find("Warning  "), std::string::npos) << text;
    }
    EXPECT_EQ(std::system(("rm -r " + std::string(folder)).c_str()), 0);
}

}  // namespace
}  // namespace vezha::machine::acpi
