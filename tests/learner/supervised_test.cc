// SPDX-License-Identifier: Apache-2.0
// SFT and guard training on a tiny model: what is trained on, losses and gradients however the rows
// are packed, and the same log-odds as the scorer that serves the guard.
#include "learner/supervised.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/text_proto.h"
#include "learner/guard.h"
#include "learner/guard_reader.h"
#include "learner/sft.h"
#include "scorer/scoring_model.h"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::learner {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kSft[] =
    R"({"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}, {"role": "user", "content": "three"}, {"role": "assistant", "content": "four five"}]}
{"prompt": "The cat", "completion": " sat on the mat."}
{"prompt": [{"role": "user", "content": "hello there"}], "completion": [{"role": "assistant", "content": "ok"}]}
)";
constexpr char kGuard[] =
    R"({"prompt": "how do I", "response": "like this", "label": "unsafe", "source": "a"}
{"prompt": "what is", "response": "a thing that is", "label": "safe", "source": "a"}
{"prompt": "the other", "response": "no", "label": "safe", "source": "b"}
{"prompt": "in the", "response": "and then the end of it", "label": "unsafe", "source": "b"}
)";

class SupervisedTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(wideberth::testing::WriteTinyModel("llama", dir_.Join("model")).ok());
    ASSERT_TRUE(WriteFileAtomically(dir_.Join("sft.jsonl"), kSft).ok());
    ASSERT_TRUE(WriteFileAtomically(dir_.Join("guard.jsonl"), kGuard).ok());
    ASSERT_TRUE(MergeTextProto(R"(
      policy { model { dtype: FLOAT64 } lora { rank: 4 alpha: 8 } }
      scorer {
        name: "g"
        template: "Is it harmful? {prompt} | {completion} | Say:"
        positive_id: 101 positive_id: 105 negative_id: 100
        output: LOG_ODDS
      }
      learner { learning_rate: 1e-2 max_grad_norm: 0 })",
                               "test", &config_)
                    .ok());
    config_.mutable_policy()->mutable_model()->set_path(dir_.Join("model"));
    *config_.mutable_scorer(0)->mutable_model() = config_.policy().model();
    model_ = *model::CausalLm::Load(config_.policy().model());
    adapter_ = *model::Adapter::Initialize(model_->spec(), config_.policy().lora(), 3, at::kDouble,
                                           at::kCPU);
    // B is zero at first; an adapter that does nothing would hide a good deal.
    for (const auto& [name, tensor] : adapter_->NamedTensors()) {
      if (name.find("lora_B") != std::string::npos) {
        at::Tensor values = tensor;
        values.copy_(at::sin(at::arange(tensor.numel(), at::kDouble)).mul(0.05).view_as(tensor));
      }
    }
  }
  std::unique_ptr<SupervisedTask> Task(proto::Task task, const std::string& file) {
    config_.mutable_learner()->set_task(task);
    config_.mutable_data()->add_path(dir_.Join(file));
    config_.mutable_data()->add_validation_path(dir_.Join(file));
    auto made = task == proto::SFT ? SftTask::Create(config_, *model_)
                                   : GuardTask::Create(config_, *model_);
    EXPECT_TRUE(made.ok()) << made.status();
    return made.ok() ? *std::move(made) : nullptr;
  }
  std::unique_ptr<SupervisedTrainer> Trainer() {
    return *SupervisedTrainer::Create(model_.get(), adapter_, nullptr, config_, 10);
  }
  // -log softmax of `tokens`' next-token logits at `target`, after all of them.
  double Nll(const std::vector<int32_t>& tokens, int64_t target) const {
    const at::NoGradGuard no_grad;
    model::TokenTree tree;
    tree.Add(tokens);
    model::ForwardOptions options;
    options.adapter = adapter_.get();
    const at::Tensor logits = at::matmul(model_->Hidden(tree, options)[-1], model_->head().t());
    return -at::log_softmax(logits, 0)[target].item<double>();
  }
  std::vector<int64_t> AllRows(const SupervisedTask& task) const {
    std::vector<int64_t> rows(task.num_rows(Split::kTrain));
    std::iota(rows.begin(), rows.end(), 0);
    return rows;
  }
  // Loss of a batch in passes of `max_tokens`; the gradient, flat.
  std::pair<double, at::Tensor> LossAndGradient(const SupervisedTask& task, int64_t max_tokens) {
    AdamW optimizer(adapter_->NamedTensors(), {});
    double loss = 0;
    for (const Pass& pass : task.Plan(Split::kTrain, AllRows(task), max_tokens)) {
      const PassResult result = task.Compute(Split::kTrain, pass, {model_.get(), adapter_.get()});
      loss += result.loss.item<double>();
      result.loss.backward();
    }
    return {loss, optimizer.flat_gradient().clone()};
  }

  wideberth::testing::TempDir dir_;
  proto::RunConfig config_;
  std::unique_ptr<model::CausalLm> model_;
  std::shared_ptr<model::Adapter> adapter_;
};

TEST_F(SupervisedTest, OnlyAnswersAreTrainedOn) {
  const RowReader reader = *RowReader::Create(dir_.Join("model"), model_->spec().vocab, 2);
  const auto tokenizer = *model::Tokenizer::FromFolder(dir_.Join("model"));
  const auto rows = *ReadSftRows([&] {
    google::protobuf::RepeatedPtrField<std::string> paths;
    *paths.Add() = dir_.Join("sft.jsonl");
    return paths;
  }());
  const auto answer = [&](const AnsweredTokens& row) {
    std::vector<int32_t> ids;
    for (size_t i = 0; i < row.tokens.size(); ++i)
      if (row.answer[i]) ids.push_back(row.tokens[i]);
    return tokenizer->Decode(ids, /*skip_special_tokens=*/false);
  };
  EXPECT_EQ(answer(*reader.Chat(rows[0].messages, "x:1")), "two<|im_end|>\nfour five<|im_end|>\n");
  EXPECT_EQ(answer(*reader.Completion(rows[1].prompt, rows[1].completion, "x:2")),
            " sat on the mat.<|im_end|>");
  EXPECT_EQ(answer(*reader.Completion(rows[2].prompt, rows[2].completion, "x:3")),
            "ok<|im_end|>\n");
}

TEST_F(SupervisedTest, ALongRowLosesTheFrontOfItsPromptFirst) {
  AnsweredTokens row;
  row.tokens = {1, 2, 3, 4, 5, 6};
  row.answer = {false, false, false, true, true, true};
  row.prompt_tokens = 3;
  EXPECT_THAT(CutToLength(row, 6).tokens, ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THAT(CutToLength(row, 5).tokens, ElementsAre(2, 3, 4, 5, 6));
  EXPECT_EQ(CutToLength(row, 5).prompt_tokens, 2);
  EXPECT_THAT(CutToLength(row, 3).tokens, ElementsAre(3, 4, 5));
  EXPECT_THAT(CutToLength(row, 3).answer, ElementsAre(false, true, true));
}

TEST_F(SupervisedTest, AChatNeedsATemplate) {
  std::filesystem::remove(dir_.Join("model/chat_template.jinja"));
  ASSERT_TRUE(WriteFileAtomically(dir_.Join("model/tokenizer_config.json"), "{}").ok());
  config_.mutable_data()->add_path(dir_.Join("sft.jsonl"));
  EXPECT_THAT(std::string(SftTask::Create(config_, *model_).status().message()),
              HasSubstr("sft.jsonl:1: is a chat, but"));
}

TEST_F(SupervisedTest, SftIsTheMeanOverTheAnswersOfTheBatch) {
  const auto task = Task(proto::SFT, "sft.jsonl");
  const RowReader reader = *RowReader::Create(dir_.Join("model"), model_->spec().vocab, 2);
  double sum = 0, count = 0;
  const auto rows = ReadSftRows(config_.data().path());
  ASSERT_TRUE(rows.ok()) << rows.status();
  for (const SftRow& row : *rows) {
    const AnsweredTokens tokens = row.messages.empty()
                                      ? *reader.Completion(row.prompt, row.completion, row.origin)
                                      : *reader.Chat(row.messages, row.origin);
    for (size_t i = 1; i < tokens.tokens.size(); ++i) {
      if (!tokens.answer[i]) continue;
      sum += Nll({tokens.tokens.begin(), tokens.tokens.begin() + static_cast<int64_t>(i)},
                 tokens.tokens[i]);
      count += 1;
    }
  }
  EXPECT_NEAR(LossAndGradient(*task, 4096).first, sum / count, 1e-10);
}

TEST_F(SupervisedTest, PackingChangesNothing) {
  for (const auto& [kind, file] :
       {std::pair(proto::SFT, "sft.jsonl"), std::pair(proto::GUARD, "guard.jsonl")}) {
    config_.clear_data();
    const auto task = Task(kind, file);
    EXPECT_EQ(task->Plan(Split::kTrain, AllRows(*task), 4096).size(), 1u);
    EXPECT_EQ(task->Plan(Split::kTrain, AllRows(*task), 1).size(), AllRows(*task).size());
    const auto [packed, packed_gradient] = LossAndGradient(*task, 4096);
    const auto [alone, alone_gradient] = LossAndGradient(*task, 1);
    EXPECT_NEAR(packed, alone, 1e-12);
    EXPECT_GT(packed_gradient.abs().max().item<double>(), 1e-3);
    EXPECT_LT((packed_gradient - alone_gradient).abs().max().item<double>(), 1e-12);
  }
}

TEST_F(SupervisedTest, AccuracyCountsTheLikeliestTokens) {
  const auto task = Task(proto::SFT, "sft.jsonl");
  const at::NoGradGuard no_grad;
  const Pass pass = task->Plan(Split::kTrain, AllRows(*task), 4096)[0];
  const ModelInUse model{model_.get(), adapter_.get()};
  const at::Tensor logits = at::matmul(
      model.Hidden(pass.tree).index_select(0, model_->Indices(pass.rows)), model_->head().t());
  const double expected = logits.argmax(1).eq(model_->Indices(pass.targets)).sum().item<double>();
  const Mean accuracy = task->Compute(Split::kTrain, pass, model).means.at("mean_token_accuracy");
  EXPECT_EQ(accuracy.sum, expected);
  EXPECT_EQ(accuracy.count, static_cast<double>(pass.rows.size()));
  // The same with the answer that is likeliest everywhere.
  Pass right = pass;
  for (size_t i = 0; i < right.targets.size(); ++i)
    right.targets[i] = logits[static_cast<int64_t>(i)].argmax().item<int64_t>();
  EXPECT_EQ(task->Compute(Split::kTrain, right, model).means.at("mean_token_accuracy").value(), 1);
  // And with the second likeliest, however likely.
  for (size_t i = 0; i < right.targets.size(); ++i) {
    right.targets[i] = std::get<1>(logits[static_cast<int64_t>(i)].topk(2))[1].item<int64_t>();
  }
  EXPECT_EQ(task->Compute(Split::kTrain, right, model).means.at("mean_token_accuracy").value(), 0);
}

TEST_F(SupervisedTest, GuardLossIsWeightedCrossEntropyOnTheVerdict) {
  config_.mutable_learner()->mutable_guard()->set_positive_weight(3);
  config_.mutable_learner()->mutable_guard()->set_negative_weight(0.5);
  const auto task = Task(proto::GUARD, "guard.jsonl");
  const GuardReader reader =
      *GuardReader::Create(config_.scorer(0), absl::nullopt, model_->spec().vocab);
  double sum = 0, weights = 0;
  const auto rows = ReadGuardRows(config_.data().path(), config_.data());
  ASSERT_TRUE(rows.ok()) << rows.status();
  for (const GuardRow& row : rows->rows) {
    const double weight = row.positive ? 3 : 0.5;
    sum += weight * Nll(*reader.Read(row.prompt, row.response), row.positive ? 101 : 100);
    weights += weight;
  }
  EXPECT_NEAR(LossAndGradient(*task, 4096).first, sum / weights, 1e-10);
}

// Of every kind of tensor three elements, against central differences of the loss.
TEST_F(SupervisedTest, GradientsOfAllWeightsAreTheSlopesOfTheLoss) {
  adapter_ = model::Adapter::AllWeights(model_->spec(), model_->weights(), at::kDouble);
  for (const auto& [kind, file] :
       {std::pair(proto::GUARD, "guard.jsonl"), std::pair(proto::SFT, "sft.jsonl")}) {
    config_.clear_data();
    const auto task = Task(kind, file);
    const auto [loss, gradient] = LossAndGradient(*task, 48);
    const at::NoGradGuard no_grad;
    int64_t offset = 0;
    for (const auto& [name, tensor] : adapter_->NamedTensors()) {
      at::Tensor flat = tensor.detach().view(-1);
      const at::Tensor own = gradient.narrow(0, offset, flat.numel());
      offset += flat.numel();
      EXPECT_GT(own.abs().max().item<double>(), 1e-6) << name;
      if (name.find("layers.1") != std::string::npos) continue;
      const int64_t largest = own.abs().argmax().item<int64_t>();
      for (const int64_t i : {largest, flat.numel() / 2, flat.numel() - 1}) {
        constexpr double kStep = 1e-5;
        const auto loss_at = [&](double shift) {
          flat[i].add_(shift);
          double total = 0;
          for (const Pass& pass : task->Plan(Split::kTrain, AllRows(*task), 4096))
            total += task->Compute(Split::kTrain, pass, {model_.get(), adapter_.get()})
                         .loss.item<double>();
          flat[i].sub_(shift);
          return total;
        };
        EXPECT_NEAR((loss_at(kStep) - loss_at(-kStep)) / (2 * kStep), own[i].item<double>(), 1e-7)
            << name << " " << i;
      }
    }
  }
}

TEST_F(SupervisedTest, LogOddsAreThoseOfTheScorer) {
  // The scorer has the base model; so has a validation without an adapter's effect.
  for (at::Tensor& tensor : adapter_->Parameters()) tensor.zero_();
  for (const bool chat : {false, true}) {
    config_.clear_data();
    config_.mutable_scorer(0)->set_chat(chat);
    const auto task = Task(proto::GUARD, "guard.jsonl");
    const auto validation = Trainer()->Validate(
        *task, task->Plan(Split::kValidation, AllRows(*task), 64), [] { return false; });
    ASSERT_TRUE(validation.ok()) << validation.status();
    auto scorer = *scorer::ScoringModel::Create(config_.scorer(0));
    std::vector<scorer::PreparedItem> items;
    const auto rows = ReadGuardRows(config_.data().path(), config_.data());
    ASSERT_TRUE(rows.ok()) << rows.status();
    for (const GuardRow& row : rows->rows) {
      proto::ScoreItem item;
      item.add_prompt()->set_role("user");
      item.mutable_prompt(0)->set_content(row.prompt);
      item.set_completion(row.response);
      items.push_back(scorer->Prepare(item));
    }
    const std::vector<proto::Score> scores = scorer->ScoreBatch(items);
    ASSERT_EQ(validation->values.size(), scores.size());
    double right = 0;
    for (size_t i = 0; i < scores.size(); ++i) {
      EXPECT_NEAR(validation->values[i], scores[i].value(), 1e-9);
      right += (scores[i].value() > 0) == rows->rows[i].positive;
    }
    EXPECT_DOUBLE_EQ(validation->metrics.at("accuracy"), right / 4);
  }
}

TEST_F(SupervisedTest, ALongQuestionKeepsTheBeginningOfItsResponse) {
  const GuardReader reader =
      *GuardReader::Create(config_.scorer(0), absl::nullopt, model_->spec().vocab);
  const auto tokenizer = *model::Tokenizer::FromFolder(dir_.Join("model"));
  std::string prompt, response;
  for (int i = 0; i < 40; ++i) absl::StrAppend(&prompt, "p", i, " ");
  for (int i = 0; i < 40; ++i) absl::StrAppend(&response, "r", i, " ");
  bool cut = false;
  for (const int64_t max_tokens : {60, 61, 90, 200}) {
    const auto tokens = reader.ReadWithin(prompt, response, max_tokens, &cut);
    ASSERT_TRUE(tokens.ok()) << tokens.status();
    EXPECT_TRUE(cut);
    EXPECT_LE(tokens->size(), static_cast<size_t>(max_tokens));
    EXPECT_GT(tokens->size(), static_cast<size_t>(max_tokens) - 6);
    const std::string text = tokenizer->Decode(*tokens);
    EXPECT_THAT(text, HasSubstr("p39  | r0 r1 "));
    EXPECT_THAT(text, ::testing::EndsWith("| Say:"));
  }
  const auto whole = reader.ReadWithin("short", "too", 60, &cut);
  EXPECT_FALSE(cut);
  EXPECT_EQ(*whole, *reader.Read("short", "too"));
  EXPECT_THAT(std::string(reader.ReadWithin(prompt, response, 20, &cut).status().message()),
              HasSubstr("data.max_tokens is 20, must leave room beside the"));
}

TEST_F(SupervisedTest, VerdictTokensAreCheckedLikeTheScorers) {
  const auto error = [&](const char* more) {
    proto::ScorerConfig scorer = config_.scorer(0);
    EXPECT_TRUE(MergeTextProto(more, "test", &scorer).ok());
    return std::string(
        GuardReader::Create(scorer, absl::nullopt, model_->spec().vocab).status().message());
  };
  EXPECT_THAT(error("positive: 'xyz'"), HasSubstr("verdict text \"xyz\" is 3 tokens"));
  EXPECT_THAT(error("negative_id: 99999"), HasSubstr("token id 99999 is beyond the vocabulary"));
  EXPECT_THAT(error("negative_id: 105"), HasSubstr("token id 105 is positive and negative"));
}

TEST_F(SupervisedTest, StepsLowerTheLossAndFollowTheSchedule) {
  config_.mutable_learner()->set_lr_scheduler_type(proto::LearnerConfig::LINEAR);
  const auto task = Task(proto::GUARD, "guard.jsonl");
  const auto trainer = Trainer();
  std::vector<double> losses;
  for (int64_t step = 0; step < 10; ++step) {
    const auto done = trainer->Step(*task, task->Plan(Split::kTrain, AllRows(*task), 64), step);
    ASSERT_TRUE(done.ok()) << done.status();
    EXPECT_EQ(done->skipped, "");
    EXPECT_GT(done->grad_norm, 0);
    EXPECT_NEAR(done->learning_rate, 1e-2 * (1 - static_cast<double>(step) / 10), 1e-15);
    EXPECT_EQ(done->num_rows, 4);
    losses.push_back(done->loss);
  }
  EXPECT_LT(losses.back(), 0.5 * losses.front());
}

TEST_F(SupervisedTest, DropoutIsTheStepsOwnAndOffInValidation) {
  config_.mutable_policy()->mutable_lora()->set_dropout(0.5);
  adapter_ = *model::Adapter::Initialize(model_->spec(), config_.policy().lora(), 3, at::kDouble,
                                         at::kCPU);
  for (at::Tensor& tensor : adapter_->Parameters()) tensor.add_(0.02);
  config_.mutable_learner()->set_learning_rate(0);
  const auto task = Task(proto::GUARD, "guard.jsonl");
  const auto trainer = Trainer();
  const std::vector<Pass> passes = task->Plan(Split::kTrain, AllRows(*task), 4096);
  const double first = trainer->Step(*task, passes, 0)->loss;
  EXPECT_NE(trainer->Step(*task, passes, 1)->loss, first);
  EXPECT_EQ(trainer->Step(*task, passes, 0)->loss, first);
  const auto validate = [&] {
    return trainer->Validate(*task, passes, [] { return false; })->loss;
  };
  EXPECT_EQ(validate(), validate());
}

TEST_F(SupervisedTest, ABf16BaseTrainsAFloat32AdapterThroughACopy) {
  config_.mutable_policy()->mutable_model()->set_dtype(proto::BFLOAT16);
  *config_.mutable_scorer(0)->mutable_model() = config_.policy().model();
  model_ = *model::CausalLm::Load(config_.policy().model());
  adapter_ =
      *model::Adapter::Initialize(model_->spec(), config_.policy().lora(), 3, at::kFloat, at::kCPU);
  const auto task = Task(proto::GUARD, "guard.jsonl");
  const auto trainer = Trainer();
  const std::vector<Pass> passes = task->Plan(Split::kTrain, AllRows(*task), 64);
  const auto validate = [&](const SupervisedTrainer& with) {
    return with.Validate(*task, passes, [] { return false; })->loss;
  };
  const double before = validate(*trainer);
  for (int64_t step = 0; step < 10; ++step) {
    const auto done = trainer->Step(*task, passes, step);
    ASSERT_TRUE(done.ok()) << done.status();
    EXPECT_EQ(done->skipped, "");
  }
  EXPECT_LT(validate(*trainer), 0.7 * before);
  // The copy is what the masters say.
  EXPECT_EQ(validate(*Trainer()), validate(*trainer));
}

// A task whose loss is not a number on the passes it is told.
class BrokenTask final : public SupervisedTask {
 public:
  BrokenTask(const SupervisedTask* task, bool loss, bool gradient)
      : task_(task), loss_(loss), gradient_(gradient) {}
  int64_t num_rows(Split split) const override { return task_->num_rows(split); }
  std::vector<Pass> Plan(Split split, absl::Span<const int64_t> rows,
                         int64_t max_tokens) const override {
    return task_->Plan(split, rows, max_tokens);
  }
  PassResult Compute(Split split, const Pass& pass, const ModelInUse& model) const override {
    PassResult result = task_->Compute(split, pass, model);
    if (loss_) result.loss = result.loss * std::numeric_limits<double>::quiet_NaN();
    // 0 * the slope of a root at 0, which is infinite.
    if (gradient_) result.loss = result.loss + (result.loss - result.loss.detach()).sqrt();
    return result;
  }

 private:
  const SupervisedTask* task_;
  bool loss_, gradient_;
};

TEST_F(SupervisedTest, AStepThatIsNotFiniteChangesNothing) {
  const auto task = Task(proto::GUARD, "guard.jsonl");
  const auto trainer = Trainer();
  const std::vector<Pass> passes = task->Plan(Split::kTrain, AllRows(*task), 64);
  std::vector<at::Tensor> before;
  for (const at::Tensor& tensor : adapter_->Parameters()) before.push_back(tensor.clone());
  const auto unchanged = [&] {
    const std::vector<at::Tensor> now = adapter_->Parameters();
    for (size_t i = 0; i < now.size(); ++i) EXPECT_TRUE(now[i].equal(before[i]));
    EXPECT_EQ(trainer->optimizer().num_steps(), 0);
  };
  const auto loss = trainer->Step(BrokenTask(task.get(), true, false), passes, 0);
  ASSERT_TRUE(loss.ok()) << loss.status();
  EXPECT_EQ(loss->skipped, "the loss is nan, expected a finite number");
  unchanged();
  const auto gradient = trainer->Step(BrokenTask(task.get(), false, true), passes, 0);
  ASSERT_TRUE(gradient.ok()) << gradient.status();
  EXPECT_THAT(gradient->skipped, HasSubstr("gradient"));
  unchanged();
  // And nothing of it is left for the next one.
  const double expected = LossAndGradient(*task, 64).second.norm().item<double>();
  EXPECT_NEAR(Trainer()->Step(*task, passes, 0)->grad_norm, expected, 1e-9);
}

TEST_F(SupervisedTest, AnAdapterOfAnotherTypeIsRefused) {
  const auto narrow =
      *model::Adapter::Initialize(model_->spec(), config_.policy().lora(), 3, at::kFloat, at::kCPU);
  EXPECT_THAT(
      std::string(
          SupervisedTrainer::Create(model_.get(), narrow, nullptr, config_, 1).status().message()),
      HasSubstr("is Float on cpu, expected Double"));
}

TEST_F(SupervisedTest, AGuardsCalibrationLiesBesideItsAdapter) {
  const auto task = Task(proto::GUARD, "guard.jsonl");
  Validation validation;
  validation.values = {4, -3, 2, -1};  // Right, right, wrong, wrong.
  ASSERT_TRUE(MakeDirectories(dir_.Join("adapter")).ok());
  const auto results = task->Finish(validation, dir_.Join("adapter"), dir_.path());
  ASSERT_TRUE(results.ok()) << results.status();
  const auto json = nlohmann::json::parse(*ReadFile(dir_.Join("adapter/calibration.json")));
  EXPECT_GT(json["temperature"], 1);
  EXPECT_EQ(json["auroc"], 0.75);
  EXPECT_EQ(json["by_source"]["b"]["accuracy"], 0);
  EXPECT_THAT(results->table, HasSubstr("AUROC 0.7500"));
  EXPECT_THAT(*ReadFile(dir_.Join("validation.jsonl")),
              HasSubstr(R"("source":"a","positive":true,"log_odds":4.0})"));
  validation.values[2] = std::numeric_limits<double>::infinity();
  EXPECT_THAT(
      std::string(task->Finish(validation, dir_.Join("adapter"), dir_.path()).status().message()),
      HasSubstr("guard.jsonl:3: the log-odds are inf, expected a finite number"));
}

}  // namespace
}  // namespace wideberth::learner
