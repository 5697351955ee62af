// SPDX-License-Identifier: Apache-2.0
// wideberth-actor: samples completions of the current policy, has them scored, hands them to the
// learner. Started with the learner's address and a name; everything else it is told.
//
//                learner                         scorers
//       leases ▼       ▼ adapter v+1                  ▲ ▼          ▲ groups
//   ┌─ lease ─┐   ┌───────── main ──────────┐ queue ┌───── hand in ──────┐
//   │  room?  ├──▶│ join, one token, leave, ├──────▶│ score, submit      │
//   └─────────┘   │ swap adapter, ...       │       └────────────────────┘
//                 └─────────────────────────┘
//
// clang-format off
//   thread       consumes          produces         waits for            unblocked by
//   lease        room in the batch leases           room, the learner    main, hand in, learner, Stop
//   main         leases, adapters  answered groups  where nothing runs:  lease, receiver, Stop
//                                                   a lease, an adapter
//   hand in      answered groups   scored groups    a group, scores,     main, scorers, learner,
//                                                   the learner          Stop
//   scoring (n)  items             typed scores     its scorer           scorer, deadline, Stop
//   receiver     adapter chunks    staged version   learner or relay     either, timer, main
//   relay (n)    staged version    adapter chunks   a version            receiver, clients, timer
//   acknowledge  version in use    -                a swap, the learner  main, learner, Stop
//   heartbeat    status            drain, scorers   the next beat        timer, learner, Stop
//   signals      SIGTERM, SIGINT   Stop             a signal             the system, end of main
//   health       HTTP requests     pages            a request            clients
// clang-format on
//
// Main decodes; beside it the receiver copies a version onto the device; nobody else touches torch.
// Every wait has a deadline or is ended by Stop, which also cancels all calls. Exit code 0:
// drained, SIGTERM or SIGINT; 2: bad input, starting again is of no use; 1: other failures. One
// sentence on standard error says why.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "actor/membership.h"
#include "actor/policy.h"
#include "actor/rollout.h"
#include "actor/scorers.h"
#include "actor/weight_source.h"
#include "base/clock.h"
#include "base/excerpt.h"
#include "base/log.h"
#include "base/status.h"
#include "model/runtime.h"
#include "transport/adapter_carrier.h"
#include "transport/adapter_service.h"
#include "transport/health.h"
#include "transport/learner_client.h"
#include "transport/metrics.h"

ABSL_FLAG(std::string, learner, "", "HOST:PORT of the learner");
ABSL_FLAG(std::string, name, "actor-0", "name of this process, the same after a restart");
ABSL_FLAG(std::string, listen, "127.0.0.1:0",
          "HOST:PORT to pass policy versions on from; port 0: any free one");
ABSL_FLAG(std::string, log_file, "", "also log to this file");
ABSL_FLAG(int, health_port, 0, "port of the health page; 0: any free one, -1: none");
ABSL_FLAG(absl::Duration, connect_timeout, absl::Seconds(60), "how long to wait for the learner");

namespace wideberth::actor {
namespace {

proto::RegisterRequest Introduction() {
  char host[256] = "localhost";
  ::gethostname(host, sizeof(host) - 1);
  proto::RegisterRequest request;
  request.set_role(proto::ACTOR);
  request.set_name(absl::GetFlag(FLAGS_name));
  request.set_host(host);
  request.set_pid(::getpid());
  return request;
}

// Everything that can end the work, from any thread, once: drain, a signal, a learner that is gone.
class Ending final {
 public:
  void Arm(std::function<void()> stop) {
    MutexLock lock(mutex_);
    stop_ = std::move(stop);
    if (ended_) stop_();  // The end came while the next part was being made.
  }
  void End(const absl::Status& why, absl::string_view reason) {
    MutexLock lock(mutex_);
    if (ended_) return;
    ended_ = true;
    why_ = why;
    if (why.ok()) WB_LOG(INFO) << reason << ": ending";
    if (!stop_) ::_exit(0);  // Nothing has begun, and the wait for the learner cannot be cut short.
    stop_();
  }
  // Nothing is left to stop.
  void Close() {
    MutexLock lock(mutex_);
    ended_ = true;
    stop_ = [] {};
  }
  absl::Status why() const {
    MutexLock lock(mutex_);
    return why_;
  }

 private:
  mutable Mutex mutex_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status why_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> stop_ ABSL_GUARDED_BY(mutex_);
};

absl::StatusOr<std::unique_ptr<transport::HealthPage>> ServeHealth(
    const proto::RunConfig& config, const Progress& progress, const transport::Metrics& metrics) {
  transport::HealthPage::Options options;
  options.role = "actor";
  options.name = absl::GetFlag(FLAGS_name);
  options.run = config.name();
  options.port = absl::GetFlag(FLAGS_health_port);
  options.metrics = &metrics;
  options.status = [&progress] {
    const proto::MemberStatus status = progress.Snapshot();
    transport::RoleStatus shown;
    shown.state = status.state();
    if (status.has_policy_version()) shown.policy_version = status.policy_version();
    shown.tokens_per_second = status.tokens_per_second();
    shown.num_items = status.num_items();
    shown.last_error = status.last_error();
    shown.facts = {{"learner", absl::GetFlag(FLAGS_learner)},
                   {"tokens sampled", absl::StrCat(status.num_tokens())},
                   {"paused at the last change of version",
                    absl::StrFormat("%.1f ms", 1e3 * status.swap_seconds())}};
    return shown;
  };
  return transport::HealthPage::Start(std::move(options));
}

absl::Status Work(transport::LearnerClient& learner, const transport::Credentials& own,
                  Ending& ending) {
  // The configuration names the weights; with their fingerprint we are a member.
  WB_ASSIGN_OR_RETURN(const proto::RegisterResponse hello, learner.Register(Introduction()));
  const proto::RunConfig& config = hello.config();
  RedactExcerpts(config.redact_text());
  model::ConfigureRuntime(config.actor().num_threads());
  WB_ASSIGN_OR_RETURN(const std::unique_ptr<ModelPolicy> policy, ModelPolicy::Load(config));
  WB_LOG(INFO) << "run " << hello.run_id() << ": loaded " << config.policy().model().path() << " ("
               << policy->fingerprint() << ")";

  Progress progress;
  progress.SetState("idle");
  transport::Metrics metrics;
  transport::Gauge* const version =
      metrics.NewGauge("wideberth_policy_version", "Version sampled from.");
  transport::Gauge* const rate =
      metrics.NewGauge("wideberth_tokens_per_second", "Tokens sampled a second, last batch.");
  transport::Gauge* const groups =
      metrics.NewGauge("wideberth_groups_submitted", "Groups handed in since start.");
  transport::Gauge* const swap = metrics.NewGauge(
      "wideberth_swap_seconds", "Decoding stood still for so long at the last change of version.");
  WB_ASSIGN_OR_RETURN(const auto health, ServeHealth(config, progress, metrics));
  const Scorers scorers(config, own);

  proto::RegisterRequest registration = Introduction();
  registration.set_base_fingerprint(policy->fingerprint());
  registration.set_health_address(health->address());
  const double member_timeout = config.learner().member_timeout();
  Membership* joined = nullptr;  // Made below; nobody asks before.
  const auto member_id = [&joined] { return joined->member_id(); };
  transport::AdapterShelf shelf;
  WB_ASSIGN_OR_RETURN(const auto relay,
                      transport::AdapterServer::Start(absl::GetFlag(FLAGS_listen), &shelf, own));
  registration.set_adapter_address(relay->address());
  WeightSource weights(
      &learner, member_id, [&joined] { joined->Hurry(); }, own, policy->model().device().str());
  registration.set_wants_broadcast(weights.wants_broadcast());
  Membership::Callbacks callbacks;
  callbacks.status = [&] {
    const proto::MemberStatus status = progress.Snapshot();
    version->Set(static_cast<double>(status.policy_version()));
    rate->Set(status.tokens_per_second());
    swap->Set(status.swap_seconds());
    groups->Set(static_cast<double>(status.num_items()));
    scorers.Report(metrics);
    return status;
  };
  callbacks.scorers = [&](const proto::HeartbeatResponse& response) {
    scorers.SetEndpoints(response);
    weights.Announce(response);
  };
  callbacks.ended = [&](const absl::Status& why) {
    ending.End(why, "the learner says that the run ends");
  };
  callbacks.tell = [&](proto::HeartbeatRequest* request) { weights.Tell(request); };
  Membership membership(&learner, registration, absl::Seconds(member_timeout), callbacks,
                        Clock::Real());
  joined = &membership;
  WB_RETURN_IF_ERROR(membership.Register().status());

  transport::AdapterReceiver adapters(weights.source(), &learner, member_id, absl::Seconds(1),
                                      &shelf, [&](auto blob) { policy->Prepare(std::move(blob)); });
  Rollout rollout(
      {&config, policy.get(), &learner, &adapters, &membership, scorers.named(), &progress});
  ending.Arm([&] {
    rollout.Stop();
    learner.Cancel();  // Before the receiver, which waits for its thread to come back from a call.
    weights.Cancel();
    scorers.Cancel();
    adapters.Stop();
  });
  membership.Start(absl::Seconds(std::min(1.0, member_timeout / 5)));
  const absl::Status worked = rollout.Run();
  ending.End(worked, "the work is done");
  membership.Stop();
  ending.Close();  // What it would stop goes out of scope here.
  return ending.why();
}

int Main() {
  if (const absl::Status log = OpenLog(absl::GetFlag(FLAGS_name), absl::GetFlag(FLAGS_log_file));
      !log.ok()) {
    std::fprintf(stderr, "wideberth-actor: %s\n", std::string(log.message()).c_str());
    return 1;
  }
  if (absl::GetFlag(FLAGS_learner).empty()) {
    WB_LOG(ERROR) << "--learner is not given, expected HOST:PORT of the learner";
    return 2;
  }
  const auto own = transport::Credentials::FromEnvironment(proto::ACTOR);
  if (!own.ok()) {
    WB_LOG(ERROR) << own.status().message();
    return 2;
  }
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGTERM);
  ::sigaddset(&set, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);  // Before any thread: all inherit it, one receives.
  Ending ending;
  std::thread signals([&ending, set] {
    int signal = 0;
    ::sigwait(&set, &signal);
    ending.End(absl::OkStatus(), absl::StrCat("signal ", signal));
  });
  transport::LearnerClient::Options options;
  options.own = *own;
  const auto connected = transport::LearnerClient::Connect(
      absl::GetFlag(FLAGS_learner), absl::GetFlag(FLAGS_connect_timeout), options);
  absl::Status status = connected.status();
  if (status.ok()) {
    ending.Arm([&] { (*connected)->Cancel(); });
    status = Work(**connected, *own, ending);
    if (absl::IsCancelled(status) && ending.why().ok()) status = absl::OkStatus();
  }
  ending.Close();
  ::pthread_kill(signals.native_handle(), SIGTERM);
  signals.join();
  if (status.ok()) return 0;
  WB_LOG(ERROR) << status.message();
  const bool bad_input = absl::IsInvalidArgument(status) || absl::IsNotFound(status) ||
                         absl::IsFailedPrecondition(status) || transport::IsRefusal(status);
  return bad_input ? 2 : 1;
}

}  // namespace
}  // namespace wideberth::actor

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "Samples completions of a run's policy. Usage: wideberth-actor --learner=HOST:PORT "
      "[--name=actor-0]");
  absl::ParseCommandLine(argc, argv);
  return wideberth::actor::Main();
}
