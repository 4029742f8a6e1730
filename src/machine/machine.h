// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <list>

#include "base/event_loop.h"
#include "machine/board.h"
#include "machine/boot_source.h"
#include "machine/cards.h"
#include "machine/config/vm_config.h"
#include "machine/engine_choice.h"
#include "machine/vcpu_group.h"
#include "machine/vm_control.h"

namespace vezha::machine {

/// How the process ends; see `vezha run --help`.
enum class ExitCode : int { Ok = 0, Host = 1, Usage = 2, Crashed = 3, Engine = 4 };

/// One virtual machine: memory, engine, board and cards wired from a configuration, its processors' threads, and what can
/// be done to it as a whole. Everything public on the main loop's thread.
class Machine final : public VmControl, private devices::platform::PlatformEvents {
  public:
    struct Host {
        EventLoop& loop;                       ///< the main loop; outlives the machine
        std::function<void(int status)> exit;  ///< called once, on the main loop: the process should end
    };
    /// Builds everything; nothing runs yet. @param config complete and validated
    static Result<std::unique_ptr<Machine>> create(const VmConfig& config, Host host);
    ~Machine() override;

    /// Lets the processors go, unless the configuration says to wait.
    Result<> start();

    /// One line about the engine for the user; may be empty.
    const std::string& engine_line() const { return engine_line_; }
    engine::Vm& vm() { return *vm_; }

    std::string vm_name() const override { return config_.name; }
    std::string uuid() const override;
    RunState run_state() const override { return state_; }
    EngineInfo engine() const override { return {vm_->capabilities().name, kvm_present_}; }
    std::vector<CpuInfo> cpus() const override;
    std::vector<DiskInfo> disks() const override { return cards_->disks(); }
    u64 memory_size() const override { return config_.memory.bytes; }
    Result<u64> balloon_actual() const override { return cards_->balloon_actual(); }
    Result<> set_balloon_target(u64 bytes) override { return cards_->set_balloon_target(bytes); }
    Result<> stop() override;
    Result<> cont() override;
    Result<> system_powerdown() override;
    Result<> system_reset() override;
    Result<> inject_nmi() override;
    void quit(ShutdownCause cause) override;
    std::shared_ptr<void> subscribe(Listener listener) override;

  private:
    Machine(VmConfig config, Host host);
    Result<> build();
    Result<> build_consoles();
    /// Writes kernel, tables and first processor states: at power-on and after every reset.
    Result<> load_boot();
    std::vector<boot::MapEntry> memory_map() const;

    void pause_all();
    void resume_all();
    void reset(ShutdownCause cause);
    void finish(ShutdownCause cause, int status);
    void emit(const VmEvent& event);

    // On vCPU threads.
    void vcpu_stopped(u32 index, engine::Exit exit);
    void guest_wants(std::function<void()> action);
    void shutdown() override;
    void reset() override;
    void panicked(bool crash_loaded) override;
    void debug_exit(u8 status) override;

    const VmConfig config_;
    const Host host_;
    memory::GuestMemory memory_;
    bus::Bus bus_;
    bus::GuestClock clock_;
    std::unique_ptr<BootSource> boot_;
    devices::platform::Pic pic_;
    std::unique_ptr<engine::Vm> vm_;
    std::string engine_line_;
    bool kvm_present_ = false;
    x86::CpuModel model_;
    std::vector<std::unique_ptr<chardev::Chardev>> serials_, consoles_;
    std::unique_ptr<Board> board_;
    std::atomic<Board*> board_for_eoi_{nullptr};
    std::unique_ptr<Cards> cards_;
    std::unique_ptr<VcpuGroup> vcpus_;

    RunState state_ = RunState::Prelaunch;
    bool finished_ = false;
    std::atomic<bool> wish_pending_{false};  ///< a vCPU asked for reset or power-off; not served yet
    std::shared_ptr<char> alive_ = std::make_shared<char>();
    std::list<std::pair<u64, Listener>> listeners_;
    u64 next_listener_ = 0;
};

}  // namespace vezha::machine
