// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "block/disk.h"

namespace vezha::machine {

/// What a virtual machine is doing. The names that people and QMP see are QEMU's RunState.
enum class RunState : u8 {
    Prelaunch,      ///< built, not started
    Running,
    Paused,         ///< by `stop`
    Shutdown,       ///< the guest is off, the process remains
    GuestPanicked,
    IoError,
    InternalError,  ///< the engine met something it cannot run
    Debug,
};

constexpr std::string_view name(RunState state) {
    switch (state) {
        case RunState::Prelaunch: return "prelaunch";
        case RunState::Running: return "running";
        case RunState::Paused: return "paused";
        case RunState::Shutdown: return "shutdown";
        case RunState::GuestPanicked: return "guest-panicked";
        case RunState::IoError: return "io-error";
        case RunState::InternalError: return "internal-error";
        case RunState::Debug: return "debug";
    }
    return "internal-error";
}

/// Why a machine stopped or was reset (QAPI ShutdownCause).
enum class ShutdownCause : u8 { HostError, HostQuit, HostReset, HostSignal, HostUi, GuestShutdown, GuestReset, GuestPanic };

constexpr std::string_view name(ShutdownCause cause) {
    switch (cause) {
        case ShutdownCause::HostError: return "host-error";
        case ShutdownCause::HostQuit: return "host-qmp-quit";
        case ShutdownCause::HostReset: return "host-qmp-system-reset";
        case ShutdownCause::HostSignal: return "host-signal";
        case ShutdownCause::HostUi: return "host-ui";
        case ShutdownCause::GuestShutdown: return "guest-shutdown";
        case ShutdownCause::GuestReset: return "guest-reset";
        case ShutdownCause::GuestPanic: return "guest-panic";
    }
    return "none";
}
constexpr bool caused_by_guest(ShutdownCause cause) { return cause >= ShutdownCause::GuestShutdown; }

/// Something that happened to the machine, for event listeners.
struct VmEvent {
    enum class Kind : u8 { Stop, Resume, Reset, Powerdown, Shutdown, GuestPanicked, BalloonChange };
    Kind kind;
    ShutdownCause cause = ShutdownCause::HostQuit;  ///< Reset and Shutdown
    std::string panic_action;                       ///< GuestPanicked: "pause", "poweroff", "run" or "shutdown"
    u64 balloon_actual = 0;                         ///< BalloonChange: bytes the guest has now
};

struct CpuInfo {
    u32 index = 0;
    i32 thread_id = 0;  ///< the host's thread
    u32 socket_id = 0, core_id = 0, smt_id = 0;
};

/// One disk as query-block and query-blockstats show it.
struct DiskInfo {
    std::string device;     ///< the name the user gave, "disk0"
    std::string qdev;       ///< path or id of the guest's device
    std::string node_name;
    std::string driver;     ///< "raw", "qcow2"
    std::string file;
    bool direct = false;    ///< cache=none
    bool no_flush = false;  ///< cache=unsafe
    u64 actual_size = 0;    ///< bytes that the host's file system holds; 0 if unknown
    block::Geometry geometry;
    block::Statistics statistics;
};

struct EngineInfo {
    std::string name;          ///< "kvm" or "dbt"
    bool kvm_present = false;  ///< the host offers a usable /dev/kvm
};

/// What a control channel can ask of a running machine. All calls and all events on the main loop; no call blocks for
/// long (stop() waits for the vCPUs to park).
class VmControl {
  public:
    virtual ~VmControl() = default;

    virtual std::string vm_name() const = 0;
    virtual std::string uuid() const = 0;
    virtual RunState run_state() const = 0;
    virtual EngineInfo engine() const = 0;
    virtual std::vector<CpuInfo> cpus() const = 0;
    virtual std::vector<DiskInfo> disks() const = 0;
    virtual u64 memory_size() const = 0;  ///< bytes

    /// Bytes the guest has now. Unsupported: there is no balloon; Busy: its driver is not ready.
    virtual Result<u64> balloon_actual() const = 0;
    /// Asks the guest to go to `bytes`; returns at once, BalloonChange tells the progress.
    virtual Result<> set_balloon_target(u64 bytes) = 0;

    virtual Result<> stop() = 0;
    virtual Result<> cont() = 0;
    virtual Result<> system_powerdown() = 0;  ///< presses the power button
    virtual Result<> system_reset() = 0;
    virtual Result<> inject_nmi() = 0;
    /// Ends the process soon, without asking the guest.
    virtual void quit(ShutdownCause cause) = 0;

    /// Adds a listener. The returned token keeps it; destroy it to stop listening.
    using Listener = std::function<void(const VmEvent&)>;
    [[nodiscard]] virtual std::shared_ptr<void> subscribe(Listener listener) = 0;
};

}  // namespace vezha::machine
