// SPDX-License-Identifier: Apache-2.0
// Sampling: the distribution drawn from, its independence of the batch, and the adapter's way
// through files and the weight wire.
#include "model/generate.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/hash.h"
#include "model/logprobs.h"
#include "model/random.h"
#include "model/sampler.h"
#include "model/small_gemm.h"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::model {
namespace {

using ::testing::HasSubstr;
using ::wideberth::testing::TempDir;
using Json = nlohmann::json;
using Ids = std::vector<int32_t>;

proto::GenerationConfig Sampling(const Json& c) {
  proto::GenerationConfig config;
  config.set_temperature(c["temperature"]);
  config.set_top_k(c["top_k"]);
  config.set_top_p(c["top_p"]);
  config.set_min_p(c["min_p"]);
  config.set_repetition_penalty(c["repetition_penalty"]);
  return config;
}

TEST(Philox, MatchesTheKnownAnswersOfThePaper) {
  EXPECT_EQ(Philox({0, 0, 0, 0}, {0, 0}),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

TEST(Sampler, DistributionsAreThoseOfTransformersProcessors) {
  const Json golden = Json::parse(*ReadFile(wideberth::testing::GoldenPath("sampling.json")));
  for (const Json& c : golden["cases"]) {
    Sampler sampler(Sampling(c));
    const std::vector<float> logits = golden["rows"][c["row"].get<int>()];
    const Ids seen = c["history_ids"];
    const std::vector<double> found = sampler.Distribution(logits, seen),
                              expected = c["probabilities"];
    for (size_t i = 0; i < found.size(); ++i)
      ASSERT_NEAR(found[i], expected[i], 2e-6)
          << "token " << i << " of " << c.dump().substr(0, 200);
  }
}

// Pearson's statistic over 20,000 draws; cells expected fewer than five times are pooled. The bound
// is the 1 - 1e-6 quantile (Wilson-Hilferty).
TEST(Sampler, DrawsFollowTheDistribution) {
  const Json golden = Json::parse(*ReadFile(wideberth::testing::GoldenPath("sampling.json")));
  constexpr int kDraws = 20000;
  uint64_t group = 0;
  for (const Json& c : golden["cases"]) {
    Sampler sampler(Sampling(c));
    const std::vector<float> logits = golden["rows"][c["row"].get<int>()];
    const Ids seen = c["history_ids"];
    const std::vector<double> expected = c["probabilities"];
    std::vector<int> counts(expected.size());
    ++group;
    for (int i = 0; i < kDraws; ++i)
      ++counts[sampler.Sample(logits, seen, UniformAt(7, group, 3, i)).token];
    double statistic = 0, pooled_expected = 0, pooled_count = 0;
    int cells = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      if (expected[i] == 0) {
        ASSERT_EQ(counts[i], 0) << "token " << i << " can not be drawn";
      } else if (expected[i] * kDraws < 5) {
        pooled_expected += expected[i] * kDraws;
        pooled_count += counts[i];
      } else {
        statistic += std::pow(counts[i] - expected[i] * kDraws, 2) / (expected[i] * kDraws);
        ++cells;
      }
    }
    if (pooled_expected >= 5) {
      statistic += std::pow(pooled_count - pooled_expected, 2) / pooled_expected;
      ++cells;
    }
    const double freedom = std::max(1, cells - 1), t = 2 / (9 * freedom);
    EXPECT_LT(statistic, freedom * std::pow(1 - t + 4.75 * std::sqrt(t), 3))
        << c.dump().substr(0, 160);
  }
}

TEST(SmallGemm, EqualsTheLibrarysProductForEveryNumberOfRows) {
  const c10::InferenceMode inference;
  for (int64_t m : {1, 3, 4, 5, 7, 8, 31, 96, 97}) {
    for (int64_t n : {5, 6, 7, 64}) {
      for (int64_t k : {16, 48, 50}) {
        const at::Tensor x = at::randn({m, k}), weight = at::randn({n, k});
        const at::Tensor difference = TimesTransposed(x, weight) - at::mm(x, weight.t());
        EXPECT_LT(difference.abs().max().item<double>(), 2e-5) << m << " " << n << " " << k;
      }
    }
  }
}

class GenerateTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(wideberth::testing::WriteTinyModel("llama", folder_.path(), {}).ok());
    proto::ModelConfig config;
    config.set_path(folder_.path());
    auto model = CausalLm::Load(config);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
  }
  std::vector<std::vector<Sampled>> Run(const std::vector<PromptGroup>& groups,
                                        const GenerateOptions& options) {
    auto result = Generate(*model_, groups, options);
    EXPECT_TRUE(result.ok()) << result.status();
    return *result;
  }
  TempDir folder_;
  std::unique_ptr<CausalLm> model_;
};

TEST_F(GenerateTest, ACompletionDoesNotDependOnWhatElseIsInTheBatch) {
  GenerateOptions options;
  options.sampling.set_max_new_tokens(24);
  options.seed = 11;
  options.stop_tokens = {7, 100, 200};
  const std::vector<PromptGroup> groups = {
      {4, {5, 6, 7}, 3}, {9, {8}, 2}, {12, {30, 31, 32, 33, 34, 35}, 4}};
  const auto together = Run(groups, options);
  for (size_t g = 0; g < groups.size(); ++g) {
    const auto alone = Run({groups[g]}, options);
    for (int c = 0; c < groups[g].num_completions; ++c) {
      EXPECT_EQ(alone[0][c].tokens, together[g][c].tokens);
      EXPECT_EQ(alone[0][c].finish, together[g][c].finish);
    }
  }
  EXPECT_NE(together[0][0].tokens, together[0][1].tokens);
  options.seed = 12;
  EXPECT_NE(Run(groups, options)[0][0].tokens, together[0][0].tokens);
}

TEST_F(GenerateTest, LogProbsAreThoseTheLearnerComputes) {
  GenerateOptions options;
  options.sampling.set_max_new_tokens(32);
  options.sampling.set_temperature(0.7);
  options.sampling.set_top_p(0.9);
  const PromptGroup group = {3, {5, 6, 7, 8, 9}, 6};
  // Of all weights: every tensor is another than the base's, the output head among them.
  const auto adapter = Adapter::AllWeights(model_->spec(), model_->weights(), at::kFloat);
  for (at::Tensor& tensor : adapter->Parameters()) tensor.mul_(-0.9);
  for (const Adapter* trained : std::vector<const Adapter*>{nullptr, adapter.get()}) {
    options.adapter = trained;
    const auto sampled = Run({group}, options)[0];
    std::vector<Ids> completions;
    std::vector<float> expected;
    for (const Sampled& s : sampled) {
      completions.push_back(s.tokens);
      expected.insert(expected.end(), s.logprobs.begin(), s.logprobs.end());
      EXPECT_EQ(s.tokens.size(), 32u);
      EXPECT_EQ(s.finish, proto::LENGTH);
    }
    const GroupTree tree = MakeGroupTree(group.prompt, completions);
    ForwardOptions forward;
    forward.adapter = trained;
    const at::Tensor logprobs =
        LogProbsOfTokens(model_->Hidden(tree.tree, forward), model_->HeadOf(trained), tree.rows,
                         tree.targets, 0.7)
            .logprob;
    EXPECT_LT((logprobs - at::tensor(expected)).abs().max().item<double>(), 1e-4);
  }
}

TEST_F(GenerateTest, StopTokensEndACompletionAndAreKept) {
  GenerateOptions options;
  options.sampling.set_max_new_tokens(64);
  for (int id = 0; id < 160; ++id) options.stop_tokens.push_back(id);
  int stopped = 0;
  const std::vector<Sampled> sampled = Run({{1, {5, 6}, 16}}, options)[0];
  for (const Sampled& s : sampled) {
    for (size_t i = 0; i + 1 < s.tokens.size(); ++i) EXPECT_GE(s.tokens[i], 160);
    EXPECT_EQ(s.logprobs.size(), s.tokens.size());
    if (s.finish == proto::STOP) {
      EXPECT_LT(s.tokens.back(), 160);
      ++stopped;
    }
  }
  EXPECT_GT(stopped, 8);
}

TEST_F(GenerateTest, RefusesWhatDoesNotFitInOneSentence) {
  GenerateOptions options;
  options.sampling.set_max_new_tokens(510);
  auto message = [&](const std::vector<PromptGroup>& groups) {
    return std::string(Generate(*model_, groups, options).status().message());
  };
  EXPECT_THAT(message({{1, {1, 2, 3}, 1}}),
              HasSubstr("a prompt of 3 tokens and max_new_tokens 510 exceed the context of 512"));
  EXPECT_THAT(message({{1, {1, 320}, 1}}),
              HasSubstr("token id 320 is outside the model's vocabulary of 320"));
  EXPECT_THAT(message({{1, {}, 1}}), HasSubstr("the prompt has no token"));
  options.sampling.set_top_p(1.5);
  EXPECT_THAT(message({{1, {1}, 1}}), HasSubstr("generation.top_p is 1.5, must be in (0, 1]"));
}

TEST_F(GenerateTest, StopsBetweenTwoStepsWhenAsked) {
  GenerateOptions options;
  int steps = 0;
  options.between_steps = [&](int64_t) { return ++steps < 5; };
  EXPECT_EQ(Generate(*model_, {{1, {1}, 2}}, options).status().code(),
            absl::StatusCode::kCancelled);
  EXPECT_EQ(steps, 5);
}

TEST_F(GenerateTest, ASharedBeginningIsComputedOnceAndChangesNothing) {
  GenerateOptions options;
  options.sampling.set_max_new_tokens(24);
  options.stop_tokens = {7, 100, 200};
  const std::vector<PromptGroup> groups = {{4, {40, 41, 42, 43, 5}, 3},
                                           {9, {40, 41, 42, 43, 8, 9, 10}, 2}};
  const auto expected = Run(groups, options);
  std::vector<KvPrefix> kv;
  {
    const c10::InferenceMode inference;
    TokenTree tree;
    tree.Add({40, 41, 42, 43});
    ForwardOptions forward;
    forward.root_kv = &kv;
    model_->Hidden(tree, forward);
  }
  options.prefix = &kv[0];
  const auto found = Run(groups, options);
  for (size_t g = 0; g < groups.size(); ++g) {
    for (int c = 0; c < groups[g].num_completions; ++c) {
      EXPECT_EQ(found[g][c].tokens, expected[g][c].tokens);
      for (size_t t = 0; t < found[g][c].logprobs.size(); ++t)
        EXPECT_NEAR(found[g][c].logprobs[t], expected[g][c].logprobs[t], 1e-4);
    }
  }
  EXPECT_THAT(
      std::string(Generate(*model_, {{1, {40, 41, 42, 43}, 1}}, options).status().message()),
      HasSubstr("a prompt of 4 tokens, expected more than the 4 it shares"));
}

TEST_F(GenerateTest, AGroupThatIsNotWantedEndsAndTheOthersGoOn) {
  GenerateOptions options;
  options.sampling.set_max_new_tokens(24);
  const std::vector<PromptGroup> groups = {{4, {5, 6, 7}, 2}, {9, {8}, 2}, {12, {30, 31}, 1}};
  const auto expected = Run(groups, options);
  int asked = 0;
  options.wanted = [&](size_t group) { return group != 1 || ++asked < 5; };
  const auto found = Run(groups, options);
  for (size_t g : {0, 2}) {
    for (int c = 0; c < groups[g].num_completions; ++c)
      EXPECT_EQ(found[g][c].tokens, expected[g][c].tokens);
  }
  for (int c = 0; c < 2; ++c) {
    const Ids& tokens = found[1][c].tokens;
    EXPECT_LT(tokens.size(), 8);
    EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), expected[1][c].tokens.begin()));
    EXPECT_EQ(found[1][c].finish, proto::LENGTH);
  }
}

TEST_F(GenerateTest, GroupsJoinARunningBatchAndLeaveItWithoutWaitingForTheSlowest) {
  GenerateOptions options;
  options.sampling.set_max_new_tokens(24);
  options.seed = 11;
  options.stop_tokens = {7, 100, 200};
  const std::vector<PromptGroup> groups = {
      {4, {5, 6, 7}, 3}, {9, {8}, 2}, {12, {30, 31, 32, 33, 34, 35}, 4}, {13, {40, 41}, 2}};
  const auto generator = *Generator::Create(model_.get(), options);
  std::map<size_t, int> ended_at;
  for (int step = 0; step == 0 || !generator->running().empty(); ++step) {
    // One joins every fifth step.
    if (step % 5 == 0 && step / 5 < static_cast<int>(groups.size())) {
      const absl::StatusOr<size_t> index = generator->Add({groups[step / 5]});
      ASSERT_TRUE(index.ok()) << index.status();
      EXPECT_EQ(*index, static_cast<size_t>(step / 5));
    }
    ASSERT_TRUE(generator->Step().ok());
    for (const Generator::Finished& finished : generator->TakeFinished()) {
      ended_at[finished.index] = step;
      const auto alone = Run({groups[finished.index]}, options)[0];
      for (size_t c = 0; c < alone.size(); ++c) {
        EXPECT_EQ(finished.completions[c].tokens, alone[c].tokens) << finished.index << " " << c;
        EXPECT_EQ(finished.completions[c].finish, alone[c].finish);
        for (size_t t = 0; t < alone[c].tokens.size(); ++t)
          EXPECT_NEAR(finished.completions[c].logprobs[t], alone[c].logprobs[t], 1e-4);
      }
    }
  }
  ASSERT_EQ(ended_at.size(), groups.size());
  EXPECT_LT(ended_at[0], ended_at[3]) << "the first left while the last was still sampled";
}

TEST_F(GenerateTest, RowsThatEndedLongAgoAreDroppedBeforeTheyHaveNoRoom) {
  GenerateOptions options;
  options.sampling.set_max_new_tokens(16);
  const auto generator = *Generator::Create(model_.get(), options);
  const size_t one = *generator->Add({{1, {5}, 1}}), eight = *generator->Add({{2, {6}, 8}});
  generator->End(one);
  for (int step = 0; step < 12; ++step) ASSERT_TRUE(generator->Step().ok());
  // So many join that those that ended stay below a quarter of the batch.
  ASSERT_TRUE(generator->Add({{3, {7}, 40}}).ok());
  generator->End(eight);
  EXPECT_EQ(generator->TakeFinished().size(), 2u);
  while (!generator->running().empty()) {
    ASSERT_TRUE(generator->Step().ok());
    generator->TakeFinished();
  }
}

TEST_F(GenerateTest, AVersionChangesBetweenTwoTokensAndEveryTokenKnowsItsOwn) {
  GenerateOptions options;
  options.sampling.set_max_new_tokens(16);
  proto::LoraConfig lora;
  lora.set_rank(4);
  std::vector<std::shared_ptr<Adapter>> versions;
  for (uint64_t seed : {1, 2}) {
    versions.push_back(*Adapter::Initialize(model_->spec(), lora, seed, at::kFloat, at::kCPU));
    for (at::Tensor& parameter : versions.back()->Parameters()) parameter.normal_(0.0, 0.5);
  }
  const PromptGroup group = {3, {5, 6, 7, 8, 9}, 3};
  options.adapter = versions[0].get();
  const auto first_only = Run({group}, options)[0];
  options.adapter = nullptr;
  const auto generator = *Generator::Create(model_.get(), options);
  generator->Use(versions[0].get(), 6);
  ASSERT_TRUE(generator->Add({group}).ok());
  for (int step = 0; step < 4; ++step) ASSERT_TRUE(generator->Step().ok());
  generator->Use(versions[1].get(), 7);
  while (generator->running().size() == 1) {
    ASSERT_TRUE(generator->Step().ok());
    for (const Generator::Finished& finished : generator->TakeFinished()) {
      for (int c = 0; c < 3; ++c) {
        const Sampled& sampled = finished.completions[c];
        ASSERT_EQ(sampled.versions.size(), 2u);
        EXPECT_EQ(sampled.versions[0].version, 6u);
        EXPECT_EQ(sampled.versions[0].num_tokens, 5);
        EXPECT_EQ(sampled.versions[1].version, 7u);
        EXPECT_EQ(sampled.versions[1].num_tokens, 11);
        EXPECT_TRUE(std::equal(sampled.tokens.begin(), sampled.tokens.begin() + 5,
                               first_only[c].tokens.begin()));
        EXPECT_NE(sampled.logprobs[5], first_only[c].logprobs[5]);
      }
    }
  }
}

TEST_F(GenerateTest, AdapterSurvivesFilesAndWire) {
  proto::LoraConfig lora;
  lora.set_rank(4);
  lora.add_target("q_proj");
  lora.add_target("down_proj");
  const auto adapter = *Adapter::Initialize(model_->spec(), lora, 5, at::kFloat, at::kCPU);
  for (at::Tensor& parameter : adapter->Parameters()) parameter.add_(0.25);
  ASSERT_TRUE(adapter->Save(folder_.Join("adapter"), "base").ok());
  const auto loaded = Adapter::Load(folder_.Join("adapter"), model_->spec(), at::kFloat, at::kCPU);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  proto::AdapterManifest manifest;
  const std::string bytes = adapter->Pack(at::kFloat, &manifest);
  EXPECT_EQ(manifest.fingerprint(), Fingerprint(bytes));
  const auto unpacked = Adapter::Unpack(manifest, bytes, model_->spec(), at::kFloat, at::kCPU);
  ASSERT_TRUE(unpacked.ok()) << unpacked.status();
  const auto a = adapter->NamedTensors(), b = (*loaded)->NamedTensors(),
             c = (*unpacked)->NamedTensors();
  ASSERT_EQ(a.size(), 12u);
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].first, b[i].first);
    EXPECT_TRUE(at::equal(a[i].second, b[i].second));
    EXPECT_TRUE(at::equal(a[i].second, c[i].second));
  }
  manifest.mutable_tensor(3)->set_shape(0, 1);
  EXPECT_THAT(std::string(Adapter::Unpack(manifest, bytes, model_->spec(), at::kFloat, at::kCPU)
                              .status()
                              .message()),
              HasSubstr("expected \"model.layers.0.mlp.down_proj"));
  lora.add_target("qproj");
  EXPECT_THAT(
      std::string(
          Adapter::Initialize(model_->spec(), lora, 5, at::kFloat, at::kCPU).status().message()),
      HasSubstr("lora.target \"qproj\" is no projection"));
}

}  // namespace
}  // namespace wideberth::model
