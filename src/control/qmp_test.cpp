// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/unix_socket.h"
#include "control/qmp_server.h"
#include "control/qmp_session.h"

namespace vezha::control {
namespace {

using machine::VmEvent;
using nlohmann::json;

class FakeVm final : public machine::VmControl {
  public:
    std::string vm_name() const override { return "fake"; }
    std::string uuid() const override { return "6a2f1d3c-0000-4000-8000-000000000001"; }
    machine::RunState run_state() const override { return state; }
    machine::EngineInfo engine() const override { return {"dbt", true}; }
    std::vector<machine::CpuInfo> cpus() const override { return {{0, 100, 0, 0, 0}, {1, 101, 0, 1, 0}}; }
    std::vector<machine::DiskInfo> disks() const override {
        machine::DiskInfo disk;
        disk.device = "disk0";
        disk.driver = "raw";
        disk.file = "/images/a\xff.raw";  // not UTF-8
        disk.geometry.size = kGiB;
        disk.statistics.read_bytes = 4096;
        return {disk};
    }
    u64 memory_size() const override { return 2 * kGiB; }
    Result<u64> balloon_actual() const override {
        if (!has_balloon) return fail(ErrorCode::Unsupported, "No balloon device has been activated");
        return target;
    }
    Result<> set_balloon_target(u64 bytes) override {
        if (!has_balloon) return fail(ErrorCode::Unsupported, "No balloon device has been activated");
        target = bytes;
        return {};
    }
    Result<> stop() override {
        state = machine::RunState::Paused;
        emit({.kind = VmEvent::Kind::Stop});
        return {};
    }
    Result<> cont() override {
        state = machine::RunState::Running;
        emit({.kind = VmEvent::Kind::Resume});
        return {};
    }
    Result<> system_powerdown() override { return {}; }
    Result<> system_reset() override {
        emit({.kind = VmEvent::Kind::Reset, .cause = machine::ShutdownCause::HostReset});
        return {};
    }
    Result<> inject_nmi() override { return {}; }
    void quit(machine::ShutdownCause cause) override { emit({.kind = VmEvent::Kind::Shutdown, .cause = cause}); }
    std::shared_ptr<void> subscribe(Listener listener) override {
        listeners.push_back(std::make_shared<Listener>(std::move(listener)));
        return listeners.back();
    }
    void emit(const VmEvent& event) {
        for (auto& listener : listeners) (*listener)(event);
    }
    machine::RunState state = machine::RunState::Running;
    bool has_balloon = true;
    u64 target = 2 * kGiB;
    std::vector<std::shared_ptr<Listener>> listeners;
};

class Session : public testing::Test {
  protected:
    Session() : session([this](std::string line) { lines.push_back(json::parse(line)); }) { session_.greet(); }
    json ask(std::string_view text) {
        lines.clear();
        session_.receive(text);
        EXPECT_EQ(lines.size(), 1u) << text;
        return lines.empty() ? json() : lines.front();
    }
    void negotiate() { EXPECT_EQ(ask(R"({"execute":"qmp_capabilities"})"), (json{{"return", json::object()}})); }
    FakeVm vm;
    std::vector<json> lines;
    std::function<void(std::string)> session;
    QmpSession session_{vm, session};
};

TEST_F(Session, GreetsAndNegotiates) {
    ASSERT_EQ(lines.size(), 1u);
    EXPECT_EQ(lines[0]["QMP"]["version"]["qemu"]["major"], 7);
    EXPECT_TRUE(lines[0]["QMP"]["capabilities"].is_array());
    EXPECT_EQ(ask(R"({"execute":"query-status"})")["error"]["class"], "CommandNotFound");
    negotiate();
    EXPECT_EQ(ask(R"({"execute":"qmp_capabilities"})")["error"]["class"], "CommandNotFound");
    EXPECT_EQ(ask(R"({"execute":"query-status"})")["return"],
              (json{{"running", true}, {"singlestep", false}, {"status", "running"}}));
}

TEST_F(Session, EchoesIdsAndSurvivesAnySplit) {
    negotiate();
    lines.clear();
    const std::string text = "  \r\n{\"execute\": \"query-name\", \"id\": {\"a\": [1, \"}{\\\"\"]}}\n{\"execute\":\"stop\"}";
    for (char c : text) session_.receive(std::string_view(&c, 1));
    ASSERT_EQ(lines.size(), 2u);
    EXPECT_EQ(lines[0]["id"], (json{{"a", {1, "}{\""}}}));
    EXPECT_EQ(lines[0]["return"]["name"], "fake");
    EXPECT_EQ(vm.state, machine::RunState::Paused);
}

TEST_F(Session, RefusesWhatIsWrongAndGoesOn) {
    negotiate();
    EXPECT_EQ(ask("nonsense\n")["error"]["class"], "GenericError");
    EXPECT_EQ(ask("{]\n")["error"]["class"], "GenericError");
    EXPECT_EQ(ask("{\"execute\" 1}")["error"]["desc"], "Invalid JSON syntax");
    EXPECT_EQ(ask(R"({"execute":1})")["error"]["class"], "GenericError");
    EXPECT_EQ(ask(R"({"exec":"stop"})")["error"]["class"], "GenericError");
    EXPECT_EQ(ask(R"({"execute":"no-such"})")["error"]["class"], "CommandNotFound");
    EXPECT_EQ(ask(R"({"execute":"stop","arguments":{"x":1}})")["error"]["desc"], "Parameter 'x' is unexpected");
    EXPECT_EQ(ask(R"({"execute":"balloon"})")["error"]["desc"], "Parameter 'value' is missing");
    EXPECT_EQ(ask(R"({"execute":"balloon","arguments":{"value":"1"}})")["error"]["desc"],
              "Invalid parameter type for 'value', expected: integer");
    EXPECT_EQ(ask(R"({"execute":"balloon","arguments":{"value":-1}})")["error"]["class"], "GenericError");
    EXPECT_EQ(ask(std::string(100, '[') + "\n")["error"]["class"], "GenericError");
    EXPECT_EQ(ask("{" + std::string("\"a\":") + std::string(100, '[') + "\n")["error"]["class"], "GenericError");
    EXPECT_EQ(ask("{\"a\":\"" + std::string(2 * kMiB, 'x') + "\n")["error"]["class"], "GenericError");
    EXPECT_EQ(ask(R"({"execute":"query-name"})")["return"]["name"], "fake");
}

TEST_F(Session, EveryCommandOfTheTableAnswers) {
    negotiate();
    const json rows = ask(R"({"execute":"query-commands"})")["return"];
    for (const auto& row : rows) {
        const std::string name = row["name"];
        if (name == "qmp_capabilities" || name == "balloon") continue;
        EXPECT_TRUE(ask(json{{"execute", name}}.dump()).contains("return")) << name;
    }
    EXPECT_EQ(ask(R"({"execute":"query-cpus-fast"})")["return"].size(), 2u);
    EXPECT_EQ(ask(R"({"execute":"query-blockstats"})")["return"][0]["stats"]["rd_bytes"], 4096);
    EXPECT_EQ(ask(R"({"execute":"query-kvm"})")["return"], (json{{"enabled", false}, {"present", true}}));
    EXPECT_EQ(ask(R"({"execute":"balloon","arguments":{"value":1073741824}})")["return"], json::object());
    EXPECT_EQ(ask(R"({"execute":"query-balloon"})")["return"]["actual"], kGiB);
    vm.has_balloon = false;
    EXPECT_EQ(ask(R"({"execute":"query-balloon"})")["error"]["class"], "DeviceNotActive");
}

TEST(QmpServer, ServesSeveralClientsAndTheirEvents) {
    auto loop = EventLoop::create("qmp").value();
    FakeVm vm;
    const std::string path = testing::TempDir() + "/qmp-" + std::to_string(::getpid());
    auto server = QmpServer::create(*loop, vm, path);
    ASSERT_TRUE(server) << server.error().to_string();
    EXPECT_EQ(QmpServer::create(*loop, vm, path).error().code(), ErrorCode::Busy);

    auto read_all = [&](int fd) {
        std::string out;
        char bytes[4096];
        for (;;) {
            loop->run_once(0);
            const ssize_t n = ::recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
            if (n <= 0) return out;
            out.append(bytes, static_cast<usize>(n));
        }
    };
    auto say = [&](int fd, std::string_view text) {
        EXPECT_EQ(::send(fd, text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
        for (int i = 0; i < 4; ++i) loop->run_once(0);
    };
    auto one = connect_unix(path).value();
    auto two = connect_unix(path).value();
    for (int i = 0; i < 4; ++i) loop->run_once(10);
    EXPECT_NE(read_all(one.get()).find("\"QMP\""), std::string::npos);
    say(one.get(), "{\"execute\":\"qmp_capabilities\"}");
    say(two.get(), "{\"execute\":\"qmp_capabilities\"}{\"execute\":\"stop\"}");
    EXPECT_NE(read_all(one.get()).find("\"STOP\""), std::string::npos);
    two.reset();
    for (int i = 0; i < 4; ++i) loop->run_once(10);
    say(one.get(), "{\"execute\":\"system_reset\"}");
    const std::string reset = read_all(one.get());
    EXPECT_NE(reset.find("host-qmp-system-reset"), std::string::npos) << reset;
    server->reset();
    EXPECT_NE(::access(path.c_str(), F_OK), 0);
}

}  // namespace
}  // namespace vezha::control
