// SPDX-License-Identifier: Apache-2.0
// What a QMP client sends, in portions of the size that the first byte says.
#include "control/qmp_session.h"

namespace {
using namespace vezha;

class Vm final : public machine::VmControl {
  public:
    std::string vm_name() const override { return "fuzz"; }
    std::string uuid() const override { return "00000000-0000-0000-0000-000000000000"; }
    machine::RunState run_state() const override { return machine::RunState::Running; }
    machine::EngineInfo engine() const override { return {"dbt", false}; }
    std::vector<machine::CpuInfo> cpus() const override { return {{}}; }
    std::vector<machine::DiskInfo> disks() const override { return {{}}; }
    u64 memory_size() const override { return kGiB; }
    Result<u64> balloon_actual() const override { return kGiB; }
    Result<> set_balloon_target(u64) override { return {}; }
    Result<> stop() override { return {}; }
    Result<> cont() override { return {}; }
    Result<> system_powerdown() override { return {}; }
    Result<> system_reset() override { return {}; }
    Result<> inject_nmi() override { return {}; }
    void quit(machine::ShutdownCause) override {}
    std::shared_ptr<void> subscribe(Listener) override { return {}; }
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 1) return 0;
    Vm vm;
    control::QmpSession session(vm, [](std::string line) {
        if (line.empty() || line.front() != '{' || line.find('\n') != std::string::npos) __builtin_trap();
    });
    session.greet();
    session.receive("{\"execute\":\"qmp_capabilities\"}");
    const usize portion = data[0] ? data[0] : size;
    std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
    for (; !text.empty(); text.remove_prefix(std::min(portion, text.size()))) session.receive(text.substr(0, portion));
    return 0;
}
