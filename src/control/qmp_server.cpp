// SPDX-License-Identifier: Apache-2.0
#include "control/qmp_server.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/log.h"
#include "base/time.h"
#include "base/unix_socket.h"
#include "control/qmp_session.h"

namespace vezha::control {

namespace {
constexpr usize kMaxClients = 64;
constexpr usize kMaxUnsent = 8 * kMiB;  // a client that does not read is let go
}  // namespace

class QmpServer::Client {
  public:
    static Result<std::unique_ptr<Client>> create(QmpServer& server, UniqueFd fd) {
        auto client = std::unique_ptr<Client>(new Client(server, std::move(fd)));
        client->watch_ = TRY(server.loop_.watch(client->fd_.get(), EPOLLIN, [c = client.get()](u32 events) { c->ready(events); }));
        client->session_.greet();
        return client;
    }
    void event(const std::string& line) { session_.event(line); }

  private:
    Client(QmpServer& server, UniqueFd fd)
        : server_(server), fd_(std::move(fd)), session_(server.vm_, [this](std::string line) { send(std::move(line)); }) {}

    void ready(u32 events) {
        if (events & EPOLLOUT) flush();
        if (!broken_ && (events & (EPOLLIN | EPOLLHUP | EPOLLERR))) {
            char bytes[4096];
            const ssize_t n = ::read(fd_.get(), bytes, sizeof bytes);
            if (n > 0) session_.receive({bytes, static_cast<usize>(n)});
            else if (n == 0 || (errno != EAGAIN && errno != EINTR)) broken_ = true;
        }
        if (broken_) server_.remove(this);
    }
    void send(std::string line) {
        unsent_ += line;
        unsent_ += "\r\n";
        flush();
    }
    void flush() {
        while (!unsent_.empty() && !broken_) {
            const ssize_t n = ::send(fd_.get(), unsent_.data(), unsent_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
            if (n > 0) unsent_.erase(0, static_cast<usize>(n));
            else if (errno == EAGAIN) break;
            else if (errno != EINTR) broken_ = true;
        }
        if (unsent_.size() > kMaxUnsent) broken_ = true;
        // Maybe deep inside a command of this client: ready() removes it, woken by the hang-up.
        if (broken_) ::shutdown(fd_.get(), SHUT_RDWR);
        if (watch_) watch_->set_events(unsent_.empty() ? EPOLLIN : EPOLLIN | EPOLLOUT);
    }

    QmpServer& server_;
    UniqueFd fd_;
    std::unique_ptr<EventLoop::Watch> watch_;
    QmpSession session_;
    std::string unsent_;
    bool broken_ = false;
};

Result<std::unique_ptr<QmpServer>> QmpServer::create(EventLoop& loop, machine::VmControl& vm, const std::string& path) {
    UniqueFd listener = TRY(listen_unix(path).context("control socket"));
    auto server = std::unique_ptr<QmpServer>(new QmpServer(loop, vm, path, std::move(listener)));
    server->watch_ = TRY(loop.watch(server->listener_.get(), EPOLLIN, [s = server.get()](u32) { s->accept_clients(); }));
    return server;
}

QmpServer::QmpServer(EventLoop& loop, machine::VmControl& vm, std::string path, UniqueFd listener)
    : loop_(loop), vm_(vm), path_(std::move(path)), listener_(std::move(listener)) {
    subscription_ = vm_.subscribe([this](const machine::VmEvent& event) { on_event(event); });
    balloon_timer_ = loop_.new_timer([this] {
        if (!balloon_waits_) return;
        balloon_waits_ = false;
        broadcast({.kind = machine::VmEvent::Kind::BalloonChange, .balloon_actual = balloon_actual_});
    });
}

QmpServer::~QmpServer() { ::unlink(path_.c_str()); }

void QmpServer::accept_clients() {
    for (;;) {
        auto fd = accept_client(listener_.get());
        if (!fd) {
            if (fd.error().code() != ErrorCode::WouldBlock) log_warning("qmp", "{}", fd.error().message());
            return;
        }
        if (clients_.size() >= kMaxClients) {
            log_warning("qmp", "a client was refused: {} are connected", clients_.size());
            continue;
        }
        auto client = Client::create(*this, std::move(*fd));
        if (client) clients_.push_back(std::move(*client));
        else log_warning("qmp", "{}", client.error().message());
    }
}

void QmpServer::on_event(const machine::VmEvent& event) {
    if (event.kind != machine::VmEvent::Kind::BalloonChange) return broadcast(event);
    balloon_actual_ = event.balloon_actual;
    if (balloon_waits_) return;
    const u64 now = monotonic_ns();
    if (now - balloon_sent_at_ >= kNsPerSec) return broadcast(event);
    balloon_waits_ = true;
    balloon_timer_->arm(balloon_sent_at_ + kNsPerSec);
}

void QmpServer::broadcast(const machine::VmEvent& event) {
    if (event.kind == machine::VmEvent::Kind::BalloonChange) balloon_sent_at_ = monotonic_ns();
    const std::string line = event_line(event);
    for (auto& client : clients_) client->event(line);
}

void QmpServer::remove(Client* client) {
    std::erase_if(clients_, [client](const auto& c) { return c.get() == client; });
}

}  // namespace vezha::control
