// SPDX-License-Identifier: Apache-2.0
// One run on this machine from first process to last: starts the learner, tells everybody else its
// address, watches, drains, leaves nothing behind. The heart of `wideberth run`.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "base/clock.h"
#include "launch/placement.h"
#include "launch/supervisor.h"
#include "proto/config.pb.h"

namespace wideberth::launch {

// How a run ended, as the command's exit code: which role failed first.
enum class RunEnd {
  kDone = 0,      // max_steps, or drained after one signal.
  kError = 1,     // Before any process worked.
  kBadInput = 2,  // The learner refused its input; nothing was changed.
  kLearnerFailed = 10,
  kScorerFailed = 11,
  kActorFailed = 12,
  kKilled = 130,  // A second signal, or the drain took too long.
};

struct RunResult {
  RunEnd end = RunEnd::kDone;
  bool interrupted = false;  // By a signal.
  std::string sentence;      // What went wrong; empty for kDone.
  std::string failed;        // The process whose log tells more; may be empty.
};

// Not thread-safe. The calling thread must stay alive as long as the children; signals come through
// `NoteSignal` on the same thread.
class LocalRun final {
 public:
  struct Options {
    std::string run_dir;
    proto::SupervisorConfig supervisor;
    // False for a learner on its own, which serves nobody: there is no address to wait for.
    bool learner_serves = true;
    absl::Duration learner_start_timeout =
        absl::Minutes(10);  // Large weights take a while to read.
    absl::Duration exit_grace =
        absl::Seconds(5);  // For members to leave by themselves after the learner.
    absl::Duration rank_grace =
        absl::Seconds(15);  // For learner-0 to say itself what became of another rank.
  };
  // `processes` as PlaceLocally makes them, the learner first.
  LocalRun(Options options, std::vector<PlacedProcess> processes, const Clock& clock);

  // Starts the learner.
  absl::Status Start();
  // Call a few times a second until it gives the result; does not block. Whatever the result, no
  // process is left then.
  absl::optional<RunResult> Tick();
  // SIGINT or SIGTERM came: drains; the second time kills.
  void NoteSignal();

  // The learner's, once it serves.
  const std::string& learner_address() const { return address_; }
  bool draining() const { return phase_ == Phase::kDraining || phase_ == Phase::kLeaving; }

 private:
  enum class Phase { kStarting, kRunning, kDraining, kLeaving, kOver };
  void StartMembers();
  void Fail(RunEnd end, const std::string& name, const std::string& sentence);
  void BeginDrain();
  void LearnerEnded();
  RunEnd EndOfLearner() const;
  std::string LearnerSentence(const std::string& name) const;
  void LookAfterRanks();

  const Options options_;
  const std::vector<PlacedProcess> processes_;
  const Clock& clock_;
  Supervisor supervisor_;
  Phase phase_ = Phase::kStarting;
  RunResult result_;
  std::string address_;
  absl::Time phase_deadline_ =
      absl::InfiniteFuture();                          // When patience with the present phase ends.
  absl::Time last_deadline_ = absl::InfiniteFuture();  // When everything is killed.
  bool asked_members_ = false;
  absl::optional<absl::Time> rank_died_at_;
};

// The newest error in a log, without time and name; empty where none is among its last lines.
std::string LastErrorOf(const std::string& log_file);

}  // namespace wideberth::launch
