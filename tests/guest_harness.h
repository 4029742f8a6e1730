// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/event_loop.h"
#include "engine/engine.h"

/// A small machine for test guests (tests/guests/runtime.h): RAM, a debug and an exit port, a scratch device.
namespace vezha::test {

/// Engines compiled in, by name.
std::vector<std::string> engine_names();
/// Why this host cannot run the engine at all (no /dev/kvm), or success.
Result<> engine_available(const std::string& engine);
/// Why guests may fail on this host's engine for no fault of ours (KVM without hardware), or success. Runs once.
const Result<>& engine_trusted(const std::string& engine);

struct GuestOptions {
    u32 vcpus = 1;
    std::string cpu = "host";
    u64 ram = 16 * kMiB;
    u64 timeout_ms = 20'000;
    u32 argument = 20'000;  ///< for the guest, at 0x7ff0
};

enum class Outcome : u8 { Exited, Shutdown, EngineError, TimedOut, Paused };

struct GuestResult {
    Outcome outcome = Outcome::TimedOut;
    u32 code = 0;        ///< written to the exit port: 0 passed, else a line of the guest
    std::string output;  ///< debug port
    std::string error;   ///< of the engine
    std::string describe() const;
};

class TestDevice;

class GuestMachine {
  public:
    /// @param image flat binary for 0x8000, entered there in real mode
    static Result<std::unique_ptr<GuestMachine>> create(const std::string& engine, std::span<const u8> image,
                                                        const GuestOptions& options = {});
    ~GuestMachine();

    /// Runs until the guest ends, or `pause_after_us` have passed (then Outcome::Paused). Callable again after a pause.
    GuestResult run(std::optional<u64> pause_after_us = std::nullopt);
    engine::Vm& vm() { return *vm_; }
    engine::Vcpu& vcpu(u32 index) { return *vcpus_[index]; }
    memory::GuestMemory& memory() { return *memory_; }
    bus::Bus& bus() { return *bus_; }
    /// Copies RAM, the processors' state and the output so far from a paused machine.
    Result<> adopt(GuestMachine& other);

  private:
    friend class TestDevice;
    GuestMachine() = default;
    void finish(u32 vcpu, Outcome outcome, u32 code, std::string error);
    void kick_all();

    GuestOptions options_;
    std::unique_ptr<LoopThread> loop_;
    std::unique_ptr<bus::GuestClock> clock_;
    std::unique_ptr<memory::GuestMemory> memory_;
    std::unique_ptr<bus::Bus> bus_;
    std::unique_ptr<TestDevice> device_;
    std::unique_ptr<engine::Vm> vm_;
    std::vector<std::unique_ptr<engine::Vcpu>> vcpus_;

    std::mutex mutex_;
    std::condition_variable changed_;
    bool stopping_ = false;
    bool finished_ = false;
    GuestResult result_;
};

/// Reads build/guests/<name>.bin.
Result<std::vector<u8>> guest_image(const std::string& name);

}  // namespace vezha::test
