// SPDX-License-Identifier: Apache-2.0
// How many scored groups a second the learner takes: the real service and journal (every group is
// on disk before it is acknowledged) over loopback gRPC, clients that lease and hand in groups of
// 16 completions of 96 tokens with two scores. No model, no training. Prints a markdown table.
// Usage: submit_benchmark FOLDER [SECONDS]
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/status.h"
#include "learner/service.h"
#include "transport/learner_client.h"
#include "transport/learner_service.h"

namespace wideberth::learner {
namespace {

constexpr int kCompletions = 16, kTokens = 96, kPromptTokens = 64, kGroupsPerStep = 64;

proto::SubmitGroupRequest Group(const proto::GroupLease& lease, const std::string& member_id) {
  proto::SubmitGroupRequest request;
  request.set_member_id(member_id);
  request.set_lease_id(lease.lease_id());
  request.set_group_id(lease.group_id());
  request.set_policy_version(lease.policy_version());
  request.set_adapter_fingerprint("fingerprint");
  for (int t = 0; t < kPromptTokens; ++t) request.add_prompt_token_id(t);
  for (int c = 0; c < kCompletions; ++c) {
    proto::Completion* const completion = request.add_completion();
    for (int t = 0; t < kTokens; ++t) {
      completion->add_token_id(100 + t);
      completion->add_logprob(-1.5f);
    }
    completion->set_text(std::string(4 * kTokens, 'x'));
    for (const char* scorer : {"safety", "helpfulness"}) {
      proto::Score* const score = completion->add_score();
      score->set_scorer_name(scorer);
      score->set_status(proto::SCORED);
      score->set_value(0.5);
    }
  }
  return request;
}

// A learner that takes groups and trains on none.
class Taker {
 public:
  explicit Taker(const std::string& folder) {
    config_.mutable_learner()->set_group_size(kCompletions);
    config_.mutable_reward()->add_guard("safety");
    config_.mutable_reward()->set_utility("helpfulness");
    prompt_.set_id("prompt");
    auto journal = Journal::Create(folder + "/run.db", "benchmark");
    WB_CHECK(journal.ok(), journal.status().ToString().c_str());
    journal_ = *std::move(journal);
    LeaseTable::Options options;
    options.groups_per_step = kGroupsPerStep;
    options.group_size = kCompletions;
    options.max_staleness = 4;
    options.max_steps = 1'000'000;
    options.lease_timeout = absl::Minutes(5);
    const auto prompt_of = [this](Phase, uint64_t) -> const proto::Prompt& { return prompt_; };
    leases_ = std::make_unique<LeaseTable>(options, &Clock::Real(), prompt_of);
    LearnerService::Parts parts;
    parts.config = &config_;
    parts.vocab = 1000;
    parts.clock = &Clock::Real();
    parts.leases = leases_.get();
    parts.members = &members_;
    parts.journal = journal_.get();
    parts.pool = &pool_;
    parts.shelf = &shelf_;
    parts.prompt_of = prompt_of;
    parts.encode = [](const proto::Prompt&) -> absl::StatusOr<std::vector<int32_t>> {
      std::vector<int32_t> ids;
      for (int t = 0; t < kPromptTokens; ++t) ids.push_back(t);
      return ids;
    };
    parts.decode = [](const std::vector<int32_t>&) { return std::string(4 * kTokens, 'x'); };
    service_ = std::make_unique<LearnerService>(std::move(parts));
    service_->NoteVersion(0, "fingerprint");
    leases_->BeginTraining();
    auto server = transport::LearnerServer::Start("127.0.0.1:0", service_.get());
    WB_CHECK(server.ok(), server.status().ToString().c_str());
    server_ = *std::move(server);
    steps_ = std::thread([this] {
      for (uint64_t version = 1;; ++version) {
        const auto groups = pool_.Take(Phase::kTrain, kGroupsPerStep, absl::Hours(1), nullptr);
        if (!groups.ok()) return;
        std::vector<uint64_t> ids;
        for (const AcceptedGroup& group : *groups) ids.push_back(group.request.group_id());
        service_->NoteVersion(version, "fingerprint");
        leases_->StepDone(version, ids);
      }
    });
  }
  ~Taker() {
    pool_.Interrupt();
    steps_.join();
    server_->Shutdown(absl::ZeroDuration());
  }
  std::string address() const { return server_->address(); }

 private:
  proto::RunConfig config_;
  proto::Prompt prompt_;
  std::unique_ptr<Journal> journal_;
  std::unique_ptr<LeaseTable> leases_;
  Members members_{&Clock::Real(), absl::Minutes(5), "base"};
  GroupPool pool_;
  transport::AdapterShelf shelf_;
  std::unique_ptr<LearnerService> service_;
  std::unique_ptr<transport::LearnerServer> server_;
  std::thread steps_;
};

void Measure(const std::string& address, int num_clients, double seconds) {
  std::atomic<bool> stop{false};
  std::vector<std::vector<double>> latencies(num_clients);
  std::vector<std::thread> threads;
  std::atomic<int64_t> num_other{0};
  for (int i = 0; i < num_clients; ++i) {
    threads.emplace_back([&, i] {
      const auto client = *transport::LearnerClient::Connect(address, absl::Seconds(10));
      proto::RegisterRequest hello;
      hello.set_role(proto::ACTOR);
      hello.set_name(absl::StrCat("actor-", num_clients, "-", i));
      hello.set_base_fingerprint("base");
      const std::string id = client->Register(hello)->member_id();
      proto::LeasePromptsRequest ask;
      ask.set_member_id(id);
      ask.set_max_groups(4);
      while (!stop) {
        const auto leased = client->LeasePrompts(ask);
        if (!leased.ok() || leased->lease().empty()) {
          absl::SleepFor(absl::Milliseconds(1));
          continue;
        }
        for (const proto::GroupLease& lease : leased->lease()) {
          const proto::SubmitGroupRequest request = Group(lease, id);
          const absl::Time began = absl::Now();
          const auto answer = client->SubmitGroup(request);
          if (answer.ok() && answer->outcome() == proto::SubmitGroupResponse::ACCEPTED) {
            latencies[i].push_back(absl::ToDoubleMilliseconds(absl::Now() - began));
          } else {
            ++num_other;
          }
        }
      }
    });
  }
  absl::SleepFor(absl::Seconds(seconds));
  stop = true;
  for (std::thread& thread : threads) thread.join();
  std::vector<double> all;
  for (const auto& of_one : latencies) all.insert(all.end(), of_one.begin(), of_one.end());
  std::sort(all.begin(), all.end());
  if (all.empty()) return;
  const auto at = [&](double q) { return all[static_cast<size_t>(q * (all.size() - 1))]; };
  std::printf("| %d | %.0f | %.1f | %.1f | %.1f | %lld |\n", num_clients,
              static_cast<double>(all.size()) / seconds, at(0.5), at(0.95), at(0.99),
              static_cast<long long>(num_other));
  std::fflush(stdout);
}

}  // namespace
}  // namespace wideberth::learner

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "Usage: submit_benchmark FOLDER [SECONDS]\n");
    return 2;
  }
  const double seconds = argc > 2 ? std::atof(argv[2]) : 5;
  const wideberth::learner::Taker taker(argv[1]);
  std::printf(
      "| clients | groups a second | p50 ms | p95 ms | p99 ms | not accepted |\n"
      "|---|---|---|---|---|---|\n");
  for (const int num_clients : {1, 4, 16, 64})
    wideberth::learner::Measure(taker.address(), num_clients, seconds);
}
