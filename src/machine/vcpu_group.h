// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine.h"

namespace vezha::machine {

/// The threads that run a machine's virtual processors, and how they are brought to a standstill. Threads start parked.
class VcpuGroup {
  public:
    /// @param stopped called on a vCPU's thread when run() came back for anything but a kick; that vCPU then waits for
    /// the next resume()
    using Stopped = std::function<void(u32 index, engine::Exit exit)>;
    VcpuGroup(std::vector<std::unique_ptr<engine::Vcpu>> vcpus, Stopped stopped);
    /// Parks and ends the threads.
    ~VcpuGroup();
    VcpuGroup(const VcpuGroup&) = delete;
    VcpuGroup& operator=(const VcpuGroup&) = delete;

    /// Starts the threads, parked. @param name of a thread: "NAME" and the vCPU's number are added, 15 characters in all
    void start(const std::string& name);

    void resume();
    /// Asks all to stop at once and does not wait; for a vCPU's own thread. Undone by resume() alone.
    void request_park();
    /// Returns when no vCPU runs guest code. Not on a vCPU's thread.
    void park();
    bool parked() const;

    u32 size() const { return static_cast<u32>(vcpus_.size()); }
    engine::Vcpu& vcpu(u32 index) { return *vcpus_[index]; }
    const engine::Vcpu& vcpu(u32 index) const { return *vcpus_[index]; }

  private:
    enum class Wish : u8 { Park, Run, End };
    void thread_main(u32 index);

    std::vector<std::unique_ptr<engine::Vcpu>> vcpus_;
    Stopped stopped_;
    std::vector<std::thread> threads_;
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    Wish wish_ = Wish::Park;  // guarded by mutex_, as is what follows
    u64 generation_ = 0;      // of resume()
    u32 running_ = 0;         // threads inside run()
};

}  // namespace vezha::machine
