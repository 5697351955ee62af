// SPDX-License-Identifier: Apache-2.0
// Real processes on loopback: a whole run of a tiny random model, and single commands, with
// everything they leave behind. For the integration tests.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/testing/paths.h"

namespace wideberth::testing {

// A program under test. Its output is kept in files, its descendants that lose their parent become
// ours, so that none can hide.
class Process {
 public:
  // argv[0] is a path, or a name in WIDEBERTH_BIN. `input` is its standard input.
  Process(std::vector<std::string> argv, const std::string& folder, const std::string& input = "");
  ~Process();  // Kills what is still there.
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  // Exit code, or 128 + signal; -1 when it does not end within five minutes.
  int Wait();
  void Signal(int signal) const;
  bool Running();
  pid_t pid() const { return pid_; }
  std::string out() const;
  std::string err() const;

 private:
  pid_t pid_ = -1;
  int code_ = -1;
  bool ended_ = false;
  std::string out_path_, err_path_;
};

struct Finished {
  int code = 0;
  std::string out, err;
};
Finished Execute(std::vector<std::string> argv, const std::string& input = "");

// Whether this process has no child left, dead or alive; waits a little for those that are being
// killed.
bool NoProcessLeft();

// Polls until it holds; false after a minute.
bool Eventually(const std::function<bool()>& holds);

// A folder with a tiny model, prompts, a configuration of one learner, one actor and two scorers,
// and a run folder that is not there yet.
class TinyRun {
 public:
  TinyRun();
  std::string Join(const std::string& name) const { return folder_.Join(name); }
  std::string run_dir() const { return folder_.Join("run"); }
  std::string config() const { return folder_.Join("tiny.txtpb"); }
  std::vector<std::string> Command(const std::vector<std::string>& more = {}) const;
  // Text replaced in the configuration file.
  void Replace(const std::string& from, const std::string& to) const;

  // Of the present or last run.
  std::vector<nlohmann::json> Metrics() const;
  std::string File(const std::string& name) const;  // In the run folder; empty where absent.
  bool Exists(const std::string& name) const;       // In the run folder.
  pid_t PidOf(
      const std::string& process) const;  // Of its newest start; 0 where it was not started.
  int TimesStarted(const std::string& process) const;

 private:
  TempDir folder_;
};

}  // namespace wideberth::testing
