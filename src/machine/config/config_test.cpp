// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include "machine/config/vm_config.h"

namespace vezha::machine {
namespace {
using ::testing::HasSubstr;
using ::testing::Not;

std::string g_file;
Result<std::string> file_text(const std::string&) { return g_file; }

Result<VmConfig> from_flags(std::vector<std::string> flags, std::string file = "") {
    g_file = std::move(file);
    auto parsed = parse_flags(flags, file_text);
    if (!parsed) return Failure(parsed.error());
    apply_defaults(parsed->config);
    if (auto valid = validate(parsed->config); !valid) return Failure(valid.error());
    return parsed->config;
}
std::string error_of(std::vector<std::string> flags, std::string file = "") {
    auto config = from_flags(std::move(flags), std::move(file));
    return config ? "no error" : config.error().to_string();
}

TEST(Config, DefaultsAreRight) {
    auto config = from_flags({"--kernel", "k"});
    ASSERT_TRUE(config) << config.error().to_string();
    EXPECT_EQ(config->cpus, 2u);
    EXPECT_GE(config->memory.bytes, 64 * kMiB);
    EXPECT_LE(config->memory.bytes, 2 * kGiB);
    ASSERT_EQ(config->nets.size(), 1u);
    EXPECT_EQ(config->nets[0].type, NetKind::User);
    EXPECT_EQ(config->nets[0].mac, generated_mac("vm", 0));
    EXPECT_EQ(config->serials, std::vector<std::string>{"stdio"});
}

TEST(Config, FlagsWinOverTheFile) {
    const char* file = R"(
memory = "1G"
cpus = 3
kernel = "from-file"
append = "quiet"
[[disk]]
path = "a.img"
readonly = true
[[disk]]
path = "b.img"
cache = "none"
[[net]]
type = "tap"
name = "tap0"
mac = "52:54:00:00:00:01"
)";
    auto config = from_flags({"web.toml", "--kernel=from-flag", "--cpus", "5"}, file);
    ASSERT_TRUE(config) << config.error().to_string();
    EXPECT_EQ(config->name, "web");
    EXPECT_EQ(config->kernel, "from-flag");
    EXPECT_EQ(config->cpus, 5u);
    EXPECT_EQ(config->memory.bytes, kGiB);
    ASSERT_EQ(config->disks.size(), 2u);
    EXPECT_TRUE(config->disks[0].readonly);
    EXPECT_EQ(config->disks[1].cache, DiskCache::None);
    EXPECT_EQ(config->nets[0].name, "tap0");
}

TEST(Config, DiskAndNetNotations) {
    auto config = from_flags({"--kernel", "k", "--disk", "odd,,name.img,readonly=on,serial=abc", "--disk",
                              "path=b.img,queues=4", "--net", "user,mac=52:54:00:aa:bb:cc", "--net",
                              "socket,listen=/tmp/w", "--share-port", "2222:22", "--share-port", "0.0.0.0:5353:53/udp"});
    ASSERT_TRUE(config) << config.error().to_string();
    EXPECT_EQ(config->disks[0].path, "odd,name.img");
    EXPECT_EQ(config->disks[0].serial, "abc");
    EXPECT_EQ(config->disks[1].queues, 4u);
    EXPECT_EQ(config->nets[0].mac->to_string(), "52:54:00:aa:bb:cc");
    ASSERT_EQ(config->share_ports.size(), 2u);
    EXPECT_EQ(config->share_ports[0].host_port, 2222);
    EXPECT_EQ(config->share_ports[1].host_address, "0.0.0.0");
    EXPECT_TRUE(config->share_ports[1].udp);
}

TEST(Config, SurvivesTheWayThroughJson) {
    auto config = from_flags({"--kernel", "k", "--disk", "a.img,cache=none", "--net", "tap,fd=7", "--share-port", "1:2/udp", "--net",
                              "user", "--memory", "768M", "--engine", "dbt", "--console", "agent=unix:/tmp/x"});
    ASSERT_TRUE(config) << config.error().to_string();
    auto again = config_from_json(config_to_json(*config));
    ASSERT_TRUE(again) << again.error().to_string();
    EXPECT_EQ(config_to_json(*again), config_to_json(*config));
    EXPECT_EQ(again->nets[0].fd, 7);
    EXPECT_EQ(again->memory.bytes, 768 * kMiB);
    EXPECT_TRUE(again->share_ports[0].udp);
}

TEST(Config, ErrorsNameThePlaceTheValueAndTheRemedy) {
    EXPECT_THAT(error_of({"vm.toml"}, "kernel = \"k\"\nmemroy = \"2G\"\n"),
                ::testing::AllOf(HasSubstr("vm.toml:2"), HasSubstr("'memroy'"), HasSubstr("did you mean 'memory'?")));
    EXPECT_THAT(error_of({"vm.toml"}, "kernel = \"k\"\n[[disk]]\npath = \"a\"\nchache = \"none\"\n"),
                ::testing::AllOf(HasSubstr("vm.toml:4"), HasSubstr("did you mean 'cache'?")));
    EXPECT_THAT(error_of({"vm.toml"}, "kernel = \n"), HasSubstr("vm.toml:1"));
    EXPECT_THAT(error_of({"--kernel", "k", "--memroy", "2G"}), HasSubstr("did you mean '--memory'?"));
    EXPECT_THAT(error_of({"--kernel", "k", "--memory", "2X"}), ::testing::AllOf(HasSubstr("--memory"), HasSubstr("'2X'"), HasSubstr("512M")));
    EXPECT_THAT(error_of({"--kernel", "k", "--memory", "2"}), HasSubstr("with its unit"));
    EXPECT_THAT(error_of({"--kernel", "k", "--cpus", "0"}), HasSubstr("cpus = 0"));
    EXPECT_THAT(error_of({"--kernel", "k", "--engine", "tcg"}), HasSubstr("auto, kvm, dbt"));
    EXPECT_THAT(error_of({"--kernel"}), HasSubstr("needs a value"));
    EXPECT_THAT(error_of({}), HasSubstr("--kernel"));
    EXPECT_THAT(error_of({"--kernel", "k", "--net", "user,mac=52:54:00:00:00:01", "--net", "user,mac=52:54:00:00:00:01"}),
                HasSubstr("same mac '52:54:00:00:00:01'"));
    EXPECT_THAT(error_of({"--kernel", "k", "--net", "tap"}), HasSubstr("--net tap,name=tap0"));
    EXPECT_THAT(error_of({"--kernel", "k", "--disk", "a", "--disk", "a"}), HasSubstr("attached twice"));
    EXPECT_THAT(error_of({"--kernel", "k", "--serial", "stdio", "--serial", "stdio"}), HasSubstr("used twice"));
    EXPECT_THAT(error_of({"--kernel", "k", "--serial", "tty"}), HasSubstr("use stdio"));
    EXPECT_THAT(error_of({"--kernel", "k", "--share-port", "22"}), HasSubstr("2222:22"));
}

TEST(Config, HelpSpeaksOfEveryFlag) {
    const std::string page = run_help();
    for (const auto& row : VmConfig::fields()) {
        std::string flag = "--" + std::string(row.name);
        std::replace(flag.begin(), flag.end(), '_', '-');
        EXPECT_THAT(page, HasSubstr(flag));
    }
}

TEST(Config, SizesAreReadExactly) {
    EXPECT_EQ(parse_size("4096")->bytes, 4096u);
    EXPECT_EQ(parse_size("2G")->bytes, 2 * kGiB);
    EXPECT_EQ(parse_size("3MiB")->bytes, 3 * kMiB);
    EXPECT_FALSE(parse_size(""));
    EXPECT_FALSE(parse_size("-1G"));
    EXPECT_FALSE(parse_size("99999999999999T"));
    EXPECT_FALSE(parse_size("1.5G"));
}

TEST(Config, CharactersBeyondAsciiBelongInQuotes) {
    const std::string file = "# комментар\nname = \"вежа\"\nkernel = 'k\xc3\xa9'\n";
    ASSERT_THAT(error_of({"f.toml"}, file + "append = \"\"\"\nd\xc3\xa9j\xc3\xa0 \\\"\n\"\"\"\n"), Not(HasSubstr("ASCII")));
    EXPECT_THAT(error_of({"f.toml"}, file + "cpus\xef\xbb\x92 = 2"), HasSubstr("f.toml:4: a character beyond ASCII"));
}

}  // namespace
}  // namespace vezha::machine
