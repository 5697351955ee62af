// SPDX-License-Identifier: Apache-2.0
// What a process tells people and monitors: `/healthz`, `/status.json`, `/metrics` and a one-screen
// page, on a small HTTP server of its own. It is read-only; on loopback everybody on this machine
// may look, beyond it the page comes over TLS and wants the run token.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "transport/credentials.h"
#include "transport/metrics.h"

namespace wideberth::transport {

// A line of the learner's list of everybody.
struct MemberRow {
  std::string name;                        // "actor-0"
  std::string role;                        // "actor"
  std::string state;                       // One word: "generating", "lost", ...
  std::optional<uint64_t> policy_version;  // Unset for scorers.
  double tokens_per_second = 0.0;
  uint64_t num_items = 0;
  double heartbeat_age = 0.0;  // Seconds.
  std::string last_error;
  std::string health_address;  // "host:port" of its own page, or empty.
};

struct RoleStatus {
  std::string state = "starting";  // One word.
  std::string unhealthy_reason;    // Non-empty: /healthz is 503 with it.
  std::optional<uint64_t> policy_version;
  std::optional<double> progress;  // 0 .. 1, a bar on the page.
  std::optional<double> tokens_per_second;
  std::optional<uint64_t> num_items;
  std::string last_error;
  std::vector<std::pair<std::string, std::string>> facts;  // Further lines: {"step", "12 of 40"}.
  std::vector<MemberRow> members;                          // The learner's.
};

// The server's threads call `status`; it must be thread-safe and quick. Texts are escaped by the
// page, nothing else has to.
class HealthPage {
 public:
  struct Options {
    std::string role;  // "learner", "actor", "scorer"
    std::string name;  // "actor-0"
    std::string run;   // Name of the run, for the title; may be empty.
    std::string host = "127.0.0.1";
    int port = 0;  // 0: any free port; -1: no server.
    std::function<RoleStatus()> status;
    const Metrics* metrics = nullptr;  // Must outlive the page; may be null. The names
                                       // "wideberth_status_*" are taken by the page.
    // Where `host` is more than loopback: the page is https, with the certificate of this role, and
    // answers those who show the token, as a bearer or as the password of any user.
    Credentials own;
  };

  // Serves at once. With port -1 nothing is served and address() is empty. Unavailable: "cannot
  // listen on 127.0.0.1:80: ..."; FailedPrecondition as CheckMayListen.
  static absl::StatusOr<std::unique_ptr<HealthPage>> Start(Options options);
  // Stops serving and joins.
  virtual ~HealthPage() = default;
  // "host:port" with the port in use (the machine's name where the host was 0.0.0.0), or empty.
  virtual std::string address() const = 0;
  // "https://host:port/", or empty.
  virtual std::string url() const = 0;
};

}  // namespace wideberth::transport
