// SPDX-License-Identifier: Apache-2.0
#include "machine/machine.h"

#include <algorithm>

#include "base/log.h"
#include "chardev/open.h"
#include "machine/acpi.h"
#include "machine/memory_map.h"
#include "machine/smbios.h"

namespace vezha::machine {

namespace {
constexpr u64 kEbda = 0x9'fc00, kVgaHole = 0xa'0000, kTables = 0xe'0000, kSmbios = 0xf'0000;

/// A UUID that stays the same for a name (RFC 4122 version 8 layout, our own hash).
std::array<u8, 16> uuid_of(std::string_view name) {
    std::array<u8, 16> uuid{};
    u64 hash = 0xcbf2'9ce4'8422'2325;
    for (usize i = 0; i < 16; ++i) {
        for (const char c : name) hash = (hash ^ static_cast<u8>(c)) * 0x100'0000'01b3;
        hash ^= hash >> 29;
        uuid[i] = static_cast<u8>(hash >> 32);
    }
    uuid[6] = static_cast<u8>((uuid[6] & 0x0f) | 0x80);
    uuid[8] = static_cast<u8>((uuid[8] & 0x3f) | 0x80);
    return uuid;
}
}  // namespace

Machine::Machine(VmConfig config, Host host)
    : config_(std::move(config)),
      host_(std::move(host)),
      memory_({.backing = config_.memfd ? memory::Backing::Memfd : memory::Backing::Anonymous, .huge_pages = config_.huge_pages}),
      clock_(host_.loop),
      pic_(bus_, nullptr) {}

Machine::~Machine() {
    if (vcpus_) vcpus_->park();
    if (board_) board_->flush_serials();
    vcpus_.reset();
    board_for_eoi_ = nullptr;
}

Result<std::unique_ptr<Machine>> Machine::create(const VmConfig& config, Host host) {
    std::unique_ptr<Machine> machine(new Machine(config, std::move(host)));
    TRY(machine->build());
    return machine;
}

Result<> Machine::build() {
    if (auto added = memory_.add_pc_ram(config_.memory.bytes, kLowRamEnd); !added)
        return Failure(std::move(added.error()).with_context(fmt::format("memory = {}", to_string(config_.memory))).with_hint("use a smaller --memory"));
    boot_ = TRY(BootSource::open(config_.kernel, config_.initrd, config_.append));

    clock_.pause();
    const engine::VmWiring wiring{.memory = memory_, .bus = bus_, .clock = clock_, .ext_int = &pic_, .eoi = [this](u8 vector) {
                                      if (Board* board = board_for_eoi_.load(std::memory_order_acquire)) board->ioapic().eoi(vector);
                                  }};
    ChosenEngine chosen = TRY(choose_engine(config_.engine, wiring));
    vm_ = std::move(chosen.vm);
    engine_line_ = std::move(chosen.line);
    kvm_present_ = chosen.kvm_present;
    pic_.set_intr_changed([vm = vm_.get()] { vm->ext_int_changed(); });

    const engine::Capabilities& can = vm_->capabilities();
    if (can.max_vcpus && config_.cpus > can.max_vcpus)
        return Failure(Error(ErrorCode::OutOfRange, fmt::format("cpus = {}: the {} engine runs up to {}", config_.cpus, can.name, can.max_vcpus)).with_hint("use a smaller --cpus"));
    const u64 address_end = Board::windows(memory_).end64;
    if (can.physical_address_bits < 52 && address_end > u64{1} << can.physical_address_bits)
        return Failure(Error(ErrorCode::OutOfRange, fmt::format("memory = {}: this host's processor addresses {} bits", to_string(config_.memory), can.physical_address_bits))
                           .with_hint("use a smaller --memory"));
    auto model = x86::make_cpu_model(config_.cpu, can.cpuid, can.xcr0, can.tsc_hz, config_.cpus);
    if (!model) return Failure(std::move(model.error()).with_context(fmt::format("cpu = '{}'", config_.cpu)));
    model_ = *std::move(model);

    TRY(build_consoles());
    Board::Parts parts{.memory = memory_, .bus = bus_, .clock = clock_, .vm = *vm_, .pic = pic_, .events = *this, .serials = {}, .cpus = config_.cpus,
                       .test_devices = config_.test_devices};
    for (auto& serial : serials_) parts.serials.push_back(serial.get());
    board_ = std::make_unique<Board>(parts);
    board_for_eoi_.store(board_.get(), std::memory_order_release);

    Cards::Parts cards{.config = config_, .main_loop = host_.loop, .memory = memory_, .bus = bus_, .msi = vm_->msi(), .pci = board_->pci(), .consoles = {},
                       .balloon_changed = [this, alive = std::weak_ptr<char>(alive_)](u64 actual) {
                           host_.loop.post([this, alive, actual] {
                               if (alive.lock()) emit({.kind = VmEvent::Kind::BalloonChange, .panic_action = {}, .balloon_actual = actual});
                           });
                       }};
    for (usize i = 0; i < consoles_.size(); ++i) {
        const auto equals = config_.consoles[i].find('=');
        cards.consoles.emplace_back(equals == std::string::npos ? "" : config_.consoles[i].substr(0, equals), consoles_[i].get());
    }
    cards_ = TRY(Cards::create(cards));

    std::vector<std::unique_ptr<engine::Vcpu>> vcpus;
    for (u32 i = 0; i < config_.cpus; ++i) vcpus.push_back(TRY(vm_->new_vcpu(i, model_).context(fmt::format("vCPU {}", i))));
    vcpus_ = std::make_unique<VcpuGroup>(std::move(vcpus), [this](u32 index, engine::Exit exit) { vcpu_stopped(index, exit); });
    TRY(board_->reset());
    return load_boot();
}

Result<> Machine::build_consoles() {
    const auto open = [this](std::string_view key, std::string_view spec) -> Result<std::unique_ptr<chardev::Chardev>> {
        chardev::OpenOptions options;
        options.on_quit = [this] { quit(ShutdownCause::HostUi); };
        auto opened = chardev::open(spec, host_.loop, std::move(options));
        if (!opened) return Failure(std::move(opened.error()).with_context(fmt::format("{} {}", key, spec)));
        if (spec == "pty") fmt::print(stderr, "vezha: {} is {}\n", key, (*opened)->describe());
        return opened;
    };
    for (const std::string& spec : config_.serials) serials_.push_back(TRY(open("--serial", spec)));
    for (const std::string& spec : config_.consoles) {
        const auto equals = spec.find('=');
        consoles_.push_back(TRY(open("--console", equals == std::string::npos ? std::string_view(spec) : std::string_view(spec).substr(equals + 1))));
    }
    return {};
}

std::vector<boot::MapEntry> Machine::memory_map() const {
    using boot::MapEntry;
    std::vector<MapEntry> map{{0, kEbda, MapEntry::kRam}, {kEbda, kVgaHole - kEbda, MapEntry::kReserved}, {kTables, kMiB - kTables, MapEntry::kReserved}};
    for (const auto& region : memory_.regions()) {
        if (region->read_only()) continue;
        const u64 base = std::max(region->base().value, kMiB);
        if (region->end().value > base) map.push_back({base, region->end().value - base, MapEntry::kRam});
    }
    map.push_back({kEcamBase, kEcamSize, MapEntry::kReserved});
    map.push_back({0xfeff'c000, 0x4000, MapEntry::kReserved});  // KVM's identity map and TSS
    std::sort(map.begin(), map.end(), [](const MapEntry& a, const MapEntry& b) { return a.base < b.base; });
    return map;
}

Result<> Machine::load_boot() {
    acpi::Board description;
    description.apic_ids.clear();
    for (u32 i = 0; i < config_.cpus; ++i) description.apic_ids.push_back(i);
    description.pci64_base = Board::windows(memory_).base64;
    description.serial_ports.clear();
    static constexpr std::array<acpi::SerialPort, 4> kCom{{{0x3f8, 4}, {0x2f8, 3}, {0x3e8, 4}, {0x2e8, 3}}};
    for (usize i = 0; i < serials_.size() && i < kCom.size(); ++i) description.serial_ports.push_back(kCom[i]);
    const acpi::Tables tables = acpi::build(description, kTables);
    TRY(memory_.load({tables.rsdp_address}, tables.rsdp));
    TRY(memory_.load({tables.tables_address}, tables.tables));

    smbios::System system;
    system.uuid = uuid_of(config_.name);
    system.sockets = 1;
    system.cores_per_socket = config_.cpus;
    const x86::CpuidRegisters leaf1 = model_.cpuid.query(1, 0);
    system.cpu_signature = leaf1.eax;
    system.cpu_features = leaf1.edx;
    if (model_.tsc_hz) system.cpu_mhz = static_cast<u32>(model_.tsc_hz / 1'000'000);
    system.low_ram = std::min(config_.memory.bytes, kLowRamEnd);
    system.high_ram = config_.memory.bytes - system.low_ram;
    const smbios::Tables firmware = smbios::build(system, kSmbios);
    TRY(memory_.load({firmware.address}, firmware.image));

    x86::CpuState first = TRY(boot_->load(memory_, memory_map(), tables.rsdp_address));
    for (u32 i = 0; i < config_.cpus; ++i) {
        x86::CpuState state = i == 0 ? std::move(first) : x86::reset_state(false, i);
        boot::set_memory_types(state);  // the same on every processor, or the guest's kernel complains
        // Only what this model's processor has.
        std::erase_if(state.msrs, [this](const x86::MsrValue& msr) { return std::find(model_.msrs.begin(), model_.msrs.end(), msr.index) == model_.msrs.end(); });
        TRY(vcpus_->vcpu(i).load(state).context(fmt::format("vCPU {}", i)));
    }
    return {};
}

Result<> Machine::start() {
    vcpus_->start("cpu");
    if (config_.paused) return {};
    return cont();
}

std::string Machine::uuid() const {
    const auto u = uuid_of(config_.name);
    return fmt::format("{:02x}{:02x}{:02x}{:02x}-{:02x}{:02x}-{:02x}{:02x}-{:02x}{:02x}-{:02x}{:02x}{:02x}{:02x}{:02x}{:02x}", u[0], u[1], u[2], u[3],
                       u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
}

std::vector<CpuInfo> Machine::cpus() const {
    std::vector<CpuInfo> all;
    for (u32 i = 0; i < vcpus_->size(); ++i) all.push_back({.index = i, .thread_id = vcpus_->vcpu(i).thread_id(), .socket_id = 0, .core_id = i, .smt_id = 0});
    return all;
}

void Machine::pause_all() {
    vcpus_->park();
    clock_.pause();
    vm_->paused();
    cards_->pause();
}

void Machine::resume_all() {
    cards_->resume();
    vm_->resumed();
    clock_.resume();
    vcpus_->resume();
}

Result<> Machine::stop() {
    if (state_ != RunState::Running) return {};
    pause_all();
    state_ = RunState::Paused;
    emit({.kind = VmEvent::Kind::Stop, .panic_action = {}});
    return {};
}

Result<> Machine::cont() {
    if (state_ == RunState::Running) return {};
    if (state_ == RunState::Shutdown || state_ == RunState::InternalError || finished_)
        return Failure(Error(ErrorCode::Unsupported, "the machine is off").with_hint("reset it first: system_reset"));
    const bool first = state_ == RunState::Prelaunch;
    state_ = RunState::Running;
    if (!first) emit({.kind = VmEvent::Kind::Resume, .panic_action = {}});
    resume_all();
    return {};
}

Result<> Machine::system_powerdown() {
    board_->acpi_pm().press_power_button();
    emit({.kind = VmEvent::Kind::Powerdown, .panic_action = {}});
    return {};
}

Result<> Machine::system_reset() {
    if (finished_) return fail(ErrorCode::Unsupported, "the machine is off");
    reset(ShutdownCause::HostReset);
    return {};
}

Result<> Machine::inject_nmi() {
    for (u32 i = 0; i < vcpus_->size(); ++i) vcpus_->vcpu(i).nmi();
    return {};
}

void Machine::quit(ShutdownCause cause) { finish(cause, static_cast<int>(ExitCode::Ok)); }

std::shared_ptr<void> Machine::subscribe(Listener listener) {
    const u64 id = next_listener_++;
    listeners_.emplace_back(id, std::move(listener));
    return {this, [id, alive = std::weak_ptr<char>(alive_)](void* self) {
                if (alive.lock()) std::erase_if(static_cast<Machine*>(self)->listeners_, [id](const auto& entry) { return entry.first == id; });
            }};
}

void Machine::emit(const VmEvent& event) {
    // A listener may unsubscribe itself or others.
    const auto listeners = listeners_;
    for (const auto& [id, listener] : listeners) listener(event);
}

void Machine::reset(ShutdownCause cause) {
    const bool was_running = state_ == RunState::Running;
    if (was_running) pause_all();  // also drains the cards, as their reset demands
    wish_pending_ = false;
    Result<> done = board_->reset();
    if (done) done = load_boot();
    if (!done) {
        log_error("machine", "reset: {}", done.error().to_string());
        return finish(ShutdownCause::HostError, static_cast<int>(ExitCode::Host));
    }
    emit({.kind = VmEvent::Kind::Reset, .cause = cause, .panic_action = {}});
    if (was_running) return resume_all();
    if (state_ != RunState::Prelaunch) state_ = RunState::Paused;
}

void Machine::finish(ShutdownCause cause, int status) {
    if (finished_) return;
    finished_ = true;
    if (state_ == RunState::Running) pause_all();
    state_ = RunState::Shutdown;
    board_->flush_serials();
    emit({.kind = VmEvent::Kind::Shutdown, .cause = cause, .panic_action = {}});
    host_.exit(status);
}

void Machine::guest_wants(std::function<void()> action) {
    if (wish_pending_.exchange(true)) return;
    // The guest must not go on beyond the write that asked for this.
    vcpus_->request_park();
    host_.loop.post([this, alive = std::weak_ptr<char>(alive_), action = std::move(action)] {
        if (alive.lock() && wish_pending_.exchange(false)) action();
    });
}

void Machine::shutdown() {
    guest_wants([this] { finish(ShutdownCause::GuestShutdown, static_cast<int>(ExitCode::Ok)); });
}

void Machine::reset() {
    guest_wants([this] {
        if (config_.on_reboot == Reaction::Exit) finish(ShutdownCause::GuestReset, static_cast<int>(ExitCode::Ok));
        else reset(ShutdownCause::GuestReset);
    });
}

void Machine::debug_exit(u8 status) {
    guest_wants([this, status] { finish(ShutdownCause::GuestShutdown, status); });
}

void Machine::panicked(bool crash_loaded) {
    host_.loop.post([this, alive = std::weak_ptr<char>(alive_), crash_loaded] {
        if (!alive.lock() || finished_) return;
        const bool exits = config_.on_crash == Reaction::Exit && !crash_loaded;
        log_warning("machine", "the guest's kernel panicked{}", crash_loaded ? "; its crash kernel takes over" : "");
        emit({.kind = VmEvent::Kind::GuestPanicked, .panic_action = exits ? "shutdown" : "run"});
        if (exits) finish(ShutdownCause::GuestPanic, static_cast<int>(ExitCode::Crashed));
    });
}

void Machine::vcpu_stopped(u32 index, engine::Exit exit) {
    switch (exit) {
        case engine::Exit::Kicked:
        case engine::Exit::DebugStop: return;
        case engine::Exit::Reset: return reset();
        case engine::Exit::Shutdown:
            guest_wants([this, index] {
                log_warning("machine", "vCPU {}: triple fault", index);
                if (config_.on_crash == Reaction::Exit) finish(ShutdownCause::GuestPanic, static_cast<int>(ExitCode::Crashed));
                else if (config_.on_reboot == Reaction::Exit) finish(ShutdownCause::GuestReset, static_cast<int>(ExitCode::Ok));
                else reset(ShutdownCause::GuestReset);
            });
            return;
        case engine::Exit::Error:
            guest_wants([this, index] {
                log_error("engine", "vCPU {}: {}", index, vcpus_->vcpu(index).last_error().to_string());
                if (state_ == RunState::Running) pause_all();
                state_ = RunState::InternalError;
                finish(ShutdownCause::HostError, static_cast<int>(ExitCode::Engine));
            });
            return;
    }
}

}  // namespace vezha::machine
