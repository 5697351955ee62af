// SPDX-License-Identifier: Apache-2.0
// The processes of one run on this machine: started, watched, restarted with back-off, and all gone
// at the end. Used by `wideberth run`.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "base/clock.h"

namespace wideberth::launch {

struct ProcessSpec {
  std::string name;                                              // "actor-0"; also its log's name.
  std::vector<std::string> argv;                                 // argv[0] is a path.
  std::vector<std::pair<std::string, std::string>> environment;  // On top of our own.
  std::string output_path;         // Standard output and error are appended here; empty:
                                   // both go to our standard output.
  bool restart = true;             // Again after a death that is not exit code 0.
  bool restart_after_exit = true;  // False: only when a signal killed it.
  std::vector<std::string> restart_arguments;  // Appended to argv when it is started again.
};

struct ProcessExit {
  int code = 0;    // Exit code; meaningless when `signal` is set.
  int signal = 0;  // 0: it exited by itself.
  bool ok() const { return signal == 0 && code == 0; }
  std::string ToString() const;  // "exit code 3", "killed by signal 9 (Killed)"
};

// Not thread-safe: one thread calls it, and lives as long as the children do (they are killed when
// that thread dies, even by kill -9). Each child has a process group of its own, so that Ctrl-C on
// a terminal reaches the supervisor only. No call blocks but the destructor, which kills what is
// left and waits for it.
class Supervisor final {
 public:
  struct Options {
    int max_restarts = 5;  // Per process.
    absl::Duration first_backoff =
        absl::Seconds(1);  // Doubles with every death up to `max_backoff`.
    absl::Duration max_backoff = absl::Seconds(30);
    int hopeless_exit_code = 2;  // Bad input: another start would end the same way.
  };
  Supervisor(Options options, const Clock& clock) : options_(options), clock_(clock) {}
  ~Supervisor();
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  // Unavailable, with name and path, where the program cannot be started at all; AlreadyExists for
  // a second process of one name.
  absl::Status Start(ProcessSpec spec);

  // Takes note of deaths and starts again whatever is due. Call it a few times a second. Aborted: a
  // process died once more than it may be restarted, ended hopelessly, or could not be started
  // again; `failed()` names it.
  absl::Status Poll();

  // From now on nothing is started again.
  void StopRestarting() { restarting_ = false; }
  // To the process and everything it started. True when there was one to receive it.
  bool Signal(absl::string_view name, int signal);
  void SignalAll(int signal);

  // Alive, or waiting to be started again.
  bool Running(absl::string_view name) const;
  int num_alive() const;
  absl::optional<pid_t> pid(absl::string_view name) const;
  int num_restarts(absl::string_view name) const;
  // How it ended last.
  absl::optional<ProcessExit> last_exit(absl::string_view name) const;
  const std::string& failed() const { return failed_; }
  std::vector<std::string> alive() const;

 private:
  struct Process {
    ProcessSpec spec;
    pid_t pid = -1;  // -1: not alive.
    int num_restarts = 0;
    absl::optional<ProcessExit> last_exit;
    absl::optional<absl::Time> restart_at;
  };
  Process* Find(absl::string_view name);
  const Process* Find(absl::string_view name) const;
  absl::Status Spawn(Process& process);
  absl::Status NoteDeath(Process& process, int wait_status);

  const Options options_;
  const Clock& clock_;
  bool restarting_ = true;
  std::string failed_;
  std::vector<std::unique_ptr<Process>> processes_;
};

// The last `num_lines` lines of a file, as they are; empty where it cannot be read.
std::string LastLines(absl::string_view path, int num_lines);

}  // namespace wideberth::launch
