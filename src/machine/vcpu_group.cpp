// SPDX-License-Identifier: Apache-2.0
#include "machine/vcpu_group.h"

#include <pthread.h>

namespace vezha::machine {

VcpuGroup::VcpuGroup(std::vector<std::unique_ptr<engine::Vcpu>> vcpus, Stopped stopped)
    : vcpus_(std::move(vcpus)), stopped_(std::move(stopped)) {}

VcpuGroup::~VcpuGroup() {
    {
        std::lock_guard lock(mutex_);
        wish_ = Wish::End;
        changed_.notify_all();
    }
    for (auto& vcpu : vcpus_) vcpu->kick();
    for (std::thread& thread : threads_) thread.join();
}

void VcpuGroup::start(const std::string& name) {
    for (u32 i = 0; i < size(); ++i) {
        threads_.emplace_back([this, i] { thread_main(i); });
        const std::string number = std::to_string(i);
        pthread_setname_np(threads_.back().native_handle(), (name.substr(0, 15 - number.size()) + number).c_str());
    }
}

void VcpuGroup::thread_main(u32 index) {
    engine::Vcpu& vcpu = *vcpus_[index];
    u64 stopped_in = ~u64{0};  // the generation in which this vCPU stopped by itself
    std::unique_lock lock(mutex_);
    for (;;) {
        changed_.wait(lock, [&] { return wish_ == Wish::End || (wish_ == Wish::Run && generation_ != stopped_in); });
        if (wish_ == Wish::End) return;
        const u64 generation = generation_;
        ++running_;
        lock.unlock();
        const engine::Exit exit = vcpu.run();
        lock.lock();
        --running_;
        if (exit != engine::Exit::Kicked) {
            stopped_in = generation;
            lock.unlock();
            stopped_(index, exit);
            lock.lock();
        }
        changed_.notify_all();
    }
}

void VcpuGroup::resume() {
    std::lock_guard lock(mutex_);
    wish_ = Wish::Run;
    ++generation_;
    changed_.notify_all();
}

void VcpuGroup::request_park() {
    {
        std::lock_guard lock(mutex_);
        if (wish_ == Wish::End) return;
        wish_ = Wish::Park;
    }
    for (auto& vcpu : vcpus_) vcpu->kick();
}

void VcpuGroup::park() {
    request_park();
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return running_ == 0; });
}

bool VcpuGroup::parked() const {
    std::lock_guard lock(mutex_);
    return wish_ != Wish::Run && running_ == 0;
}

}  // namespace vezha::machine
