// SPDX-License-Identifier: Apache-2.0
#include "launch/supervisor.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"

extern char** environ;

namespace wideberth::launch {
namespace {

std::vector<std::string> MergedEnvironment(
    const std::vector<std::pair<std::string, std::string>>& ours) {
  std::vector<std::string> merged;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const absl::string_view text(*entry);
    const absl::string_view name = text.substr(0, text.find('='));
    const bool replaced =
        std::any_of(ours.begin(), ours.end(), [&](const auto& pair) { return name == pair.first; });
    if (!replaced) merged.emplace_back(text);
  }
  for (const auto& [name, value] : ours) merged.push_back(absl::StrCat(name, "=", value));
  return merged;
}

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& text : strings) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

// After fork: async-signal-safe calls only. Ends in exec or in _exit with the errno written to
// `error_fd`.
[[noreturn]] void BecomeChild(char* const* argv, char* const* envp, int output_fd, int error_fd,
                              pid_t parent) {
  // Death of the supervisor, by whatever means, must not leave a role behind.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(127);  // It died before the line above.
  ::setpgid(0, 0);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGCHLD}) ::signal(signal, SIG_DFL);
  const int null_fd = ::open("/dev/null", O_RDONLY);
  if (null_fd >= 0) ::dup2(null_fd, STDIN_FILENO);
  ::dup2(output_fd, STDOUT_FILENO);
  ::dup2(output_fd, STDERR_FILENO);
  ::execve(argv[0], argv, envp);
  const int error = errno;
  (void)!::write(error_fd, &error, sizeof(error));
  ::_exit(127);
}

}  // namespace

std::string ProcessExit::ToString() const {
  if (signal != 0) return absl::StrCat("killed by signal ", signal, " (", strsignal(signal), ")");
  return absl::StrCat("exit code ", code);
}

Supervisor::~Supervisor() {
  SignalAll(SIGKILL);
  for (auto& process : processes_) {
    if (process->pid <= 0) continue;
    while (::waitpid(process->pid, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
}

absl::Status Supervisor::Start(ProcessSpec spec) {
  if (Find(spec.name) != nullptr)
    return absl::AlreadyExistsError(
        absl::StrCat("there is a process named ", spec.name, " already"));
  processes_.push_back(std::make_unique<Process>());
  processes_.back()->spec = std::move(spec);
  return Spawn(*processes_.back());
}

absl::Status Supervisor::Spawn(Process& process) {
  const ProcessSpec& spec = process.spec;
  const int output_fd =
      spec.output_path.empty()
          ? ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0)
          : ::open(spec.output_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (output_fd < 0) {
    return absl::UnavailableError(absl::StrCat(spec.output_path, ": cannot be opened for ",
                                               spec.name, ": ", std::strerror(errno)));
  }
  int error_pipe[2];
  if (::pipe2(error_pipe, O_CLOEXEC) != 0) {
    ::close(output_fd);
    return absl::UnavailableError(absl::StrCat(spec.name, ": no pipe: ", std::strerror(errno)));
  }
  // Everything that allocates happens before fork: another thread may hold the allocator's lock at
  // that moment.
  std::vector<std::string> argv = spec.argv;
  if (process.num_restarts > 0)
    argv.insert(argv.end(), spec.restart_arguments.begin(), spec.restart_arguments.end());
  std::vector<std::string> environment = MergedEnvironment(spec.environment);
  const std::vector<char*> argv_pointers = Pointers(argv),
                           environment_pointers = Pointers(environment);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid == 0)
    BecomeChild(argv_pointers.data(), environment_pointers.data(), output_fd, error_pipe[1],
                parent);
  const int fork_error = errno;
  ::close(output_fd);
  ::close(error_pipe[1]);
  int exec_error = 0;
  ssize_t got = 0;
  if (pid > 0) {
    while ((got = ::read(error_pipe[0], &exec_error, sizeof(exec_error))) < 0 && errno == EINTR) {
    }
  }
  ::close(error_pipe[0]);
  if (pid < 0)
    return absl::UnavailableError(
        absl::StrCat(spec.name, ": cannot fork: ", std::strerror(fork_error)));
  if (got > 0) {
    ::waitpid(pid, nullptr, 0);
    return absl::UnavailableError(
        absl::StrCat(spec.name, ": cannot start ", spec.argv[0], ": ", std::strerror(exec_error)));
  }
  process.pid = pid;
  process.restart_at.reset();
  WB_LOG(INFO) << "started " << spec.name << ", process " << pid << ": "
               << absl::StrJoin(spec.argv, " ");
  return absl::OkStatus();
}

absl::Status Supervisor::NoteDeath(Process& process, int wait_status) {
  ProcessExit exit;
  if (WIFSIGNALED(wait_status)) {
    exit.signal = WTERMSIG(wait_status);
  } else {
    exit.code = WEXITSTATUS(wait_status);
  }
  const std::string& name = process.spec.name;
  process.pid = -1;
  process.last_exit = exit;
  if (exit.ok() || !restarting_ || !process.spec.restart ||
      (exit.signal == 0 && !process.spec.restart_after_exit)) {
    WB_LOG(INFO) << name << " ended, " << exit.ToString();
    return absl::OkStatus();
  }
  if (exit.signal == 0 && exit.code == options_.hopeless_exit_code) {
    failed_ = name;
    return absl::AbortedError(absl::StrCat(name, " ended (", exit.ToString(), ")"));
  }
  if (process.num_restarts >= options_.max_restarts) {
    failed_ = name;
    return absl::AbortedError(absl::StrCat(
        name, " ended (", exit.ToString(), ") and was started ", process.num_restarts + 1,
        " times already, which is all that supervisor.max_restarts = ", options_.max_restarts,
        " allows"));
  }
  absl::Duration delay = options_.first_backoff;
  for (int i = 0; i < process.num_restarts && delay < options_.max_backoff; ++i) delay *= 2;
  delay = std::min(delay, options_.max_backoff);
  process.restart_at = clock_.Now() + delay;
  ++process.num_restarts;
  WB_LOG(WARNING) << name << " ended, " << exit.ToString() << "; restart " << process.num_restarts
                  << " of at most " << options_.max_restarts << " in "
                  << absl::FormatDuration(delay);
  return absl::OkStatus();
}

absl::Status Supervisor::Poll() {
  for (auto& process : processes_) {
    if (process->pid > 0) {
      int wait_status = 0;
      if (::waitpid(process->pid, &wait_status, WNOHANG) == process->pid)
        WB_RETURN_IF_ERROR(NoteDeath(*process, wait_status));
    } else if (process->restart_at && restarting_ && clock_.Now() >= *process->restart_at) {
      if (absl::Status status = Spawn(*process); !status.ok()) {
        failed_ = process->spec.name;
        return absl::AbortedError(status.message());
      }
    }
  }
  return absl::OkStatus();
}

bool Supervisor::Signal(absl::string_view name, int signal) {
  const Process* const process = Find(name);
  if (process == nullptr || process->pid <= 0) return false;
  // The group takes in what the child started itself; it exists once the child has run setpgid, the
  // child itself always does.
  if (::kill(-process->pid, signal) != 0) ::kill(process->pid, signal);
  return true;
}

void Supervisor::SignalAll(int signal) {
  for (const auto& process : processes_) Signal(process->spec.name, signal);
}

bool Supervisor::Running(absl::string_view name) const {
  const Process* const process = Find(name);
  return process != nullptr && (process->pid > 0 || (restarting_ && process->restart_at));
}

int Supervisor::num_alive() const {
  return static_cast<int>(std::count_if(processes_.begin(), processes_.end(),
                                        [](const auto& process) { return process->pid > 0; }));
}

std::vector<std::string> Supervisor::alive() const {
  std::vector<std::string> names;
  for (const auto& process : processes_) {
    if (process->pid > 0) names.push_back(process->spec.name);
  }
  return names;
}

absl::optional<pid_t> Supervisor::pid(absl::string_view name) const {
  const Process* const process = Find(name);
  if (process == nullptr || process->pid <= 0) return absl::nullopt;
  return process->pid;
}

int Supervisor::num_restarts(absl::string_view name) const {
  const Process* const process = Find(name);
  return process == nullptr ? 0 : process->num_restarts;
}

absl::optional<ProcessExit> Supervisor::last_exit(absl::string_view name) const {
  const Process* const process = Find(name);
  return process == nullptr ? absl::nullopt : process->last_exit;
}

Supervisor::Process* Supervisor::Find(absl::string_view name) {
  for (auto& process : processes_) {
    if (process->spec.name == name) return process.get();
  }
  return nullptr;
}

const Supervisor::Process* Supervisor::Find(absl::string_view name) const {
  return const_cast<Supervisor*>(this)->Find(name);
}

std::string LastLines(absl::string_view path, int num_lines) {
  const absl::StatusOr<std::string> text = ReadFile(path);
  if (!text.ok()) return "";
  std::vector<absl::string_view> lines = absl::StrSplit(*text, '\n');
  while (!lines.empty() && lines.back().empty()) lines.pop_back();
  const size_t begin = lines.size() > static_cast<size_t>(num_lines) ? lines.size() - num_lines : 0;
  return absl::StrJoin(lines.begin() + begin, lines.end(), "\n");
}

}  // namespace wideberth::launch
