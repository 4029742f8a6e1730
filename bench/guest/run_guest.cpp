// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "guest_harness.h"

/// run_guest NAME [ENGINE [ARGUMENT [VCPUS]]]: one test guest, its output and the engine's counters as JSON.
int main(int argc, char** argv) {
    using namespace vezha;
    if (argc < 2) {
        std::fprintf(stderr, "usage: run_guest NAME [kvm|dbt [ARGUMENT [VCPUS]]]\n");
        return 2;
    }
    test::GuestOptions options;
    const std::string engine = argc > 2 ? argv[2] : "kvm";
    if (argc > 3) options.argument = static_cast<u32>(std::strtoul(argv[3], nullptr, 0));
    if (argc > 4) options.vcpus = static_cast<u32>(std::strtoul(argv[4], nullptr, 0));
    options.timeout_ms = 120'000;
    auto image = test::guest_image(argv[1]);
    if (!image) {
        std::fprintf(stderr, "%s\n", image.error().to_string().c_str());
        return 1;
    }
    auto machine = test::GuestMachine::create(engine, *image, options);
    if (!machine) {
        std::fprintf(stderr, "%s\n", machine.error().to_string().c_str());
        return 1;
    }
    const test::GuestResult result = (*machine)->run();
    const bool passed = result.outcome == test::Outcome::Exited && result.code == 0;
    if (!passed) std::fprintf(stderr, "%s\n", result.describe().c_str());
    std::printf("{\"passed\": %s, \"tsc_hz\": %llu, \"output\": \"", passed ? "true" : "false",
                static_cast<unsigned long long>((*machine)->vm().capabilities().tsc_hz));
    for (char c : result.output) {
        if (c == '\n') std::printf("\\n");
        else if (c >= ' ' && c < 127 && c != '"' && c != '\\') std::putchar(c);
    }
    std::printf("\", \"statistics\": {");
    const char* separator = "";
    for (const auto& [name, value] : (*machine)->vm().statistics()) {
        std::printf("%s\"%s\": %llu", separator, name.c_str(), static_cast<unsigned long long>(value));
        separator = ", ";
    }
    std::printf("}}\n");
    return passed ? 0 : 1;
}
