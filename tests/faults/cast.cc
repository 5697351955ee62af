// SPDX-License-Identifier: Apache-2.0
#include "tests/faults/cast.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>

#include <cmath>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "learner/journal.h"
#include "tests/testing/paths.h"

namespace wideberth::testing {
namespace {

constexpr absl::Duration kRestartPause = absl::Milliseconds(200);
constexpr absl::Duration kLeaving = absl::Seconds(15);

std::string AddressFileOf(const TinyRun& run) { return run.Join("learner.address"); }

}  // namespace

Cast::Cast(const TinyRun* run, Options options) : run_(*run), options_(std::move(options)) {
  std::vector<std::string> flags = {"--config=" + run_.config(), "--run_dir=" + run_.run_dir(),
                                    "--address_file=" + AddressFileOf(run_)};
  for (const std::string& text : options_.overrides) flags.push_back("--override=" + text);
  AddMember("learner-0", "wideberth-learner", flags);
  for (const char* scorer : {"safety", "helpfulness"}) {
    AddMember(absl::StrCat("scorer-", scorer, "-0"), "wideberth-scorer",
              {absl::StrCat("--scorer=", scorer), "--index=0"});
  }
  for (int i = 0; i < options_.num_actors; ++i) {
    const std::string name = absl::StrCat("actor-", i);
    AddMember(name, "wideberth-actor", {"--name=" + name});
  }
}

Cast::~Cast() {
  for (const auto& member : members_) {
    if (member->process != nullptr) member->process->Signal(SIGCONT);
  }
}

void Cast::AddMember(const std::string& name, const std::string& program,
                     const std::vector<std::string>& flags) {
  auto member = std::make_unique<Member>();
  member->name = name;
  member->argv = {BinaryPath(program), absl::StrCat("--log_file=", run_.Join(name + ".log"))};
  member->argv.insert(member->argv.end(), flags.begin(), flags.end());
  members_.push_back(std::move(member));
}

Cast::Member& Cast::Find(const std::string& name) {
  for (const auto& member : members_) {
    if (member->name == name) return *member;
  }
  ADD_FAILURE() << "there is no " << name;
  return *members_[0];
}

const Cast::Member& Cast::Find(const std::string& name) const {
  return const_cast<Cast*>(this)->Find(name);
}

void Cast::StartMember(Member& member) {
  std::vector<std::string> argv = member.argv;
  const bool learner = member.name == "learner-0";
  if (learner && (member.num_starts > 0 || options_.resume)) argv.push_back("--restarted");
  if (!learner) argv.push_back("--learner=" + member.proxy->address());
  const auto given = options_.environment.find(member.name);
  if (given != options_.environment.end()) {
    argv.insert(argv.begin(), given->second.begin(), given->second.end());
    argv.insert(argv.begin(), "/usr/bin/env");
  }
  if (learner && !options_.learner_prefix.empty() && member.num_starts == 0) {
    argv = {"/bin/bash", "-c", absl::StrCat(options_.learner_prefix, " exec \"$@\""), "bash"};
    argv.insert(argv.end(), member.argv.begin(), member.argv.end());
  }
  ++member.num_starts;
  member.process = std::make_unique<Process>(std::move(argv), run_.Join(""));
}

void Cast::Start() {
  StartMember(*members_[0]);
  ASSERT_TRUE(Eventually([&] {
    address_ = std::string(absl::StripAsciiWhitespace(ReadFile(AddressFileOf(run_)).value_or("")));
    return !address_.empty() || !members_[0]->process->Running();
  }));
  ASSERT_FALSE(address_.empty()) << members_[0]->process->err();
  for (size_t i = 1; i < members_.size(); ++i) {
    members_[i]->proxy = std::make_unique<Proxy>(address_, options_.seed * 100 + i);
    StartMember(*members_[i]);
  }
}

void Cast::Tend() {
  const absl::Time now = absl::Now();
  for (const auto& member : members_) {
    if (member->left || member->process == nullptr || member->process->Running()) continue;
    const int code = member->process->Wait();
    if (code == 0 || (member == members_[0] && code < 128)) {
      member->left = true;
    } else if (member->again == absl::InfinitePast()) {
      member->again = now + kRestartPause;
    } else if (now >= member->again) {
      member->again = absl::InfinitePast();
      StartMember(*member);
    }
  }
}

int Cast::WaitForEnd() {
  const absl::Time deadline = absl::Now() + absl::Minutes(5);
  while (!members_[0]->left) {
    if (absl::Now() >= deadline) return -1;
    Tend();
    ::poll(nullptr, 0, 10);
  }
  const absl::Time ended = absl::Now();
  while (absl::Now() < ended + kLeaving) {
    everybody_left_ = true;
    for (const auto& member : members_) everybody_left_ &= !member->process->Running();
    if (everybody_left_) break;
    ::poll(nullptr, 0, 10);
  }
  leaving_ = absl::Now() - ended;
  return members_[0]->process->Wait();
}

std::vector<std::string> Cast::names() const {
  std::vector<std::string> names;
  for (const auto& member : members_) names.push_back(member->name);
  return names;
}

bool Cast::Running(const std::string& name) {
  Member& member = Find(name);
  return member.process != nullptr && member.process->Running();
}

void Cast::Signal(const std::string& name, int signal) {
  Member& member = Find(name);
  if (member.process != nullptr && member.process->Running()) member.process->Signal(signal);
}

pid_t Cast::pid(const std::string& name) { return Find(name).process->pid(); }

int Cast::num_starts(const std::string& name) const { return Find(name).num_starts; }

Proxy& Cast::proxy(const std::string& name) { return *Find(name).proxy; }

std::string Cast::Log(const std::string& name) const {
  return ReadFile(run_.Join(name + ".log")).value_or("");
}

std::string Cast::AllLogs() const {
  std::string all;
  for (const auto& member : members_)
    absl::StrAppend(&all, "--- ", member->name, "\n", Log(member->name));
  return all;
}

void PrepareForFaults(const TinyRun& run, const std::string& learner) {
  run.Replace("max_steps: 3", learner);
  run.Replace("lease_timeout: 20", "lease_timeout: 4");
  run.Replace("member_timeout: 20", "member_timeout: 4");
  run.Replace("evaluation { num_prompts: 2 num_completions: 1 num_examples: 1 }", "");
}

void ExpectNothingLostOrCountedTwice(const TinyRun& run, size_t steps, bool every_score) {
  const std::vector<nlohmann::json> metrics = run.Metrics();
  ASSERT_EQ(metrics.size(), steps);
  for (size_t i = 0; i < steps; ++i) {
    EXPECT_EQ(metrics[i]["step"].get<size_t>(), i + 1);
    if (every_score) EXPECT_EQ(metrics[i]["unscored"].get<int>(), 0);
    // Null where no group of the step was the trained version's.
    if (metrics[i]["logprob_difference_max"].is_number())
      EXPECT_LT(metrics[i]["logprob_difference_max"].get<double>(), 1e-3);
  }
  const auto journal = learner::Journal::Open(absl::StrCat(run.run_dir(), "/run.db"));
  ASSERT_TRUE(journal.ok()) << journal.status();
  const auto in_order = (*journal)->ReadSteps();
  ASSERT_TRUE(in_order.ok()) << in_order.status();
  ASSERT_EQ(in_order->size(), steps);
  std::set<uint64_t> seen;
  for (const learner::JournalStep& step : *in_order) {
    EXPECT_EQ(step.group_ids.size(), metrics[step.step - 1]["groups"].get<size_t>());
    for (const uint64_t id : step.group_ids)
      EXPECT_TRUE(seen.insert(id).second) << "group " << id << " is in two steps";
    const auto groups = (*journal)->ReadGroupsOfStep(step.step);
    ASSERT_TRUE(groups.ok()) << groups.status();
    for (const learner::JournalGroup& group : *groups) {
      for (const proto::Completion& completion : group.request.completion()) {
        EXPECT_EQ(completion.score_size(), 2);
        for (const proto::Score& score : completion.score()) {
          EXPECT_TRUE(!every_score || score.status() == proto::SCORED) << score.message();
          EXPECT_EQ(score.status() == proto::SCORED,
                    score.has_value() && std::isfinite(score.value()));
        }
      }
    }
  }
}

}  // namespace wideberth::testing
