// SPDX-License-Identifier: Apache-2.0
// A VM's description: TOML as `vezha run FILE` reads it, or JSON if the first byte is odd. What is accepted must survive
// the way through JSON.
#include "machine/config/vm_config.h"

static std::string g_text;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace vezha;
    if (size < 1) return 0;
    g_text.assign(reinterpret_cast<const char*>(data + 1), size - 1);
    if (data[0] & 1) {
        (void)machine::config_from_json(g_text);
        return 0;
    }
    const std::string arguments[] = {"vm.toml"};
    auto flags = machine::parse_flags(arguments, [](const std::string&) -> Result<std::string> { return g_text; });
    if (!flags || !machine::validate(flags->config)) return 0;
    if (!machine::config_from_json(machine::config_to_json(flags->config))) __builtin_trap();
    return 0;
}
