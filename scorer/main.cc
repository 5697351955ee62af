// SPDX-License-Identifier: Apache-2.0
// wideberth-scorer: hosts one scoring model and answers `Score`. Started with the learner's address
// and the name of the scorer; which model, template and limits that means it is told by the run's
// configuration. Stateless: a restart loses nothing but its memory of answers.
//
//     actors                                     learner
//    items ▼ ▲ typed scores                   status ▼ ▲ drain
//   ┌────────────┐  items   ┌─────────┐ batches ┌─────────────┐
//   │ RPC threads├─────────▶│ batcher ├────────▶│ main: model │
//   └────────────┘◀─────────┴─────────┘◀────────┴─────────────┘
//
//   thread     consumes             produces            waits for              unblocked by
//   main       batches              typed scores        a due batch            RPC, time, Close
//   RPC        Score calls          items queued        nothing: it enqueues   -
//   sweep      deadlines, counters  TIMED_OUT, metrics  250 ms                 timer
//   heartbeat  status               the run's end       2 s, the learner       timer, learner, Stop
//   signals    SIGTERM, SIGINT      the end             a signal, 200 ms       the system, timer
//   health     HTTP requests        pages               a request              clients
//
// Only main touches torch. The end (drain, signal, lost learner) closes the batcher: what is queued
// is still scored, what is not by kDrainTime is answered OVERLOADED, and a generation stops; a
// batch that does not return by twice that is left behind. After a signal, while the run goes on,
// the learner is told first and items are accepted for kNotice, until the actors ask others. Exit
// code 0: drained, SIGTERM or SIGINT. Else one sentence on standard error says why: 2: bad input,
// another start would end the same way; 1: anything else.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "base/clock.h"
#include "base/excerpt.h"
#include "base/log.h"
#include "base/status.h"
#include "model/runtime.h"
#include "scorer/batcher.h"
#include "scorer/drain.h"
#include "scorer/membership.h"
#include "scorer/score_endpoint.h"
#include "scorer/scorer_config.h"
#include "scorer/scoring_model.h"
#include "transport/health.h"
#include "transport/learner_client.h"
#include "transport/scorer_service.h"

ABSL_FLAG(std::string, learner, "", "HOST:PORT of the learner");
ABSL_FLAG(std::string, scorer, "", "name of the scorer in the run's configuration");
ABSL_FLAG(int, index, 0, "which of its replicas this is, the same after a restart");
ABSL_FLAG(std::string, listen, "127.0.0.1:0", "HOST:PORT to serve Score on; port 0: any free one");
ABSL_FLAG(std::string, log_file, "", "also log to this file");
ABSL_FLAG(int, health_port, 0, "port of the health page; 0: any free one, -1: none");
ABSL_FLAG(absl::Duration, connect_timeout, absl::Seconds(60), "how long to wait for the learner");

namespace wideberth::scorer {
namespace {

constexpr absl::Duration kDrainTime = absl::Seconds(6);
constexpr absl::Duration kNotice = absl::Seconds(2);  // Two heartbeats of an actor.

std::string Name() {
  return absl::StrCat("scorer-", absl::GetFlag(FLAGS_scorer), "-", absl::GetFlag(FLAGS_index));
}

// The end, whatever its cause. A scorer that is still loading its model has accepted nothing, and
// loading cannot be cut short.
void End(const absl::Status& why, absl::string_view cause, Drain* drain,
         absl::Duration notice = absl::ZeroDuration()) {
  if (drain->Begin(why, cause, notice)) return;
  const absl::Status first = drain->why();
  if (!first.ok()) WB_LOG(ERROR) << first.message();
  ::_exit(first.ok() ? 0 : 1);
}

void WaitForSignal(std::stop_token stop, const sigset_t& set, Drain* drain) {
  const timespec look = {0, 200'000'000};
  while (!stop.stop_requested()) {
    const int signal = ::sigtimedwait(&set, nullptr, &look);
    if (signal > 0) End(absl::OkStatus(), absl::StrCat("signal ", signal), drain, kNotice);
  }
}

void Sweep(std::stop_token stop, ScoreEndpoint* endpoint, Drain* drain) {
  Mutex mutex;
  CondVar timer;
  while (!stop.stop_requested()) {
    endpoint->Tick();
    if (!drain->InTime()) {
      // Whoever waited has been answered: nothing is lost.
      WB_LOG(WARNING) << "the device did not finish its batch within "
                      << absl::FormatDuration(2 * kDrainTime) << " of the end: left behind";
      ::_exit(ExitCode(drain->why()));
    }
    MutexLock lock(mutex);
    timer.WaitFor(mutex, absl::Milliseconds(250));
  }
}

proto::RegisterRequest Introduction(const std::string& address, const std::string& health_address) {
  char host[256] = "localhost";
  ::gethostname(host, sizeof(host) - 1);
  proto::RegisterRequest registration;
  registration.set_role(proto::SCORER);
  registration.set_name(Name());
  registration.set_host(host);
  registration.set_pid(::getpid());
  registration.set_address(address);
  registration.set_scorer_name(absl::GetFlag(FLAGS_scorer));
  registration.set_health_address(health_address);
  return registration;
}

absl::Status Work(const sigset_t& signal_set) {
  transport::Metrics metrics;
  ScoreEndpoint endpoint(absl::GetFlag(FLAGS_scorer), &metrics, &Clock::Real());
  Drain drain(&endpoint, kDrainTime, &Clock::Real());
  const std::jthread signals(
      [&](std::stop_token stop) { WaitForSignal(stop, signal_set, &drain); });
  WB_ASSIGN_OR_RETURN(const transport::Credentials own,
                      transport::Credentials::FromEnvironment(proto::SCORER));
  transport::LearnerClient::Options patience;
  patience.own = own;
  patience.call_timeout = absl::Seconds(10);
  WB_ASSIGN_OR_RETURN(const auto learner, transport::LearnerClient::Connect(
                                              absl::GetFlag(FLAGS_learner),
                                              absl::GetFlag(FLAGS_connect_timeout), patience));
  WB_ASSIGN_OR_RETURN(const auto server,
                      transport::ScorerServer::Start(absl::GetFlag(FLAGS_listen), &endpoint, own));
  transport::HealthPage::Options page;
  page.role = "scorer";
  page.name = Name();
  page.host = absl::GetFlag(FLAGS_listen).substr(0, absl::GetFlag(FLAGS_listen).rfind(':'));
  page.port = absl::GetFlag(FLAGS_health_port);
  page.metrics = &metrics;
  page.own = own;
  page.status = [&endpoint] { return endpoint.Page(); };
  WB_ASSIGN_OR_RETURN(auto health, transport::HealthPage::Start(page));
  Membership membership(
      learner.get(), Introduction(server->address(), health->address()),
      [&] { return endpoint.Status(); }, &Clock::Real());
  WB_ASSIGN_OR_RETURN(const proto::RunConfig run, membership.Join());
  WB_ASSIGN_OR_RETURN(const proto::ScorerConfig config,
                      FindScorer(run, absl::GetFlag(FLAGS_scorer)));
  std::jthread sweep([&](std::stop_token stop) { Sweep(stop, &endpoint, &drain); });
  std::jthread heartbeat([&](std::stop_token stop) {
    const absl::Status status = membership.Run(absl::Seconds(2));
    if (!stop.stop_requested())
      End(status,
          status.ok() ? "the learner says that the run ends" : "the learner is out of reach",
          &drain);
  });

  RedactExcerpts(run.redact_text());
  model::ConfigureRuntime(config.model().num_threads());
  const absl::StatusOr<std::unique_ptr<ScoringModel>> model =
      ScoringModel::Create(config, {run.learner().deterministic(), run.redact_text()});
  absl::optional<Batcher> batcher;
  if (model.ok()) {
    batcher.emplace(BatcherOptions::From(config), model->get(), &Clock::Real());
    drain.Open(&*batcher, [&membership] { membership.BeatSoon(); });
    WB_LOG(INFO) << "serving \"" << config.name() << "\" of kind "
                 << proto::ScorerConfig::Kind_Name(config.kind())
                 << (config.has_model() ? " with " : "") << config.model().path()
                 << (config.adapter().empty() ? "" : " and adapter ") << config.adapter() << " on "
                 << server->address();
    batcher->Run();
  }
  server->Shutdown(absl::Seconds(2));
  health.reset();
  heartbeat.request_stop();
  membership.Stop();
  learner->Cancel();
  heartbeat.join();
  sweep.request_stop();
  sweep.join();
  drain.Open(nullptr);
  return model.ok() ? drain.why() : model.status();
}

int Main() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGTERM);
  ::sigaddset(&set, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);  // Before any thread: all inherit it, one receives.
  absl::Status status = OpenLog(Name(), absl::GetFlag(FLAGS_log_file));
  if (status.ok() &&
      (absl::GetFlag(FLAGS_learner).empty() || absl::GetFlag(FLAGS_scorer).empty())) {
    status = absl::InvalidArgumentError("--learner=HOST:PORT and --scorer=NAME must be given");
  }
  if (status.ok()) status = Work(set);
  if (!status.ok()) WB_LOG(ERROR) << status.message();
  return ExitCode(status);
}

}  // namespace
}  // namespace wideberth::scorer

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "Hosts one scoring model of a run. Usage: wideberth-scorer --learner=HOST:PORT --scorer=NAME "
      "[--index=0]");
  absl::ParseCommandLine(argc, argv);
  return wideberth::scorer::Main();
}
