// SPDX-License-Identifier: Apache-2.0
#include "tests/differential/engine_runner.h"

#include <atomic>
#include <cstring>
#include <thread>

#include "arch/x86/registers.h"
#include "base/time.h"

namespace vezha::differential {

namespace {

using memory::Gpa;

// Guest-physical layout below the case's pages; linear = physical.
constexpr u64 kPml4 = 0x1000, kPdpt = 0x2000, kDirectory = 0x3000, kDataTable = 0x4000, kLowTable = 0x5000, kGdt = 0x6000, kTss = 0x7000,
              kIdt = 0x8000, kStubs = 0x9000, kStackTop = 0xb000;
constexpr u16 kEndPort = 0xf4;
constexpr u64 kWatchdogNs = 2 * kNsPerSec;

/// Stops the vCPU when the guest says that the case is over.
class EndPort final : public bus::Device {
  public:
    u64 read(u32, u64, unsigned) override { return 0; }
    void write(u32, u64, unsigned, u64) override {
        ended = true;
        vcpu->kick();
    }
    engine::Vcpu* vcpu = nullptr;
    std::atomic<bool> ended{false};
};

}  // namespace

struct EngineRunner::Machine {
    std::unique_ptr<EventLoop> loop;
    memory::GuestMemory memory{{.huge_pages = false}};
    bus::Bus bus;
    std::unique_ptr<bus::GuestClock> clock;
    EndPort end;
    std::unique_ptr<bus::Bus::Mapping> end_mapping;
    std::unique_ptr<engine::Vm> vm;
    x86::CpuModel model;
    std::unique_ptr<engine::Vcpu> vcpu;
    std::atomic<u64> deadline{~u64{0}};
    std::atomic<bool> quit{false};
    std::thread watchdog;

    Result<> build(Factory factory);
    Result<> build_memory();
    x86::CpuState initial() const;
};

Result<> EngineRunner::Machine::build_memory() {
    TRY(memory.add_pc_ram(kData + 16 * kMiB));
    auto put = [this](u64 at, u64 value) { return memory.write_object(Gpa{at}, value); };
    TRY(put(kPml4, kPdpt | 3));
    TRY(put(kPdpt, kDirectory | 3));
    // Nothing but what the process has around the case, and the guest's own pages: not at address 0 either.
    TRY(put(kDirectory + 8 * (kCode >> 21), kCode | 0x83));
    TRY(put(kDirectory, kLowTable | 3));
    for (u64 i = 1; i < 512; ++i) TRY(put(kLowTable + 8 * i, (i << 12) | 3));
    // The data's 2 MiB: only its three pages are there, the last one read-only.
    TRY(put(kDirectory + 8 * (kData >> 21), kDataTable | 3));
    for (u64 page = 0; page < 2; ++page) TRY(put(kDataTable + 8 * page, (kData + page * kPageSize) | 3));
    TRY(put(kDataTable + 16, kReadOnly | 1));
    TRY(put(kGdt + 0x10, 0x00af'9b00'0000'ffff));
    TRY(put(kGdt + 0x18, 0x00cf'9300'0000'ffff));
    TRY(put(kTss + 0x24, kStackTop));  // IST1
    for (u64 vector = 0; vector < 32; ++vector) {
        const u64 stub = kStubs + 16 * vector;
        TRY(put(kIdt + 16 * vector, (stub & 0xffff) | 0x10ull << 16 | 0x8e01ull << 32));
        const u8 code[] = {0xe6, kEndPort, 0xeb, 0xfe};  // out %al, $0xf4; jmp .
        TRY(memory.write(Gpa{stub}, code));
    }
    const u8 code[] = {0xe6, kEndPort, 0xeb, 0xfe};
    TRY(memory.write(Gpa{kExit}, code));
    return {};
}

Result<> EngineRunner::Machine::build(Factory factory) {
    loop = TRY(EventLoop::create("differential"));
    clock = std::make_unique<bus::GuestClock>(*loop);
    TRY(build_memory());
    end_mapping = TRY(bus.map(bus::Space::Pio, kEndPort, 1, end, 0, "end"));
    vm = TRY(factory({.memory = memory, .bus = bus, .clock = *clock}));
    const auto& can = vm->capabilities();
    model = TRY(x86::make_cpu_model("host", can.cpuid, can.xcr0, can.tsc_hz, 1));
    vcpu = TRY(vm->new_vcpu(0, model));
    end.vcpu = vcpu.get();
    watchdog = std::thread([this] {
        while (!quit) {
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
            if (monotonic_ns() > deadline) vcpu->kick();
        }
    });
    return {};
}

x86::CpuState EngineRunner::Machine::initial() const {
    x86::CpuState s = x86::reset_state(true, 0);
    s.cr0 = x86::cr0::kPe | x86::cr0::kMp | x86::cr0::kEt | x86::cr0::kNe | x86::cr0::kWp | x86::cr0::kPg;
    s.cr3 = kPml4;
    s.cr4 = x86::cr4::kPae | x86::cr4::kOsfxsr | x86::cr4::kOsxmmexcpt | x86::cr4::kOsxsave;
    s.efer = x86::efer::kSce | x86::efer::kLme | x86::efer::kLma | x86::efer::kNxe;
    s.xcr0 = model.xcr0;
    for (auto& segment : s.segment) segment = x86::flat_data();
    s.segment[x86::kCs] = x86::flat_code64();
    s.gdtr = {kGdt, 0x1f};
    s.idtr = {kIdt, 0x1ff};
    s.tr = {0x20, 0x8b, 0x67, kTss};
    s.ldtr = {0, 0x82, 0, 0};
    return s;
}

Result<std::unique_ptr<EngineRunner>> EngineRunner::create(Factory factory) {
    auto machine = std::make_unique<Machine>();
    TRY(machine->build(factory));
    return std::unique_ptr<EngineRunner>(new EngineRunner(std::move(machine)));
}

EngineRunner::EngineRunner(std::unique_ptr<Machine> machine) : machine_(std::move(machine)) {}

EngineRunner::~EngineRunner() {
    machine_->quit = true;
    machine_->watchdog.join();
}

u64 EngineRunner::xcr0() const { return machine_->model.xcr0; }

Result<Outcome> EngineRunner::run(const Case& test) {
    Machine& m = *machine_;
    x86::CpuState s = m.initial();
    s.gpr = test.start.gpr;
    s.rip = test.start.rip;
    s.rflags = (test.start.flags & kComparedFlags) | 0x202;
    s.xsave = test.start.xsave;
    TRY(m.memory.write(Gpa{kData}, test.start.data));
    TRY(m.memory.write(Gpa{test.start.rip}, test.code));
    TRY(m.vcpu->load(s));

    m.end.ended = false;
    m.deadline = monotonic_ns() + kWatchdogNs;
    while (!m.end.ended) {
        const engine::Exit exit = m.vcpu->run();
        if (exit == engine::Exit::Error) return Failure(m.vcpu->last_error());
        if (exit != engine::Exit::Kicked) return fail(ErrorCode::Internal, "engine exit {}", static_cast<int>(exit));
        if (!m.end.ended && monotonic_ns() > m.deadline) return fail(ErrorCode::Timeout, "the case does not end");
    }
    m.deadline = ~u64{0};

    s = TRY(m.vcpu->save());
    Outcome out;
    out.state.gpr = s.gpr;
    out.state.flags = s.rflags;
    out.state.xsave = s.xsave;
    if (s.rip >= kStubs && s.rip < kStubs + 16 * 32) {
        out.vector = static_cast<int>((s.rip - kStubs) / 16);
        const bool has_code = out.vector == 8 || (out.vector >= 10 && out.vector <= 14) || out.vector == 17;
        const u64 frame = s.gpr[x86::kRsp];
        if (has_code) out.error_code = TRY(m.memory.read_object<u32>(Gpa{frame}));
        const u64 at = frame + (has_code ? 8 : 0);
        out.state.rip = TRY(m.memory.read_object<u64>(Gpa{at}));
        out.state.flags = TRY(m.memory.read_object<u64>(Gpa{at + 16}));
        out.state.gpr[x86::kRsp] = TRY(m.memory.read_object<u64>(Gpa{at + 24}));
        out.fault_address = s.cr2;
    }
    TRY(m.memory.read(Gpa{kData}, out.state.data));
    return out;
}

}  // namespace vezha::differential
