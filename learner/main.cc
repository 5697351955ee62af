// SPDX-License-Identifier: Apache-2.0
// wideberth-learner: owns a run. Leases prompts to actors, trains on the scored groups they hand
// in, publishes policy versions, evaluates, writes the run's folder. Everybody else is told its one
// address.
//
// clang-format off
//      actors, scorers                                                actors
//   Register, Heartbeat,    LeasePrompts      SubmitGroup              ▲ FetchAdapter, AcknowledgeAdapter
//            │                   │                 │                   │
//   ┌────────▼───────────────────▼─────────────────▼───────┐     ┌─────┴─────┐
//   │ server threads: members, lease table, journal (sync) │     │   shelf   │
//   └──────────────────────────┬───────────────────────────┘     └─────▲─────┘
//                              │ pool of accepted groups               │ version v+1
//   ┌──────────────────────────▼───────────────────────────────────────┴─────┐
//   │ main: rewards -> advantages -> GRPO step -> pack -> publish -> metrics │
//   └─────────────────────────────────────────────────────────────────────────┘
//
//   thread      consumes           produces                    waits for               unblocked by
//   main        accepted groups    versions, metrics, summary  groups (step_timeout)   server, Stop, full disk
//   server (n)  calls of members   leases, durable groups      a short lock, the disk  clients, main
//   signals     TERM, INT, HUP     Stop                        a signal                the system, end of main
//   health      HTTP requests      pages                       a request               clients
//
// clang-format on
// With task EVALUATE main collects the answers of one arm after the other instead of training
// (evaluate_arms.cc); each arm is a version.
// With learner.world_size above 1 the step of main is shared with further processes of this program
// (rank_main.h), which fetch it here and bring their parts of its sums (transport/rank_hub.h).
// Only main touches torch. Exit code 0: all steps done, or stopped by a signal (summary.json says
// "stopped"; adapter and summary are written either way); 2: bad input, nothing was changed; 1:
// other failures. One sentence in the log and on standard error says why.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/excerpt.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"
#include "learner/learner.h"
#include "learner/rank_main.h"
#include "learner/run_folder.h"
#include "learner/sources.h"
#include "learner/supervised_run.h"
#include "learner/validate_config.h"
#include "model/runtime.h"
#include "transport/health.h"
#include "transport/learner_service.h"

// `config` and `override` may be given several times and are read before the others; declared here
// for --help.
ABSL_FLAG(
    std::string, config, "",
    "protobuf text files (*.txtpb), merged left to right; may be repeated or separated by commas");
ABSL_FLAG(std::string, override, "",
          "fields in text form over the files, e.g. 'learner { max_steps: 2 }'; may be repeated");
ABSL_FLAG(std::string, run_dir, "", "folder of the run, over the configuration's");
ABSL_FLAG(std::string, address, "",
          "HOST:PORT to serve on, over learner.address; port 0: any free one");
ABSL_FLAG(std::string, address_file, "", "written with HOST:PORT once members can connect");
ABSL_FLAG(bool, resume, false,
          "go on with the run in --run_dir, from its newest checkpoint and its journal");
ABSL_FLAG(bool, restarted, false,
          "as a supervisor starts it again: --resume with the run's own configuration and address, "
          "or from the beginning where the run had not begun");
ABSL_FLAG(int, rank, 0,
          "0: owns the run and serves; above: shares the optimiser steps of rank 0 at --learner, "
          "from which it has its configuration");
ABSL_FLAG(int, world_size, 0, "number of learner ranks, over learner.world_size");
ABSL_FLAG(std::string, learner, "", "HOST:PORT of rank 0, for the other ranks");
ABSL_FLAG(std::string, device, "", "device of this rank, over policy.model.device");
ABSL_FLAG(std::string, log_file, "", "also log to this file");
ABSL_FLAG(int, health_port, -2,
          "port of the health page, over learner.health_port; 0: any free one, -1: none");

namespace wideberth::learner {
namespace {

// A restart of a run that has begun: its folder says what it is, whatever the files say now.
bool GoesOnAfterRestart() {
  return absl::GetFlag(FLAGS_restarted) &&
         RunFolder::CheckHoldsRun(absl::GetFlag(FLAGS_run_dir)).ok();
}

absl::StatusOr<proto::RunConfig> Resolve(const Sources& given) {
  const bool restart = GoesOnAfterRestart();
  Sources sources = given;
  if (restart) {
    sources = {};
    sources.files = {absl::StrCat(absl::GetFlag(FLAGS_run_dir), "/config.txtpb")};
  }
  WB_ASSIGN_OR_RETURN(proto::RunConfig config, MergeSources(sources));
  if (!absl::GetFlag(FLAGS_run_dir).empty()) config.set_run_dir(absl::GetFlag(FLAGS_run_dir));
  if (config.run_dir().empty()) config.set_run_dir(DefaultRunDir(config, absl::Now()));
  if (!absl::GetFlag(FLAGS_address).empty())
    config.mutable_learner()->set_address(absl::GetFlag(FLAGS_address));
  if (const std::string file = absl::GetFlag(FLAGS_address_file);
      restart && !file.empty() && absl::GetFlag(FLAGS_address).empty()) {
    // Members know this address and no other.
    if (const auto address = ReadFile(file); address.ok() && !address->empty())
      config.mutable_learner()->set_address(std::string(absl::StripAsciiWhitespace(*address)));
  }
  if (absl::GetFlag(FLAGS_world_size) != 0)
    config.mutable_learner()->set_world_size(absl::GetFlag(FLAGS_world_size));
  if (!absl::GetFlag(FLAGS_device).empty())
    config.mutable_policy()->mutable_model()->set_device(absl::GetFlag(FLAGS_device));
  if (absl::GetFlag(FLAGS_health_port) >= -1)
    config.mutable_learner()->set_health_port(absl::GetFlag(FLAGS_health_port));
  WB_RETURN_IF_ERROR(ValidateRunConfig(config, sources.files));
  return config;
}

template <typename AnyLearner>
absl::StatusOr<std::unique_ptr<transport::HealthPage>> ServeHealth(
    const proto::RunConfig& config, const AnyLearner& learner, const transport::Credentials& own) {
  transport::HealthPage::Options page;
  page.role = "learner";
  page.name = "learner-0";
  page.run = config.name();
  const std::string& address = config.learner().address();
  page.host = address.substr(0, address.rfind(':'));
  page.port = config.learner().health_port();
  page.status = [&learner] { return learner.Status(); };
  page.metrics = &learner.metrics();
  page.own = own;
  return transport::HealthPage::Start(std::move(page));
}

struct Served {
  std::unique_ptr<transport::HealthPage> health;
  std::unique_ptr<transport::LearnerServer> server;
};

absl::StatusOr<Served> Serve(const proto::RunConfig& config, Learner& learner,
                             const transport::Credentials& own) {
  Served served;
  WB_ASSIGN_OR_RETURN(served.health, ServeHealth(config, learner, own));
  WB_ASSIGN_OR_RETURN(served.server,
                      transport::LearnerServer::Start(config.learner().address(), learner.handler(),
                                                      learner.ranks(), own));
  const std::string address = served.server->address();
  if (const std::string file = absl::GetFlag(FLAGS_address_file); !file.empty()) {
    WB_RETURN_IF_ERROR(WriteFileAtomically(file, absl::StrCat(address, "\n")));
  }
  const std::string page = served.health->url();
  WB_LOG(INFO) << "run " << learner.run_id() << " in " << config.run_dir() << " serves at "
               << address << (own.tls() ? " with TLS" : "")
               << (page.empty() ? "" : absl::StrCat(", health page ", page));
  return served;
}

template <typename AnyLearner>
std::jthread StopOnSignal(AnyLearner& learner, const sigset_t& signal_set) {
  return std::jthread([&learner, signal_set](std::stop_token stop) {
    const timespec look = {0, 200'000'000};
    while (!stop.stop_requested()) {
      const int signal = ::sigtimedwait(&signal_set, nullptr, &look);
      if (signal <= 0) continue;
      WB_LOG(INFO) << "signal " << signal << ": ending";
      learner.Stop(absl::StrCat("stopped by signal ", signal));
    }
  });
}

// SFT, DPO, REWARD and GUARD: nobody is served but those who look at the health page.
absl::Status WorkOnData(const proto::RunConfig& config, bool resume,
                        const transport::Credentials& own, const sigset_t& signal_set,
                        bool* began) {
  model::ConfigureRuntime(config.policy().model().num_threads());
  WB_ASSIGN_OR_RETURN(const std::unique_ptr<SupervisedRun> run,
                      SupervisedRun::Create(config, &Clock::Real(), resume));
  const auto health = ServeHealth(config, *run, own);
  if (!health.ok()) {
    run->Abandon();
    return health.status();
  }
  *began = true;
  const std::string page = (*health)->url();
  WB_LOG(INFO) << "run " << run->run_id() << " in " << config.run_dir()
               << (page.empty() ? "" : absl::StrCat(", health page ", page));
  const std::jthread signals = StopOnSignal(*run, signal_set);
  return run->Run();
}

// `*began` is set once members can connect: what fails before leaves nothing behind.
absl::Status Work(const Sources& sources, const transport::Credentials& own,
                  const sigset_t& signal_set, bool* began) {
  const bool resume = absl::GetFlag(FLAGS_resume) || GoesOnAfterRestart();
  WB_ASSIGN_OR_RETURN(const proto::RunConfig config, Resolve(sources));
  RedactExcerpts(config.redact_text());
  const std::string& address = config.learner().address();
  // Before the folder is made.
  WB_RETURN_IF_ERROR(transport::CheckMayListen(address.substr(0, address.rfind(':')), own));
  if (!HasMembers(config)) return WorkOnData(config, resume, own, signal_set, began);
  // A learner before this one may have left its address; nobody shall go there.
  if (const std::string file = absl::GetFlag(FLAGS_address_file);
      !file.empty() && !GoesOnAfterRestart()) {
    ::unlink(file.c_str());
  }
  model::ConfigureRuntime(config.policy().model().num_threads());
  WB_ASSIGN_OR_RETURN(const std::unique_ptr<Learner> learner,
                      Learner::Create(config, &Clock::Real(), resume));
  absl::StatusOr<Served> served = Serve(config, *learner, own);
  if (!served.ok()) {
    learner->Abandon();
    return served.status();
  }
  *began = true;
  const std::jthread signals = StopOnSignal(*learner, signal_set);
  const absl::Status ended = learner->Run();
  served->server->Shutdown(absl::Seconds(2));
  return ended;
}

// A rank other than 0. What it was told itself is only compared with what rank 0 says.
absl::Status WorkAsFurtherRank(const Sources& sources, const transport::Credentials& own,
                               const sigset_t& signal_set, bool* began) {
  LearnerRank::Options options;
  options.own = own;
  options.rank = absl::GetFlag(FLAGS_rank);
  options.address = absl::GetFlag(FLAGS_learner);
  options.device = absl::GetFlag(FLAGS_device);
  if (options.rank < 0 || options.address.empty()) {
    return absl::InvalidArgumentError(
        options.rank < 0 ? absl::StrCat("--rank is ", options.rank, ", must be at least 0")
                         : absl::StrCat("--learner is not given, must be HOST:PORT of rank 0 for "
                                        "--rank=",
                                        options.rank));
  }
  if (absl::GetFlag(FLAGS_world_size) != 0) options.world_size = absl::GetFlag(FLAGS_world_size);
  if (!sources.files.empty()) {
    WB_ASSIGN_OR_RETURN(options.config, MergeSources(sources));
    if (options.world_size.has_value())
      options.config->mutable_learner()->set_world_size(*options.world_size);
  }
  const int health_port = std::max(-1, absl::GetFlag(FLAGS_health_port));
  return WorkAsRank(std::move(options), absl::GetFlag(FLAGS_health_port) == -2 ? 0 : health_port,
                    signal_set, began);
}

int Main(const Sources& sources) {
  const int rank = absl::GetFlag(FLAGS_rank);
  if (const absl::Status log =
          OpenLog(absl::StrCat("learner-", rank), absl::GetFlag(FLAGS_log_file));
      !log.ok()) {
    std::fprintf(stderr, "wideberth-learner: %s\n", std::string(log.message()).c_str());
    return 2;
  }
  sigset_t set;
  ::sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) ::sigaddset(&set, signal);
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);  // Before any thread: all inherit it, one receives.
  ::signal(SIGXFSZ, SIG_IGN);                   // A file-size limit is reported like a full disk.
  bool began = false;
  const auto own = transport::Credentials::FromEnvironment(proto::LEARNER);
  const absl::Status status = !own.ok()   ? own.status()
                              : rank == 0 ? Work(sources, *own, set, &began)
                                          : WorkAsFurtherRank(sources, *own, set, &began);
  if (status.ok()) return 0;
  if (!began || rank != 0) WB_LOG(ERROR) << status.message();
  const bool bad_input = absl::IsInvalidArgument(status) || absl::IsNotFound(status) ||
                         absl::IsAlreadyExists(status) || absl::IsFailedPrecondition(status) ||
                         transport::IsRefusal(status);
  return !began && bad_input ? 2 : 1;
}

}  // namespace
}  // namespace wideberth::learner

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "Owns a run: leases prompts, trains, publishes policy versions. Usage: wideberth-learner "
      "--config=FILE [--run_dir=DIR], or wideberth-learner --rank=K --learner=HOST:PORT");
  wideberth::learner::Sources sources;
  std::vector<char*> rest = wideberth::learner::TakeSources(argc, argv, &sources);
  absl::ParseCommandLine(static_cast<int>(rest.size()), rest.data());
  return wideberth::learner::Main(sources);
}
