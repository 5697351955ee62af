// SPDX-License-Identifier: Apache-2.0
// The roles of one run as processes that a test starts, hurts and starts again, each reaching the
// learner by a proxy of its own. For the fault tests and the soak.
#pragma once

#include <sys/types.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "tests/faults/proxy.h"
#include "tests/integration/tiny_run.h"

namespace wideberth::testing {

// Not thread-safe. What is still there when it goes is killed.
class Cast final {
 public:
  struct Options {
    int num_actors = 1;
    std::vector<std::string> overrides;                           // Of the learner.
    std::string learner_prefix;                                   // Shell words before its program.
    std::map<std::string, std::vector<std::string>> environment;  // "actor-0" -> "NAME=VALUE" ...
    bool resume = false;                                          // The run has begun before.
    uint64_t seed = 1;                                            // Of the proxies.
  };
  Cast(const TinyRun* run, Options options);
  ~Cast();

  // The learner, then the others once it serves.
  void Start();
  // Starts again, after a moment, whoever was killed or, the learner aside, ended other than with
  // code 0.
  void Tend();
  // Tends until the learner ended by itself; its exit code, -1 after five minutes. Then everybody
  // else has 15 s to go.
  int WaitForEnd();
  bool everybody_left() const { return everybody_left_; }
  absl::Duration leaving() const { return leaving_; }  // From the learner's end to the last one's.

  std::vector<std::string> names() const;  // "learner-0", "scorer-safety-0", ..., "actor-0", ...
  bool Running(const std::string& name);
  void Signal(const std::string& name, int signal);
  pid_t pid(const std::string& name);
  int num_starts(const std::string& name) const;
  Proxy& proxy(const std::string& name);  // To the learner; not of the learner itself.
  std::string Log(const std::string& name) const;
  std::string AllLogs() const;

 private:
  struct Member {
    std::string name;
    std::vector<std::string> argv;
    std::unique_ptr<Process> process;
    std::unique_ptr<Proxy> proxy;
    int num_starts = 0;
    bool left = false;  // With code 0.
    absl::Time again = absl::InfinitePast();
  };
  Member& Find(const std::string& name);
  const Member& Find(const std::string& name) const;
  void StartMember(Member& member);
  void AddMember(const std::string& name, const std::string& program,
                 const std::vector<std::string>& flags);

  const TinyRun& run_;
  const Options options_;
  std::string address_;
  std::vector<std::unique_ptr<Member>> members_;
  bool everybody_left_ = false;
  absl::Duration leaving_;
};

// Makes the run one for faults: `learner` in place of its step count, short timeouts, no
// evaluation.
void PrepareForFaults(const TinyRun& run, const std::string& learner);

// What has to hold after every run that ended well: each of `steps` steps once and in order, every
// group in one step, every score a number that a scorer gave or a typed absence; without
// `every_score` there may be absences.
void ExpectNothingLostOrCountedTwice(const TinyRun& run, size_t steps, bool every_score = true);

}  // namespace wideberth::testing
