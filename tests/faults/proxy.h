// SPDX-License-Identifier: Apache-2.0
// A TCP proxy on loopback that stands between two processes and misbehaves when it is told to. For
// the fault tests.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <list>
#include <random>
#include <string>
#include <thread>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/mutex.h"

namespace wideberth::testing {

// Thread-safe. One thread of its own forwards every connection to `target` ("127.0.0.1:port").
class Proxy final {
 public:
  Proxy(std::string target, uint64_t seed);
  ~Proxy();
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;

  const std::string& address() const { return address_; }  // Where it listens.

  // Every packet of both directions arrives so much later.
  void SetDelay(absl::Duration delay);
  // A packet is lost with this probability: it and those behind it come 200 ms later, as TCP sends
  // it again.
  void SetLoss(double probability);
  // Half-open: connections stay and new ones are accepted, but nothing goes through any more.
  void Freeze(bool frozen);
  // Resets every connection.
  void Cut();
  // Resets every connection once so many more bytes came from the target, in the middle of whatever
  // they are.
  void CutAfter(int64_t num_bytes);
  int64_t num_cuts() const { return num_cuts_; }

 private:
  struct Packet {
    absl::Time due;
    std::string bytes;
  };
  struct Direction {
    int from = -1, to = -1;
    std::deque<Packet> packets;
    absl::Time last_due = absl::InfinitePast();
    bool ended = false;  // Nothing more comes.
  };
  struct Connection {
    Direction up, down;  // To the target, from the target.
    bool dead = false;
  };
  void Run();
  void Accept() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Read(Connection& connection, Direction& direction) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Write(Connection& connection, Direction& direction) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CloseAll() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void Close(Connection& connection);

  const std::string target_;
  std::string address_;
  int listener_ = -1;
  std::atomic<int64_t> num_cuts_{0};
  std::atomic<bool> stopped_{false};
  Mutex mutex_;
  std::mt19937_64 random_ ABSL_GUARDED_BY(mutex_);
  absl::Duration delay_ ABSL_GUARDED_BY(mutex_);
  double loss_ ABSL_GUARDED_BY(mutex_) = 0;
  bool frozen_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t cut_after_ ABSL_GUARDED_BY(mutex_) = -1;
  std::list<Connection> connections_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace wideberth::testing
