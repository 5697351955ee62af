// SPDX-License-Identifier: Apache-2.0
#include "tests/faults/proxy.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status.h"

namespace wideberth::testing {
namespace {

constexpr absl::Duration kRetransmission = absl::Milliseconds(200);
constexpr size_t kPacketBytes = 16 << 10;

sockaddr_in Loopback(int port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

int Ready(int fd) {
  ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK);
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  return fd;
}

}  // namespace

Proxy::Proxy(std::string target, uint64_t seed) : target_(std::move(target)), random_(seed) {
  listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = Loopback(0);
  socklen_t size = sizeof(address);
  WB_CHECK(::bind(listener_, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
               ::listen(listener_, 64) == 0 &&
               ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) == 0,
           "a proxy needs a port on loopback");
  Ready(listener_);
  address_ = absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
  thread_ = std::thread([this] { Run(); });
}

Proxy::~Proxy() {
  stopped_ = true;
  thread_.join();
  MutexLock lock(mutex_);
  CloseAll();
  ::close(listener_);
}

void Proxy::SetDelay(absl::Duration delay) {
  MutexLock lock(mutex_);
  delay_ = delay;
}

void Proxy::SetLoss(double probability) {
  MutexLock lock(mutex_);
  loss_ = probability;
}

void Proxy::Freeze(bool frozen) {
  MutexLock lock(mutex_);
  frozen_ = frozen;
}

void Proxy::Cut() {
  MutexLock lock(mutex_);
  CloseAll();
}

void Proxy::CutAfter(int64_t num_bytes) {
  MutexLock lock(mutex_);
  cut_after_ = num_bytes;
}

void Proxy::Close(Connection& connection) {
  // A reset, as from a machine that is gone, not an orderly end.
  const linger at_once = {1, 0};
  for (const int fd : {connection.up.from, connection.up.to}) {
    if (fd < 0) continue;
    ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    ::close(fd);
  }
}

void Proxy::CloseAll() {
  for (Connection& connection : connections_) Close(connection);
  if (!connections_.empty()) ++num_cuts_;
  connections_.clear();
}

void Proxy::Accept() {
  const int client = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
  if (client < 0) return;
  const int server = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_in address = Loopback(std::atoi(target_.substr(target_.rfind(':') + 1).c_str()));
  Connection connection;
  connection.up.from = connection.down.to = Ready(client);
  connection.up.to = connection.down.from = server;
  if (::connect(server, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    Close(connection);
    return;
  }
  Ready(server);
  connections_.push_back(std::move(connection));
}

void Proxy::Read(Connection& connection, Direction& direction) {
  if (frozen_ || direction.ended) return;
  std::string bytes(kPacketBytes, '\0');
  const ssize_t n = ::read(direction.from, bytes.data(), bytes.size());
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n < 0) connection.dead = true;
  if (n <= 0) {
    direction.ended = true;
    return;
  }
  bytes.resize(static_cast<size_t>(n));
  if (&direction == &connection.down && cut_after_ >= 0) {
    cut_after_ -= n;
    if (cut_after_ < 0) {
      // Part of it still goes out: whoever reads it has half a message.
      bytes.resize(bytes.size() / 2);
      [[maybe_unused]] const ssize_t sent = ::write(direction.to, bytes.data(), bytes.size());
      for (Connection& every : connections_) every.dead = true;
      ++num_cuts_;
      return;
    }
  }
  absl::Time due = absl::Now() + delay_;
  if (loss_ > 0 && std::uniform_real_distribution<double>()(random_) < loss_)
    due += kRetransmission;
  direction.last_due = std::max(direction.last_due, due);
  direction.packets.push_back({direction.last_due, std::move(bytes)});
}

void Proxy::Write(Connection& connection, Direction& direction) {
  while (!frozen_ && !direction.packets.empty() && direction.packets.front().due <= absl::Now()) {
    std::string& bytes = direction.packets.front().bytes;
    const ssize_t n = ::send(direction.to, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n < 0) {
      connection.dead = true;
      return;
    }
    bytes.erase(0, static_cast<size_t>(n));
    if (bytes.empty()) direction.packets.pop_front();
  }
  if (direction.ended && direction.packets.empty()) connection.dead = true;
}

void Proxy::Run() {
  while (!stopped_) {
    std::vector<pollfd> fds = {{listener_, POLLIN, 0}};
    bool busy = false;
    {
      MutexLock lock(mutex_);
      for (const Connection& connection : connections_) {
        for (const Direction* direction : {&connection.up, &connection.down}) {
          if (!frozen_ && !direction->ended) fds.push_back({direction->from, POLLIN, 0});
          busy |= !direction->packets.empty();
        }
      }
    }
    ::poll(fds.data(), fds.size(), busy ? 1 : 20);
    MutexLock lock(mutex_);
    Accept();
    for (Connection& connection : connections_) {
      for (Direction* direction : {&connection.up, &connection.down}) {
        if (!connection.dead) Read(connection, *direction);
        if (!connection.dead) Write(connection, *direction);
      }
    }
    for (auto connection = connections_.begin(); connection != connections_.end();) {
      if (!connection->dead) {
        ++connection;
        continue;
      }
      Close(*connection);
      connection = connections_.erase(connection);
    }
  }
}

}  // namespace wideberth::testing
