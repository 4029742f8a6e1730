// SPDX-License-Identifier: Apache-2.0
#include "guest_harness.h"

#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <cstring>

#include "arch/x86/registers.h"
#include "engine/dbt/dbt_engine.h"
#include "engine/kvm/kvm_engine.h"

namespace vezha::test {

std::vector<std::string> engine_names() {
    return {"kvm", "dbt"};
}

namespace {

Result<std::unique_ptr<engine::Vm>> create_engine(const std::string& name, const engine::VmWiring& wiring) {
    if (name == "kvm") return engine::kvm::create(wiring);
    if (name == "dbt") return engine::dbt::create(wiring);
    return fail(ErrorCode::NotFound, "no engine '{}'", name);
}

constexpr u64 kImageBase = 0x8000, kArgument = 0x7ff0;

/// The PIC as the processor sees it, with one request at a time per vector.
class PicStub final : public bus::ExtIntSource {
  public:
    bool pending() override { return vector_.load() >= 0; }
    u8 acknowledge() override {
        const int vector = vector_.exchange(-1);
        return static_cast<u8>(vector < 0 ? 0x27 : vector);
    }
    void request(u8 vector) { vector_.store(vector); }
    void take_from(const PicStub& other) { vector_.store(other.vector_.load()); }

  private:
    std::atomic<int> vector_{-1};
};

}  // namespace

/// See runtime.h for the registers.
class TestDevice final : public bus::Device {
  public:
    enum Range : u32 { kDebug, kExit, kScratchPorts, kMmio };

    explicit TestDevice(GuestMachine& machine) : machine_(machine) {}
    ~TestDevice() override { join(); }

    Result<> map() {
        bus::Bus& bus = *machine_.bus_;
        mappings_.push_back(TRY(bus.map(bus::Space::Pio, 0xe9, 1, *this, kDebug, "debug")));
        mappings_.push_back(TRY(bus.map(bus::Space::Pio, 0xf4, 4, *this, kExit, "exit")));
        mappings_.push_back(TRY(bus.map(bus::Space::Pio, 0x200, 16, *this, kScratchPorts, "scratch ports")));
        mappings_.push_back(TRY(bus.map(bus::Space::Mmio, 0xd000'0000, 0x1000, *this, kMmio, "scratch")));
        mappings_.push_back(TRY(bus.map(bus::Space::Mmio, 0xfed0'0000, 0x400, *this, kMmio, "timer's place")));
        bell_event_.emplace(TRY(EventFd::create()));
        bell_ = bus.add_doorbell({bus::Space::Mmio, 0xd000'0148, 4, std::nullopt, bell_event_->fd()});
        return {};
    }
    /// Threads started on the guest's behalf.
    void join() {
        for (auto& thread : threads_) thread.join();
        threads_.clear();
    }
    void release_routes() { route_.reset(); }

    u64 read(u32 range, u64 offset, unsigned size) override {
        switch (range) {
            case kDebug: return 0xe9;
            case kScratchPorts:
                if (offset < 8) return scratch(ports_, offset, size);
                if (offset == 8) return counter_bytes(size);
                if (offset == 9) return std::exchange(sum_, u8{0});
                return ~u64{0};
            case kMmio: break;
            default: return ~u64{0};
        }
        if (offset < 0x100) {
            last_size_ = size;
            ++accesses_;
            return scratch(bytes_, offset, size);
        }
        switch (offset) {
            case 0x100: return last_size_;
            case 0x108: return accesses_;
            case 0x140: return eois_.load();
            case 0x150: {
                u64 value = 0;
                if (::read(bell_event_->fd(), &value, sizeof value) == sizeof value) rings_ += value;
                return rings_;
            }
            default: return 0;
        }
    }

    void write(u32 range, u64 offset, unsigned size, u64 value) override {
        switch (range) {
            case kDebug: machine_.result_.output += static_cast<char>(value); return;
            case kExit: machine_.finish(0, Outcome::Exited, static_cast<u32>(value), {}); return;
            case kScratchPorts:
                if (offset < 8) std::memcpy(ports_ + offset, &value, std::min<usize>(size, 8 - offset));
                else if (offset == 9) sum_ = static_cast<u8>(sum_ + value);
                return;
            default: break;
        }
        if (offset < 0x100) {
            last_size_ = size;
            ++accesses_;
            std::memcpy(bytes_ + offset, &value, std::min<usize>(size, sizeof bytes_ - offset));
            return;
        }
        engine::Vm& vm = *machine_.vm_;
        switch (offset) {
            case 0x108: accesses_ = 0; break;
            case 0x110: msi_address_ = value; break;
            case 0x118: vm.msi().send({msi_address_, static_cast<u32>(value)}); break;
            case 0x120: later([this, &vm, value] { vm.msi().send({msi_address_, static_cast<u32>(value)}); }); break;
            case 0x128:
                pic.request(static_cast<u8>(value));
                vm.ext_int_changed();
                break;
            case 0x130: machine_.vcpus_[0]->nmi(); break;
            case 0x138: {
                level_vector_ = static_cast<u8>(value);
                // What an IOAPIC sends for a level-triggered entry: fixed, physical, trigger mode level, asserted.
                const bus::MsiMessage message{x86::lapic::kDefaultBase, static_cast<u32>(value & 0xff) | 0xc000};
                vm.set_ioapic_route(5, message, true, false);
                vm.msi().send(message);
                break;
            }
            case 0x158:
                if (!route_) {
                    auto route = vm.msi().new_route();
                    if (!route) break;
                    route_ = *std::move(route);
                }
                route_->set({msi_address_, static_cast<u32>(value)});
                if (const int fd = route_->event_fd(); fd >= 0) {
                    const u64 one = 1;
                    [[maybe_unused]] ssize_t ignored = ::write(fd, &one, sizeof one);
                } else {
                    route_->trigger();
                }
                break;
            case 0x160: later([this] { machine_.vcpus_[0]->nmi(); }); break;
            default: break;
        }
    }

    void eoi(u8 vector) {
        if (vector == level_vector_) ++eois_;
    }
    void take_from(const TestDevice& other) {
        std::memcpy(bytes_, other.bytes_, sizeof bytes_);
        std::memcpy(ports_, other.ports_, sizeof ports_);
        pic.take_from(other.pic);
        msi_address_ = other.msi_address_;
    }

    PicStub pic;

  private:
    static u64 scratch(const u8* bytes, u64 offset, unsigned size) {
        u64 value = 0;
        std::memcpy(&value, bytes + offset, size);
        return value;
    }
    u64 counter_bytes(unsigned size) {
        u64 value = 0;
        for (unsigned i = 0; i < size; ++i) value |= u64{counter_++} << (8 * i);
        return value;
    }
    template <class Action>
    void later(Action action) {
        threads_.emplace_back([action] {
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
            action();
        });
    }

    GuestMachine& machine_;
    std::vector<std::unique_ptr<bus::Bus::Mapping>> mappings_;
    std::optional<EventFd> bell_event_;
    std::unique_ptr<bus::Bus::DoorbellHandle> bell_;
    std::unique_ptr<bus::MsiRoute> route_;
    std::vector<std::thread> threads_;
    u8 bytes_[0x108] = {}, ports_[16] = {};
    u8 counter_ = 0, sum_ = 0;
    u64 last_size_ = 0, accesses_ = 0, msi_address_ = x86::lapic::kDefaultBase, rings_ = 0;
    u8 level_vector_ = 0;
    std::atomic<u64> eois_{0};
};

Result<> engine_available(const std::string& engine) {
    if (engine == "kvm") {
        auto caps = engine::kvm::probe();
        if (!caps) return Failure(caps.error());
    }
    return {};
}

const Result<>& engine_trusted(const std::string& engine) {
    static const Result<> always{};
    if (engine != "kvm") return always;
    static const Result<> kvm = engine::kvm::self_test();
    return kvm;
}

std::string GuestResult::describe() const {
    static constexpr const char* kNames[] = {"exited", "triple fault", "engine error", "timed out", "paused"};
    std::string text = kNames[static_cast<usize>(outcome)];
    if (outcome == Outcome::Exited && code >= 0x10000) text += fmt::format(", unexpected exception {}", code - 0x10000);
    else if (outcome == Outcome::Exited && code) text += fmt::format(", check at line {} failed", code);
    if (!error.empty()) text += ": " + error;
    if (!output.empty()) text += "\n  output: " + output;
    return text;
}

Result<std::vector<u8>> guest_image(const std::string& name) {
    const std::string text = TRY(read_file(std::string(VEZHA_GUEST_DIR) + "/" + name + ".bin"));
    return std::vector<u8>(text.begin(), text.end());
}

Result<std::unique_ptr<GuestMachine>> GuestMachine::create(const std::string& engine, std::span<const u8> image,
                                                           const GuestOptions& options) {
    std::unique_ptr<GuestMachine> m(new GuestMachine);
    m->options_ = options;
    m->loop_ = TRY(LoopThread::start("test-loop"));
    m->clock_ = std::make_unique<bus::GuestClock>(m->loop_->loop());
    m->memory_ = std::make_unique<memory::GuestMemory>(memory::GuestMemory::Options{.huge_pages = false});
    TRY(m->memory_->add_region("ram", {0}, options.ram));
    TRY(m->memory_->load({kImageBase}, image));
    TRY(m->memory_->write_object({kArgument}, options.argument));
    m->bus_ = std::make_unique<bus::Bus>();
    m->device_ = std::make_unique<TestDevice>(*m);
    TRY(m->device_->map());
    TestDevice& device = *m->device_;
    m->vm_ = TRY(create_engine(engine, {.memory = *m->memory_,
                                        .bus = *m->bus_,
                                        .clock = *m->clock_,
                                        .ext_int = &device.pic,
                                        .eoi = [&device](u8 vector) { device.eoi(vector); }}));
    const engine::Capabilities& caps = m->vm_->capabilities();
    const x86::CpuModel model = TRY(x86::make_cpu_model(options.cpu, caps.cpuid, caps.xcr0, caps.tsc_hz, options.vcpus));
    for (u32 i = 0; i < options.vcpus; ++i) {
        m->vcpus_.push_back(TRY(m->vm_->new_vcpu(i, model)));
        x86::CpuState state = x86::reset_state(i == 0, i);
        if (i == 0) {
            state.segment[x86::kCs] = x86::real_mode_segment(0);
            state.segment[x86::kCs].attributes = 0x9b;
            state.rip = kImageBase;
        }
        TRY(m->vcpus_.back()->load(state));
    }
    return m;
}

GuestMachine::~GuestMachine() {
    if (device_) {
        device_->join();
        device_->release_routes();
    }
    vcpus_.clear();
    vm_.reset();
    device_.reset();
    bus_.reset();
    memory_.reset();
    clock_.reset();
}

void GuestMachine::kick_all() {
    for (auto& vcpu : vcpus_) vcpu->kick();
}

void GuestMachine::finish(u32 vcpu, Outcome outcome, u32 code, std::string error) {
    {
        std::lock_guard lock(mutex_);
        if (finished_) return;
        finished_ = true;
        result_.outcome = outcome;
        result_.code = code;
        if (!error.empty()) result_.error = error.starts_with("vCPU") ? error : fmt::format("vCPU {}: {}", vcpu, error);
    }
    changed_.notify_all();
}

GuestResult GuestMachine::run(std::optional<u64> pause_after_us) {
    stopping_ = false;
    vm_->resumed();
    std::vector<std::thread> threads;
    for (u32 i = 0; i < vcpus_.size(); ++i)
        threads.emplace_back([this, i] {
            for (;;) {
                const engine::Exit exit = vcpus_[i]->run();
                if (exit == engine::Exit::Error) finish(i, Outcome::EngineError, 0, vcpus_[i]->last_error().to_string());
                else if (exit == engine::Exit::Shutdown) finish(i, Outcome::Shutdown, 0, {});
                else if (exit != engine::Exit::Kicked) finish(i, Outcome::EngineError, 0, "unexpected exit");
                std::lock_guard lock(mutex_);
                if (stopping_ || finished_) return;
            }
        });
    {
        std::unique_lock lock(mutex_);
        const auto limit = pause_after_us ? std::chrono::microseconds(*pause_after_us)
                                          : std::chrono::microseconds(options_.timeout_ms * 1000);
        changed_.wait_for(lock, limit, [this] { return finished_; });
        if (!finished_ && !pause_after_us) {
            finished_ = true;
            result_.outcome = Outcome::TimedOut;
        }
        stopping_ = true;
    }
    kick_all();
    for (auto& thread : threads) thread.join();
    vm_->paused();
    GuestResult result = result_;
    if (!finished_) result.outcome = Outcome::Paused;
    return result;
}

Result<> GuestMachine::adopt(GuestMachine& other) {
    std::vector<u8> page(static_cast<usize>(kPageSize));
    for (u64 at = 0; at < options_.ram; at += kPageSize) {
        TRY(other.memory_->read({at}, page));
        TRY(memory_->write({at}, page));
    }
    for (usize i = 0; i < vcpus_.size(); ++i) {
        const x86::CpuState state = TRY(other.vcpus_[i]->save());
        TRY(vcpus_[i]->load(state));
    }
    device_->take_from(*other.device_);
    result_.output = other.result_.output;
    return {};
}

}  // namespace vezha::test
