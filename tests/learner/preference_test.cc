// SPDX-License-Identifier: Apache-2.0
// Preference training beyond TRL's numbers (supervised_golden_test.cc): row weights, pairs and
// their packing, the base model as reference, score heads.
#include "learner/preference.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "base/file.h"
#include "learner/dpo.h"
#include "learner/reward_model.h"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::learner {
namespace {

at::Tensor Doubles(std::vector<double> values) { return at::tensor(values, at::kDouble); }

double LogSigmoid(double x) { return -std::log1p(std::exp(-x)); }
double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

DpoInputs ThreePairs() {
  DpoInputs inputs;
  inputs.chosen = Doubles({-12, -30.5, -7}).set_requires_grad(true);
  inputs.rejected = Doubles({-11, -41.25, -9}).set_requires_grad(true);
  inputs.reference_chosen = Doubles({-13, -29, -7});
  inputs.reference_rejected = Doubles({-10.5, -40, -9});
  inputs.chosen_tokens = Doubles({4, 9, 1});
  inputs.weights = Doubles({0.8, 1.2, 0});
  return inputs;
}

TEST(DpoLoss, IsTheFormulaRowByRowWithItsGradient) {
  proto::DpoConfig config;
  config.set_beta(0.3);
  config.set_label_smoothing(0.1);
  config.set_sft_weight(2);
  const DpoInputs inputs = ThreePairs();
  const at::Tensor loss = DpoLoss(inputs, config);
  loss.sum().backward();
  const std::vector<double> d = {1.5, -0.25, 0}, weight = {0.8, 1.2, 0}, chosen = {-12, -30.5, -7},
                            tokens = {4, 9, 1};
  for (int i = 0; i < 3; ++i) {
    const double x = 0.3 * d[i];
    EXPECT_NEAR(
        loss[i].item<double>(),
        weight[i] * (-0.9 * LogSigmoid(x) - 0.1 * LogSigmoid(-x)) - 2 * chosen[i] / tokens[i],
        1e-12);
    // d/dx of the bracket is sigmoid(x) - (1 - s).
    const double slope = weight[i] * 0.3 * (Sigmoid(x) - 0.9);
    EXPECT_NEAR(inputs.chosen.grad()[i].item<double>(), slope - 2 / tokens[i], 1e-12);
    EXPECT_NEAR(inputs.rejected.grad()[i].item<double>(), -slope, 1e-12);
  }
}

TEST(DpoLoss, WeightLeavesTheSftTermAlone) {
  proto::DpoConfig config;
  config.set_sft_weight(0.5);
  const at::Tensor loss = DpoLoss(ThreePairs(), config);
  EXPECT_DOUBLE_EQ(loss[2].item<double>(), 3.5) << "a row of weight 0: 0.5 * 7 / 1";
}

TEST(DpoLoss, StaysFiniteWhereTheModelIsFarFromItsReference) {
  DpoInputs inputs = ThreePairs();
  inputs.chosen = Doubles({-1e5, 0, 1e5});
  proto::DpoConfig config;
  config.set_label_smoothing(0.2);
  EXPECT_TRUE(DpoLoss(inputs, config).isfinite().all().item<bool>());
}

TEST(RewardModelLoss, IsTheFormulaRowByRowWithItsGradient) {
  proto::RewardModelConfig config;
  config.set_center_rewards_coefficient(0.25);
  const at::Tensor chosen = Doubles({1.5, -2}).set_requires_grad(true);
  const at::Tensor rejected = Doubles({0.5, 3}).set_requires_grad(true);
  const at::Tensor loss = RewardModelLoss(chosen, rejected, Doubles({0.75, 0}), config);
  loss.sum().backward();
  EXPECT_NEAR(loss[0].item<double>(), -LogSigmoid(0.25) + 0.25 * 4, 1e-12);
  EXPECT_NEAR(loss[1].item<double>(), -LogSigmoid(-5) + 0.25 * 1, 1e-12);
  EXPECT_NEAR(chosen.grad()[0].item<double>(), Sigmoid(0.25) - 1 + 0.25 * 2 * 2, 1e-12);
  EXPECT_NEAR(rejected.grad()[0].item<double>(), 1 - Sigmoid(0.25) + 0.25 * 2 * 2, 1e-12);
}

AnsweredTokens Answered(std::vector<int32_t> tokens, int64_t prompt_tokens) {
  AnsweredTokens row;
  row.answer.assign(tokens.size(), true);
  std::fill_n(row.answer.begin(), prompt_tokens, false);
  row.prompt_tokens = prompt_tokens;
  row.tokens = std::move(tokens);
  return row;
}

TEST(MakePair, SharesThePromptAndNothingOfTheAnswers) {
  const PreferencePair pair =
      MakePair(Answered({5, 6, 7, 8, 2}, 3), Answered({5, 6, 7, 8, 9}, 3), 9);
  EXPECT_EQ(pair.prompt, (std::vector<int32_t>{5, 6, 7}));
  EXPECT_EQ(pair.chosen, (std::vector<int32_t>{8, 2}));
  EXPECT_EQ(pair.rejected, (std::vector<int32_t>{8, 9}));
}

TEST(MakePair, EndsThePromptWhereItsTokensMergeWithOneAnswer) {
  const PreferencePair pair = MakePair(Answered({5, 6, 7, 2}, 3), Answered({5, 6, 70, 2}, 3), 9);
  EXPECT_EQ(pair.prompt, (std::vector<int32_t>{5, 6}));
  EXPECT_EQ(pair.chosen, (std::vector<int32_t>{7, 2}));
  EXPECT_EQ(pair.rejected, (std::vector<int32_t>{70, 2}));
}

TEST(MakePair, CutsTheFrontOfThePromptThenTheEndsOfTheAnswers) {
  const AnsweredTokens chosen = Answered({5, 6, 7, 8, 2}, 3), rejected = Answered({5, 6, 7, 2}, 3);
  PreferencePair pair = MakePair(chosen, rejected, 4);
  EXPECT_EQ(pair.prompt, (std::vector<int32_t>{6, 7})) << "the same for both answers";
  EXPECT_EQ(pair.chosen, (std::vector<int32_t>{8, 2}));
  EXPECT_EQ(pair.rejected, (std::vector<int32_t>{2}));
  pair = MakePair(chosen, rejected, 2);
  EXPECT_EQ(pair.prompt, (std::vector<int32_t>{7}));
  EXPECT_EQ(pair.chosen, (std::vector<int32_t>{8}));
  EXPECT_EQ(pair.rejected, (std::vector<int32_t>{2}));
}

class PreferenceTasks : public ::testing::Test {
 protected:
  void Load(const std::string& kind, proto::DType dtype = proto::FLOAT64) {
    ASSERT_TRUE(testing::WriteTinyModel(kind, dir_.Join(kind)).ok());
    config_.mutable_policy()->mutable_model()->set_path(dir_.Join(kind));
    config_.mutable_policy()->mutable_model()->set_dtype(dtype);
    config_.mutable_policy()->mutable_lora()->set_rank(4);
    auto model = model::CausalLm::Load(config_.policy().model());
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    auto adapter =
        model::Adapter::Initialize(model_->spec(), config_.policy().lora(), /*seed=*/3,
                                   dtype == proto::FLOAT64 ? at::kDouble : at::kFloat, at::kCPU);
    ASSERT_TRUE(adapter.ok()) << adapter.status();
    adapter_ = *std::move(adapter);
  }

  static PreferenceData SomePairs() {
    PreferenceData data;
    for (int i = 0; i < 5; ++i) {
      PreferencePair pair;
      for (int t = 0; t < 3 + i; ++t) pair.prompt.push_back(10 + 7 * i + t);
      for (int t = 0; t < 1 + i % 3; ++t) pair.chosen.push_back(100 + 5 * i + t);
      for (int t = 0; t < 4 - i % 4; ++t) pair.rejected.push_back(200 + 3 * i + t);
      pair.weight = 0.5 + 0.25 * i;
      pair.margin = 0.1 * i;
      data.train.push_back(pair);
    }
    return data;
  }

  // The gradient of all five pairs' loss, in passes of at most `max_tokens`.
  at::Tensor Gradient(const SupervisedTask& task, int64_t max_tokens, double* loss) {
    for (at::Tensor& tensor : adapter_->Parameters()) {
      tensor.set_requires_grad(true);
      tensor.mutable_grad().reset();
    }
    *loss = 0;
    for (const Pass& pass : task.Plan(Split::kTrain, {0, 1, 2, 3, 4}, max_tokens)) {
      const at::Tensor part =
          task.Compute(Split::kTrain, pass, {model_.get(), adapter_.get()}).loss;
      *loss += part.item<double>();
      part.backward();
    }
    std::vector<at::Tensor> gradients;
    for (const at::Tensor& tensor : adapter_->Parameters())
      gradients.push_back(tensor.grad().flatten());
    return at::cat(gradients);
  }

  void ExpectPackingDoesNotMatter(const SupervisedTask& task) {
    double together = 0, apart = 0;
    const at::Tensor all = Gradient(task, 1000, &together);
    const at::Tensor single = Gradient(task, 1, &apart);
    EXPECT_EQ(task.Plan(Split::kTrain, {0, 1, 2, 3, 4}, 1000).size(), 1u);
    EXPECT_EQ(task.Plan(Split::kTrain, {0, 1, 2, 3, 4}, 1).size(), 5u) << "a pair is never split";
    EXPECT_NEAR(together, apart, 1e-12);
    EXPECT_GT(all.norm().item<double>(), 1e-3);
    EXPECT_LT((all - single).abs().max().item<double>(), 1e-12);
  }

  std::string WriteRows(const std::string& text) {
    EXPECT_TRUE(WriteFileAtomically(dir_.Join("rows.jsonl"), text).ok());
    return dir_.Join("rows.jsonl");
  }

  testing::TempDir dir_;
  proto::RunConfig config_;
  std::unique_ptr<model::CausalLm> model_;
  std::shared_ptr<model::Adapter> adapter_;
};

TEST_F(PreferenceTasks, DpoDoesNotDependOnPacking) {
  Load("llama");
  proto::DpoConfig dpo;
  dpo.set_sft_weight(0.5);
  ExpectPackingDoesNotMatter(DpoTask(dpo, SomePairs()));
}

TEST_F(PreferenceTasks, RewardDoesNotDependOnPacking) {
  Load("llama_reward");
  ASSERT_TRUE(AddScoreHead(*model_, 1, adapter_.get()).ok());
  ExpectPackingDoesNotMatter(RewardTask(proto::RewardModelConfig(), SomePairs()));
}

TEST_F(PreferenceTasks, DpoBeginsAtItsReference) {
  Load("qwen2");
  const PreferenceData data = SomePairs();
  const DpoTask task(proto::DpoConfig(), data);
  double weight = 0, found = 0;
  for (const PreferencePair& pair : data.train) weight += pair.weight / 5;
  Gradient(task, 1000, &found);
  EXPECT_NEAR(found, weight * std::log(2), 1e-12) << "B is zero: d is zero, weights are rows'";
}

TEST_F(PreferenceTasks, DpoBeginsAtTheAdapterItStartsFrom) {
  Load("llama");
  for (auto& [name, tensor] : adapter_->NamedTensors())
    if (name.find("lora_B") != std::string::npos) tensor.fill_(0.01);
  const PreferenceData data = SomePairs();
  DpoTask live(proto::DpoConfig(), data), kept(proto::DpoConfig(), data);
  ASSERT_TRUE(
      kept.PrecomputeReference(ModelInUse{model_.get(), nullptr, adapter_.get()}, 1000).ok());
  double weight = 0, of_base = 0, of_adapter = 0, precomputed = 0;
  for (const PreferencePair& pair : data.train) weight += pair.weight / 5;
  const at::NoGradGuard no_grad;
  const auto loss = [&](const DpoTask& task, const model::Adapter* reference) {
    const std::vector<Pass> passes = task.Plan(Split::kTrain, {0, 1, 2, 3, 4}, 1000);
    double sum = 0;
    for (const Pass& pass : passes) {
      sum += task.Compute(Split::kTrain, pass, {model_.get(), adapter_.get(), reference})
                 .loss.item<double>();
    }
    return sum;
  };
  of_base = loss(live, nullptr);
  of_adapter = loss(live, adapter_.get());
  precomputed = loss(kept, nullptr);
  EXPECT_NEAR(of_adapter, weight * std::log(2), 1e-12);
  EXPECT_NEAR(precomputed, weight * std::log(2), 1e-12);
  EXPECT_GT(std::abs(of_base - of_adapter), 1e-6);
}

TEST_F(PreferenceTasks, PrecomputedReferenceIsThatOfEveryStep) {
  Load("llama");
  for (auto& [name, tensor] : adapter_->NamedTensors())
    if (name.find("lora_B") != std::string::npos) tensor.fill_(0.01);
  PreferenceData data = SomePairs();
  data.validation = {data.train[3], data.train[1]};
  const DpoTask live(proto::DpoConfig(), data);
  DpoTask kept(proto::DpoConfig(), data);
  ASSERT_TRUE(kept.PrecomputeReference(ModelInUse{model_.get()}, /*max_tokens=*/20).ok());
  double expected = 0, found = 0;
  const at::Tensor gradient = Gradient(live, 1000, &expected);
  EXPECT_LT((Gradient(kept, 1000, &found) - gradient).abs().max().item<double>(), 1e-12);
  EXPECT_NEAR(found, expected, 1e-12);
  const at::NoGradGuard no_grad;
  const ModelInUse in_use{model_.get(), adapter_.get()};
  for (const Pass& pass : live.Plan(Split::kValidation, {1, 0}, 1000)) {
    EXPECT_NEAR(kept.Compute(Split::kValidation, pass, in_use).loss.item<double>(),
                live.Compute(Split::kValidation, pass, in_use).loss.item<double>(), 1e-12);
  }
}

TEST_F(PreferenceTasks, ScoreHeadIsTheClassifiersOrSmallNumbersOfTheSeed) {
  Load("llama_reward");
  ASSERT_TRUE(AddScoreHead(*model_, 1, adapter_.get()).ok());
  EXPECT_TRUE(at::equal(adapter_->score_head(), model_->head()));
  EXPECT_NE(adapter_->score_head().data_ptr(), model_->head().data_ptr()) << "it is trained";
  Load("llama");
  ASSERT_TRUE(AddScoreHead(*model_, 1, adapter_.get()).ok());
  const at::Tensor head = adapter_->score_head().clone();
  EXPECT_EQ(head.sizes(), at::IntArrayRef({1, 64}));
  EXPECT_NEAR(head.std().item<double>(), 0.02, 0.005);
  EXPECT_NEAR(head.mean().item<double>(), 0, 0.0075);
  ASSERT_TRUE(AddScoreHead(*model_, 1, adapter_.get()).ok());
  EXPECT_TRUE(at::equal(adapter_->score_head(), head));
  ASSERT_TRUE(AddScoreHead(*model_, 2, adapter_.get()).ok());
  EXPECT_FALSE(at::equal(adapter_->score_head(), head));
}

TEST_F(PreferenceTasks, ABfloat16BaseTrainsAFloat32ScoreHead) {
  Load("llama_reward", proto::BFLOAT16);
  ASSERT_TRUE(AddScoreHead(*model_, 1, adapter_.get()).ok());
  ASSERT_EQ(adapter_->score_head().scalar_type(), at::kFloat);
  config_.mutable_learner()->set_learning_rate(1e-2);
  auto trainer = SupervisedTrainer::Create(model_.get(), adapter_, nullptr, config_, 12);
  ASSERT_TRUE(trainer.ok()) << trainer.status();
  const at::Tensor before = adapter_->score_head().clone();
  const RewardTask task(proto::RewardModelConfig(), SomePairs());
  double first = 0, last = 0;
  for (int step = 0; step < 12; ++step) {
    const auto done = (*trainer)->Step(task, task.Plan(Split::kTrain, {0, 1, 2, 3, 4}, 1000), step);
    ASSERT_TRUE(done.ok()) << done.status();
    ASSERT_EQ(done->skipped, "");
    (step == 0 ? first : last) = done->loss;
  }
  EXPECT_LT(last, 0.5 * first);
  EXPECT_FALSE(at::equal(adapter_->score_head(), before));
}

TEST_F(PreferenceTasks, RowsAreTokenisedWithTheirWeightsAndMargins) {
  Load("llama");
  config_.mutable_data()->add_path(WriteRows(
      "{\"prompt\": \"Is it \", \"chosen\": \"yes\", \"rejected\": \"no, never\", \"weight\": "
      "1.2}\n"
      "{\"prompt\": [{\"role\": \"user\", \"content\": \"hi\"}],"
      " \"chosen\": [{\"role\": \"assistant\", \"content\": \"a\"}],"
      " \"rejected\": [{\"role\": \"assistant\", \"content\": \"b\"}], \"margin\": 0.5}\n"));
  const auto data = ReadPreferenceData(config_, *model_);
  ASSERT_TRUE(data.ok()) << data.status();
  ASSERT_EQ(data->train.size(), 2u);
  EXPECT_EQ(data->train[0].weight, 1.2);
  EXPECT_EQ(data->train[0].margin, 0);
  EXPECT_EQ(data->train[0].chosen.back(), 2) << "a text ends with the end-of-text token";
  EXPECT_EQ(data->train[0].rejected.back(), 2);
  EXPECT_EQ(data->train[1].weight, 1);
  EXPECT_EQ(data->train[1].margin, 0.5);
  EXPECT_EQ(data->train[1].chosen.size(), data->train[1].rejected.size());
  EXPECT_NE(data->train[1].chosen, data->train[1].rejected);
}

TEST_F(PreferenceTasks, ABadRowIsNamed) {
  Load("llama");
  config_.mutable_data()->add_path(
      WriteRows("{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n"
                "{\"prompt\": \"a\", \"chosen\": \"b\"}\n"));
  const auto task = DpoTask::Create(config_, *model_, /*reference=*/nullptr);
  ASSERT_TRUE(absl::IsInvalidArgument(task.status()));
  EXPECT_NE(task.status().message().find("rows.jsonl:2"), absl::string_view::npos) << task.status();
  EXPECT_NE(task.status().message().find("rejected"), absl::string_view::npos) << task.status();
}

}  // namespace
}  // namespace wideberth::learner
