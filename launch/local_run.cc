// SPDX-License-Identifier: Apache-2.0
#include "launch/local_run.h"

#include <signal.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"

namespace wideberth::launch {
namespace {

Supervisor::Options SupervisorOptions(const proto::SupervisorConfig& config) {
  Supervisor::Options options;
  options.max_restarts = config.max_restarts();
  options.first_backoff = absl::Seconds(config.restart_backoff());
  return options;
}

RunEnd EndOfRole(absl::string_view role) {
  if (role == "scorer") return RunEnd::kScorerFailed;
  return role == "actor" ? RunEnd::kActorFailed : RunEnd::kLearnerFailed;
}

}  // namespace

std::string LastErrorOf(const std::string& log_file) {
  const std::string tail = LastLines(log_file, 40);
  const std::vector<absl::string_view> lines = absl::StrSplit(tail, '\n');
  for (auto line = lines.rbegin(); line != lines.rend(); ++line) {
    const size_t mark = line->find("Z E ");
    const size_t text = line->find("] ");
    if (mark != absl::string_view::npos && text != absl::string_view::npos && mark < text)
      return std::string(line->substr(text + 2));
  }
  return "";
}

LocalRun::LocalRun(Options options, std::vector<PlacedProcess> processes, const Clock& clock)
    : options_(std::move(options)),
      processes_(std::move(processes)),
      clock_(clock),
      supervisor_(SupervisorOptions(options_.supervisor), clock) {}

absl::Status LocalRun::Start() {
  phase_deadline_ = clock_.Now() + options_.learner_start_timeout;
  if (!options_.learner_serves) phase_ = Phase::kRunning;
  return supervisor_.Start(processes_[0].spec);
}

void LocalRun::StartMembers() {
  const absl::StatusOr<std::string> address = ReadFile(AddressFile(options_.run_dir));
  if (!address.ok()) return;
  const std::string trimmed(absl::StripAsciiWhitespace(*address));
  if (trimmed.empty()) return;
  address_ = trimmed;
  phase_ = Phase::kRunning;
  for (size_t i = 1; i < processes_.size(); ++i) {
    ProcessSpec spec = processes_[i].spec;
    spec.argv.push_back(absl::StrCat("--learner=", address_));
    if (const absl::Status started = supervisor_.Start(std::move(spec)); !started.ok()) {
      Fail(EndOfRole(processes_[i].role), processes_[i].name, std::string(started.message()));
      return;
    }
  }
}

RunEnd LocalRun::EndOfLearner() const {
  const ProcessExit exit = supervisor_.last_exit(processes_[0].name).value_or(ProcessExit{1, 0});
  return exit.signal == 0 && exit.code == 2 ? RunEnd::kBadInput : RunEnd::kLearnerFailed;
}

// The further ranks are not restarted. Rank 0 notices one that is gone and ends with a sentence
// that says more than ours; it cannot where the other never reached it.
void LocalRun::LookAfterRanks() {
  for (size_t i = 1; i < processes_.size(); ++i) {
    const std::string& name = processes_[i].name;
    if (processes_[i].role != "learner" || supervisor_.pid(name).has_value() ||
        supervisor_.last_exit(name).value_or(ProcessExit{}).ok())
      continue;
    if (!rank_died_at_.has_value()) rank_died_at_ = clock_.Now();
    if (clock_.Now() - *rank_died_at_ < options_.rank_grace) return;
    Fail(RunEnd::kLearnerFailed, name, LearnerSentence(name));
    return;
  }
}

std::string LocalRun::LearnerSentence(const std::string& name) const {
  const std::string log = LogFile(options_.run_dir, name);
  const std::string error = LastErrorOf(log);
  return absl::StrCat(name, " ended (",
                      supervisor_.last_exit(name).value_or(ProcessExit{}).ToString(), ")",
                      error.empty() ? "" : ": ", error);
}

void LocalRun::Fail(RunEnd end, const std::string& name, const std::string& sentence) {
  if (result_.end == RunEnd::kDone) {  // The first failure is the one that tells.
    result_.end = end;
    result_.sentence = sentence;
    result_.failed = name;
  }
  BeginDrain();
}

void LocalRun::BeginDrain() {
  supervisor_.StopRestarting();
  if (draining()) return;
  last_deadline_ = clock_.Now() + absl::Seconds(options_.supervisor.drain_timeout());
  // The learner tells everybody else, saves, and goes; members that have no learner any more are
  // asked directly.
  if (supervisor_.Signal(processes_[0].name, SIGTERM)) {
    phase_ = Phase::kDraining;
  } else {
    LearnerEnded();
  }
}

void LocalRun::LearnerEnded() {
  supervisor_.StopRestarting();
  phase_ = Phase::kLeaving;
  last_deadline_ =
      std::min(last_deadline_, clock_.Now() + absl::Seconds(options_.supervisor.drain_timeout()));
  // After a clean end they were told already; otherwise nobody will tell them.
  phase_deadline_ =
      result_.end == RunEnd::kDone ? clock_.Now() + options_.exit_grace : clock_.Now();
}

void LocalRun::NoteSignal() {
  if (result_.interrupted) {
    result_.end = RunEnd::kKilled;
    result_.sentence = "killed by a second signal; what was acknowledged is in the run folder";
    supervisor_.StopRestarting();
    supervisor_.SignalAll(SIGKILL);
    phase_ = Phase::kLeaving;
    return;
  }
  result_.interrupted = true;
  BeginDrain();
}

absl::optional<RunResult> LocalRun::Tick() {
  if (const absl::Status status = supervisor_.Poll(); !status.ok()) {
    std::string role;
    for (const PlacedProcess& process : processes_) {
      if (process.name == supervisor_.failed()) role = process.role;
    }
    const std::string error = LastErrorOf(LogFile(options_.run_dir, supervisor_.failed()));
    Fail(EndOfRole(role), supervisor_.failed(),
         absl::StrCat(status.message(), error.empty() ? "" : ": ", error));
  }
  const std::string& learner = processes_[0].name;
  const bool learner_alive = supervisor_.Running(learner);
  switch (phase_) {
    case Phase::kStarting:
    case Phase::kRunning:
      if (!learner_alive) {
        const bool clean = supervisor_.last_exit(learner).value_or(ProcessExit{1, 0}).ok();
        if (!clean) Fail(EndOfLearner(), learner, LearnerSentence(learner));
        if (clean) LearnerEnded();
      } else if (phase_ == Phase::kStarting) {
        StartMembers();
        if (phase_ == Phase::kStarting && clock_.Now() >= phase_deadline_) {
          Fail(RunEnd::kLearnerFailed, learner,
               absl::StrCat(learner, " did not serve within ",
                            absl::FormatDuration(options_.learner_start_timeout)));
        }
      } else {
        LookAfterRanks();
      }
      break;
    case Phase::kDraining:
      if (!learner_alive) {
        if (!supervisor_.last_exit(learner).value_or(ProcessExit{1, 0}).ok())
          Fail(RunEnd::kLearnerFailed, learner, LearnerSentence(learner));
        LearnerEnded();
      }
      break;
    case Phase::kLeaving:
      if (!asked_members_ && clock_.Now() >= phase_deadline_) {
        asked_members_ = true;
        supervisor_.SignalAll(SIGTERM);
      }
      break;
    case Phase::kOver:
      break;
  }
  if (draining() && clock_.Now() >= last_deadline_ && supervisor_.num_alive() > 0) {
    if (result_.end == RunEnd::kDone) {
      result_.end = RunEnd::kKilled;
      result_.sentence = absl::StrCat(absl::StrJoin(supervisor_.alive(), ", "),
                                      " did not end within supervisor.drain_timeout = ",
                                      options_.supervisor.drain_timeout(), " s and was killed");
    }
    supervisor_.SignalAll(SIGKILL);
  }
  if (phase_ == Phase::kLeaving && supervisor_.num_alive() == 0) {
    phase_ = Phase::kOver;
    return result_;
  }
  return absl::nullopt;
}

}  // namespace wideberth::launch
