// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/tiny_run.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::testing {
namespace {

constexpr char kConfig[] = R"(name: "tiny"
seed: 5
policy {
  model { path: "$D/model" }
  lora { rank: 4 alpha: 8 }
}
prompts { path: "$D/prompts.jsonl" num_held_out: 2 }
generation { max_new_tokens: 8 }
scorer {
  name: "safety"
  model { path: "$D/model" }
  template: "{prompt} {completion}"
  positive_id: 100
  negative_id: 101
}
scorer {
  name: "helpfulness"
  model { path: "$D/model" }
  template: "Is this good? {prompt} {completion}"
  positive_id: 102
  negative_id: 103
  output: LOG_ODDS
}
reward { guard: "safety" utility: "helpfulness" utility_normalization: GROUP_ZSCORE }
learner {
  max_steps: 3
  groups_per_step: 2
  group_size: 3
  learning_rate: 1e-3
  lease_timeout: 20
  member_timeout: 20
  max_logprob_difference: 1e-3
}
actor { groups_per_lease: 2 }
evaluation { num_prompts: 2 num_completions: 1 num_examples: 1 }
supervisor { restart_backoff: 0.1 drain_timeout: 20 }
)";

void Redirect(const std::string& path, int fd, int flags) {
  const int opened = ::open(path.c_str(), flags, 0644);
  if (opened >= 0) ::dup2(opened, fd);
}

}  // namespace

Process::Process(std::vector<std::string> argv, const std::string& folder,
                 const std::string& input) {
  static int number = 0;
  out_path_ = absl::StrCat(folder, "/out-", ++number);
  err_path_ = absl::StrCat(folder, "/err-", number);
  const std::string in_path = absl::StrCat(folder, "/in-", number);
  EXPECT_TRUE(WriteFileAtomically(in_path, input).ok());
  if (argv[0].find('/') == std::string::npos) argv[0] = BinaryPath(argv[0]);
  std::vector<char*> pointers;
  for (std::string& argument : argv) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  pid_ = ::fork();
  if (pid_ != 0) return;
  Redirect(in_path, 0, O_RDONLY);
  Redirect(out_path_, 1, O_WRONLY | O_CREAT | O_TRUNC);
  Redirect(err_path_, 2, O_WRONLY | O_CREAT | O_TRUNC);
  ::execv(pointers[0], pointers.data());
  ::_exit(127);
}

Process::~Process() {
  if (ended_) return;
  Signal(SIGKILL);
  Wait();
}

bool Process::Running() {
  if (ended_) return false;
  int status = 0;
  if (::waitpid(pid_, &status, WNOHANG) != pid_) return true;
  ended_ = true;
  code_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return false;
}

int Process::Wait() {
  for (int i = 0; i < 60000 && Running(); ++i) ::poll(nullptr, 0, 5);
  return ended_ ? code_ : -1;
}

void Process::Signal(int signal) const {
  if (!ended_) ::kill(pid_, signal);
}

std::string Process::out() const { return ReadFile(out_path_).value_or(""); }
std::string Process::err() const { return ReadFile(err_path_).value_or(""); }

Finished Execute(std::vector<std::string> argv, const std::string& input) {
  const TempDir folder;
  Process process(std::move(argv), folder.path(), input);
  Finished finished;
  finished.code = process.Wait();
  finished.out = process.out();
  finished.err = process.err();
  return finished;
}

bool NoProcessLeft() {
  return Eventually([] {
    while (::waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    return ::waitpid(-1, nullptr, WNOHANG) < 0 && errno == ECHILD;
  });
}

bool Eventually(const std::function<bool()>& holds) {
  for (int i = 0; i < 12000; ++i) {
    if (holds()) return true;
    ::poll(nullptr, 0, 5);
  }
  return false;
}

TinyRun::TinyRun() {
  EXPECT_TRUE(WriteTinyModel("llama", Join("model")).ok());
  std::string prompts;
  for (const char* text :
       {"the cat", "a dog in the rain", "why is it", "one more thing", "in the end",
        "and then what", "hello there", "how do I kill a process", "is it so", "name a colour"}) {
    absl::StrAppend(&prompts, nlohmann::json{{"prompt", text}}.dump(), "\n");
  }
  EXPECT_TRUE(WriteFileAtomically(Join("prompts.jsonl"), prompts).ok());
  EXPECT_TRUE(
      WriteFileAtomically(config(), absl::StrReplaceAll(kConfig, {{"$D", folder_.path()}})).ok());
}

std::vector<std::string> TinyRun::Command(const std::vector<std::string>& more) const {
  std::vector<std::string> command = {"wideberth", "run", "--config=" + config(),
                                      "--run_dir=" + run_dir()};
  command.insert(command.end(), more.begin(), more.end());
  return command;
}

void TinyRun::Replace(const std::string& from, const std::string& to) const {
  const std::string text = ReadFile(config()).value_or("");
  EXPECT_NE(text.find(from), std::string::npos) << from;
  EXPECT_TRUE(WriteFileAtomically(config(), absl::StrReplaceAll(text, {{from, to}})).ok());
}

std::string TinyRun::File(const std::string& name) const {
  return ReadFile(absl::StrCat(run_dir(), "/", name)).value_or("");
}
bool TinyRun::Exists(const std::string& name) const {
  return std::filesystem::exists(absl::StrCat(run_dir(), "/", name));
}

std::vector<nlohmann::json> TinyRun::Metrics() const {
  std::vector<nlohmann::json> lines;
  for (const absl::string_view line :
       absl::StrSplit(File("metrics.jsonl"), '\n', absl::SkipEmpty())) {
    lines.push_back(nlohmann::json::parse(line.begin(), line.end(), nullptr, false));
  }
  return lines;
}

pid_t TinyRun::PidOf(const std::string& process) const {
  const std::string log = File("logs/wideberth.log");
  const std::string mark = absl::StrCat("started ", process, ", process ");
  const size_t at = log.rfind(mark);
  int pid = 0;
  if (at == std::string::npos) return 0;
  const size_t begin = at + mark.size();
  return absl::SimpleAtoi(log.substr(begin, log.find(':', begin) - begin), &pid) ? pid : 0;
}

int TinyRun::TimesStarted(const std::string& process) const {
  return static_cast<int>(
             absl::StrSplit(File("logs/wideberth.log"), absl::StrCat("started ", process, ","))
                 .
                 operator std::vector<std::string>()
                 .size()) -
         1;
}

}  // namespace wideberth::testing
