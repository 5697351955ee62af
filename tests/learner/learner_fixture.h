// SPDX-License-Identifier: Apache-2.0
// A learner of a tiny model in this process, with what tests ask of its run.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "learner/learner.h"
#include "model/runtime.h"
#include "tests/learner/test_actor.h"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::learner {

using nlohmann::json;

class LearnerTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    [[maybe_unused]] static const bool once = [] {
      model::ConfigureRuntime(1);
      return true;
    }();
  }
  void SetUp() override {
    ASSERT_TRUE(wideberth::testing::WriteTinyModel("llama", dir_.Join("model")).ok());
    std::string prompts;
    for (int i = 0; i < 12; ++i)
      absl::StrAppend(&prompts, R"({"id": "p)", i, R"(", "prompt": "question )", i, "\"}\n");
    std::ofstream(dir_.Join("prompts.jsonl")) << prompts;
    config_.set_name("tiny");
    config_.set_seed(5);
    config_.mutable_policy()->mutable_model()->set_path(dir_.Join("model"));
    config_.mutable_policy()->mutable_lora()->set_rank(4);
    config_.mutable_prompts()->add_path(dir_.Join("prompts.jsonl"));
    config_.mutable_prompts()->set_num_held_out(3);
    config_.mutable_generation()->set_max_new_tokens(6);
    for (const char* name : {"safety", "helpful"}) {
      proto::ScorerConfig* scorer = config_.add_scorer();
      scorer->set_name(name);
      scorer->mutable_model()->set_path(dir_.Join("model"));
    }
    config_.mutable_reward()->add_guard("safety");
    config_.mutable_reward()->set_utility("helpful");
    proto::LearnerConfig* learner = config_.mutable_learner();
    learner->set_max_steps(3);
    learner->set_groups_per_step(2);
    learner->set_group_size(4);
    learner->set_learning_rate(1e-2);
    learner->set_step_timeout(60);
    config_.mutable_evaluation()->set_num_prompts(2);
    config_.mutable_supervisor()->set_drain_timeout(3);
  }
  std::string RunDir(const std::string& name = "run") {
    config_.set_run_dir(dir_.Join(name));
    return config_.run_dir();
  }
  std::unique_ptr<Learner> Make() {
    auto learner = Learner::Create(config_, &Clock::Real());
    EXPECT_TRUE(learner.ok()) << learner.status();
    return learner.ok() ? *std::move(learner) : nullptr;
  }
  // Runs the learner with these actors, each on a thread of its own.
  static absl::Status RunWith(Learner& learner, const std::vector<TestActor*>& actors) {
    std::vector<std::thread> threads;
    for (TestActor* actor : actors) {
      threads.emplace_back([actor] {
        const absl::Status status = actor->Run();
        EXPECT_TRUE(status.ok()) << status;
      });
    }
    const absl::Status status = learner.Run();
    for (std::thread& thread : threads) thread.join();
    return status;
  }
  static std::vector<json> Metrics(const std::string& run_dir) {
    std::vector<json> lines;
    const std::string text = ReadFile(run_dir + "/metrics.jsonl").value_or("");
    for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty()))
      lines.push_back(json::parse(std::string(line)));
    return lines;
  }
  static json SummaryOf(const std::string& run_dir) {
    return json::parse(ReadFile(run_dir + "/summary.json").value_or("{}"));
  }

  wideberth::testing::TempDir dir_;
  proto::RunConfig config_;
};

}  // namespace wideberth::learner
