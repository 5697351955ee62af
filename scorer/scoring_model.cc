// SPDX-License-Identifier: Apache-2.0
// ScoringModel over CausalLm: rendered conversations -> tokens -> one token tree behind the
// template's constant head -> a few rows of the output head. Shapes: S sequences, H hidden, R rows
// of the head.
#include "scorer/scoring_model.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/optional.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/status.h"
#include "model/catch_torch.h"
#include "model/causal_lm.h"
#include "model/shared_prefixes.h"
#include "model/tokenizer.h"
#include "model/verdict_template.h"
#include "scorer/adapted_lm.h"
#include "scorer/answer_model.h"
#include "scorer/conversation_reader.h"
#include "scorer/generative_model.h"
#include "scorer/http_judge_model.h"
#include "scorer/oracle_model.h"
#include "scorer/scorer_config.h"

namespace wideberth::scorer {
namespace {

using ::wideberth::model::KvPrefix;
using ::wideberth::model::Tokenizer;

// A shared beginning shorter than this is computed again: a node of the tree costs more.
constexpr int64_t kMinSharedTokens = 16;

std::string Who(const proto::ScorerConfig& config) {
  return absl::StrCat("scorer \"", config.name(), "\"");
}

// Ids of verdict texts, each of which must be exactly one token of the model, and of ids given as
// such.
template <typename Ids>
absl::StatusOr<std::vector<int64_t>> VerdictIds(const proto::ScorerConfig& config,
                                                const std::vector<std::string>& texts,
                                                const Ids& given, const Tokenizer& tokenizer,
                                                int64_t vocab) {
  std::vector<int64_t> ids(given.begin(), given.end());
  for (const std::string& text : texts) {
    const std::vector<int32_t> tokens = tokenizer.Encode(text, /*add_special_tokens=*/false);
    if (tokens.size() != 1) {
      return absl::InvalidArgumentError(absl::StrCat(
          Who(config), ": verdict text \"", text, "\" is ", tokens.size(), " tokens of ",
          config.model().path(), " (", absl::StrJoin(tokens, ", "), "), must be exactly one"));
    }
    ids.push_back(tokens[0]);
  }
  for (int64_t id : ids) {
    if (id >= vocab) {
      return absl::InvalidArgumentError(absl::StrCat(Who(config), ": verdict token id ", id,
                                                     " is beyond the vocabulary of ", vocab,
                                                     " tokens of ", config.model().path()));
    }
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

bool WritesAnswers(const proto::ScorerConfig& config) {
  return config.kind() == proto::ScorerConfig::GENERATIVE ||
         (config.kind() == proto::ScorerConfig::JUDGE &&
          config.judge().reading() == proto::JudgeConfig::PARSE);
}

// A judge samples as a generative guard does, by fields of its own.
proto::ScorerConfig AsGenerative(proto::ScorerConfig config) {
  if (config.kind() != proto::ScorerConfig::JUDGE) return config;
  config.mutable_generative()->set_max_new_tokens(config.judge().max_new_tokens());
  config.mutable_generative()->set_num_samples(config.judge().num_samples());
  config.mutable_generative()->set_temperature(config.judge().temperature());
  return config;
}

double LogSumExp(const double* begin, const double* end) {
  const double largest = *std::max_element(begin, end);
  if (!std::isfinite(largest)) return largest;
  double sum = 0;
  for (const double* value = begin; value != end; ++value) sum += std::exp(*value - largest);
  return largest + std::log(sum);
}

class LmScoringModel final : public ScoringModel {
 public:
  LmScoringModel(const proto::ScorerConfig& config, const ScoringOptions& options, AdaptedLm model,
                 ConversationReader reader)
      : config_(config), options_(options), model_(std::move(model)), reader_(std::move(reader)) {}

  absl::Status Initialize();
  PreparedItem Prepare(const proto::ScoreItem& item) override;
  std::vector<proto::Score> ScoreBatch(const std::vector<PreparedItem>& items) override;
  const ScorerIdentity& identity() const override { return identity_; }

 private:
  absl::Status CheckKind() const;
  absl::Status ChooseHeadRows();
  absl::StatusOr<std::vector<int64_t>> GradeIds() const;
  absl::Status PrefillTemplateHead();
  int64_t KnownTokens(const std::vector<int32_t>& tokens) const;
  absl::StatusOr<std::vector<int32_t>> Read(const proto::ScoreItem& item) const {
    return reader_.Read(item, model_.lm->spec().bos_token_id);
  }
  at::Tensor HeadValues(const std::vector<const PreparedItem*>& items) const;
  proto::Score Judge(const double* values_R) const;
  void ScoreSome(const std::vector<const PreparedItem*>& items,
                 const std::vector<proto::Score*>& scores) const;

  const proto::ScorerConfig config_;
  const ScoringOptions options_;
  const AdaptedLm model_;
  const ConversationReader reader_;
  ScorerIdentity identity_;
  int64_t num_positive_ = 0;  // The first rows of the head, for a verdict.
  at::Tensor head_RH_;        // float64
  std::vector<int32_t>
      head_tokens_;  // The beginning of every rendered conversation, computed once.
  KvPrefix head_kv_;
};

absl::Status LmScoringModel::CheckKind() const {
  const bool reward = config_.kind() == proto::ScorerConfig::REWARD;
  const bool trained_head = model_.adapter != nullptr && model_.adapter->score_head().defined();
  if (!reward && trained_head) {
    return absl::InvalidArgumentError(
        absl::StrCat(Who(config_), ": adapter ", config_.adapter(),
                     " has a score head, which kind REWARD reads, found kind ",
                     proto::ScorerConfig::Kind_Name(config_.kind())));
  }
  if (reward && (trained_head || model_.lm->spec().sequence_classification))
    return absl::OkStatus();
  if (!reward && !model_.lm->spec().sequence_classification) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(Who(config_), ": kind ", proto::ScorerConfig::Kind_Name(config_.kind()),
                   " needs a model for ",
                   reward ? "sequence classification with one label" : "causal language modelling",
                   reward && model_.adapter != nullptr ? ", or an adapter with a score head" : "",
                   ", found ", model_.lm->spec().architecture, " in ", config_.model().path()));
}

absl::Status LmScoringModel::Initialize() {
  WB_RETURN_IF_ERROR(CheckKind());
  WB_RETURN_IF_ERROR(model::CatchTorch(Who(config_), [&] { return ChooseHeadRows(); }));
  WB_RETURN_IF_ERROR(model::CatchTorch(absl::StrCat(Who(config_), ", prefill of the template"),
                                       [&] { return PrefillTemplateHead(); }));
  return absl::OkStatus();
}

absl::Status LmScoringModel::ChooseHeadRows() {
  const c10::InferenceMode inference;
  identity_.scorer_name = config_.name();
  identity_.model_fingerprint = model_.fingerprint;
  std::string description =
      absl::StrCat(config_.kind(), " ", config_.output(), "\n", reader_.Description());
  if (config_.kind() == proto::ScorerConfig::REWARD) {
    const bool trained = model_.adapter != nullptr && model_.adapter->score_head().defined();
    head_RH_ = (trained ? model_.adapter->score_head() : model_.lm->head()).to(at::kDouble);
  } else if (config_.kind() == proto::ScorerConfig::JUDGE) {
    WB_ASSIGN_OR_RETURN(const std::vector<int64_t> ids, GradeIds());
    const proto::JudgeConfig& judge = config_.judge();
    absl::StrAppend(&description, "\n", judge.low(), ": ", absl::StrJoin(ids, " "));
    const at::Tensor& head_VH = model_.lm->HeadOf(model_.adapter.get());
    head_RH_ = head_VH.index_select(0, model_.lm->Indices(ids)).to(at::kDouble);
  } else {
    const model::VerdictTokens texts = model::VerdictTokensOf(config_);
    const int64_t vocab = model_.lm->head().size(0);
    WB_ASSIGN_OR_RETURN(
        std::vector<int64_t> ids,
        VerdictIds(config_, texts.positive, config_.positive_id(), reader_.tokenizer(), vocab));
    WB_ASSIGN_OR_RETURN(
        const std::vector<int64_t> negative,
        VerdictIds(config_, texts.negative, config_.negative_id(), reader_.tokenizer(), vocab));
    for (int64_t id : negative) {
      if (std::find(ids.begin(), ids.end(), id) != ids.end()) {
        return absl::InvalidArgumentError(
            absl::StrCat(Who(config_), ": verdict token id ", id, " is positive and negative"));
      }
    }
    num_positive_ = static_cast<int64_t>(ids.size());
    ids.insert(ids.end(), negative.begin(), negative.end());
    absl::StrAppend(&description, "\n", num_positive_, ": ", absl::StrJoin(ids, " "));
    const at::Tensor& head_VH = model_.lm->HeadOf(model_.adapter.get());
    head_RH_ = head_VH.index_select(0, model_.lm->Indices(ids)).to(at::kDouble);
  }
  identity_.template_hash = Fingerprint(description);
  return absl::OkStatus();
}

// One token a grade, from low to high.
absl::StatusOr<std::vector<int64_t>> LmScoringModel::GradeIds() const {
  std::vector<int64_t> grades;
  for (int32_t grade = config_.judge().low(); grade <= config_.judge().high(); ++grade) {
    WB_ASSIGN_OR_RETURN(const std::vector<int64_t> ids,
                        VerdictIds(config_, {absl::StrCat(grade)}, std::vector<int64_t>(),
                                   reader_.tokenizer(), model_.lm->head().size(0)));
    grades.push_back(ids[0]);
  }
  return grades;
}

absl::Status LmScoringModel::PrefillTemplateHead() {
  const c10::InferenceMode inference;
  WB_ASSIGN_OR_RETURN(head_tokens_, reader_.ConstantHead(model_.lm->spec().bos_token_id));
  const int64_t num_tokens = static_cast<int64_t>(head_tokens_.size());
  if (num_tokens >= model_.lm->spec().max_positions) {
    return absl::InvalidArgumentError(
        absl::StrCat("the template alone has ", num_tokens, " tokens, the context of ",
                     config_.model().path(), " is ", model_.lm->spec().max_positions));
  }
  if (num_tokens > 0) head_kv_ = Prefill(model_, head_tokens_);
  return absl::OkStatus();
}

// How many of the first tokens the kept head covers; at least one token is always left to compute.
int64_t LmScoringModel::KnownTokens(const std::vector<int32_t>& tokens) const {
  return std::min(model::CommonPrefix(tokens, head_tokens_),
                  static_cast<int64_t>(tokens.size()) - 1);
}

PreparedItem LmScoringModel::Prepare(const proto::ScoreItem& item) {
  PreparedItem prepared;
  prepared.refusal =
      model::WhyNothingToScore(item, /*prompt_only=*/config_.kind() == proto::ScorerConfig::JUDGE);
  if (!prepared.refusal.empty()) return prepared;
  absl::StatusOr<std::vector<int32_t>> tokens = Read(item);
  const int64_t context = model_.lm->spec().max_positions;
  if (!tokens.ok()) {
    prepared.refusal = std::string(tokens.status().message());
  } else if (tokens->empty()) {
    prepared.refusal = "the conversation has no tokens";
  } else if (static_cast<int64_t>(tokens->size()) > context) {
    prepared.refusal = absl::StrCat("the conversation has ", tokens->size(),
                                    " tokens with its template, the model's context is ", context);
  } else {
    prepared.tokens = *std::move(tokens);
    prepared.num_new_tokens =
        static_cast<int64_t>(prepared.tokens.size()) - KnownTokens(prepared.tokens);
  }
  return prepared;
}

// [S, R] float64 on the CPU: the chosen rows of the head at each sequence's last token.
at::Tensor LmScoringModel::HeadValues(const std::vector<const PreparedItem*>& items) const {
  const c10::InferenceMode inference;
  int64_t known = head_kv_.length;
  for (const PreparedItem* item : items) known = std::min(known, KnownTokens(item->tokens));
  std::vector<absl::Span<const int32_t>> sequences;
  for (const PreparedItem* item : items)
    sequences.push_back(absl::MakeConstSpan(item->tokens).subspan(known));
  const model::SharedTree shared = model::ShareBeginnings(sequences, kMinSharedTokens);

  KvPrefix shorter;
  model::ForwardOptions options;
  options.adapter = model_.adapter.get();
  if (known == head_kv_.length) {
    options.prefix = &head_kv_;
  } else {
    for (const at::Tensor& keys_KPD : head_kv_.keys_KPD)
      shorter.keys_KPD.push_back(keys_KPD.narrow(1, 0, known).contiguous());
    for (const at::Tensor& values_KPD : head_kv_.values_KPD)
      shorter.values_KPD.push_back(values_KPD.narrow(1, 0, known).contiguous());
    shorter.length = known;
    options.prefix = &shorter;
  }
  if (known == 0) options.prefix = nullptr;
  const at::Tensor hidden_NH = model_.lm->Hidden(shared.tree, options);
  const at::Tensor last_SH =
      hidden_NH.index_select(0, model_.lm->Indices(shared.last_row)).to(at::kDouble);
  return at::matmul(last_SH, head_RH_.t()).to(at::kCPU).contiguous();
}

// One row of HeadValues as a typed result.
proto::Score LmScoringModel::Judge(const double* values_R) const {
  const int64_t num_rows = head_RH_.size(0);
  for (int64_t r = 0; r < num_rows; ++r) {
    if (std::isfinite(values_R[r])) continue;
    return MakeScore(identity_, proto::MALFORMED_OUTPUT,
                     absl::StrCat("the model's ", num_positive_ > 0 ? "verdict logit" : "score",
                                  " is ", values_R[r], ", must be finite"));
  }
  double value = values_R[0];
  if (config_.kind() == proto::ScorerConfig::JUDGE) {
    const double all = LogSumExp(values_R, values_R + num_rows);
    value = config_.judge().low();
    for (int64_t r = 1; r < num_rows; ++r)
      value += static_cast<double>(r) * std::exp(values_R[r] - all);
  } else if (num_positive_ > 0) {
    value = LogSumExp(values_R, values_R + num_positive_) -
            LogSumExp(values_R + num_positive_, values_R + num_rows);
    value /= model_.calibration.temperature;
    if (config_.output() == proto::ScorerConfig::PROBABILITY) value = 1 / (1 + std::exp(-value));
  }
  proto::Score score = MakeScore(identity_, proto::SCORED, "");
  score.set_value(value);
  return score;
}

void LmScoringModel::ScoreSome(const std::vector<const PreparedItem*>& items,
                               const std::vector<proto::Score*>& scores) const {
  const absl::StatusOr<at::Tensor> values_SR = model::CatchTorch(
      absl::StrCat(Who(config_), ", batch of ", items.size()), [&] { return HeadValues(items); });
  if (values_SR.ok()) {
    const double* rows = values_SR->const_data_ptr<double>();
    for (size_t i = 0; i < items.size(); ++i)
      *scores[i] = Judge(rows + static_cast<int64_t>(i) * head_RH_.size(0));
  } else if (items.size() == 1) {
    *scores[0] =
        MakeScore(identity_, proto::MODEL_ERROR, std::string(values_SR.status().message()));
  } else {
    for (size_t i = 0; i < items.size(); ++i) ScoreSome({items[i]}, {scores[i]});
  }
}

std::vector<proto::Score> LmScoringModel::ScoreBatch(const std::vector<PreparedItem>& items) {
  const absl::Time start = Clock::Real().Now();
  std::vector<proto::Score> scores(items.size());
  std::vector<const PreparedItem*> scorable;
  std::vector<proto::Score*> targets;
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i].tokens.empty()) {
      scores[i] = MakeScore(identity_, proto::REFUSED_INPUT, items[i].refusal);
    } else {
      scorable.push_back(&items[i]);
      targets.push_back(&scores[i]);
    }
  }
  if (options_.deterministic) {
    for (size_t i = 0; i < scorable.size(); ++i) ScoreSome({scorable[i]}, {targets[i]});
  } else if (!scorable.empty()) {
    ScoreSome(scorable, targets);
  }
  for (proto::Score& score : scores)
    score.set_latency_ms(absl::ToDoubleMilliseconds(Clock::Real().Now() - start));
  return scores;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ScoringModel>> ScoringModel::Create(
    const proto::ScorerConfig& config, const ScoringOptions& options) {
  WB_RETURN_IF_ERROR(ValidateScorerConfig(config));
  if (config.kind() == proto::ScorerConfig::ORACLE)
    return std::make_unique<OracleScoringModel>(config);
  if (config.kind() == proto::ScorerConfig::HTTP_JUDGE)
    return HttpJudgeModel::Create(config, options);
  if (WritesAnswers(config)) {
    const proto::ScorerConfig writer = AsGenerative(config);
    WB_ASSIGN_OR_RETURN(auto answers, AnswerModel::Load(writer));
    return std::make_unique<GenerativeScoringModel>(writer, options, std::move(answers));
  }
  WB_ASSIGN_OR_RETURN(ConversationReader reader, ConversationReader::Create(config));
  WB_ASSIGN_OR_RETURN(AdaptedLm model, LoadAdaptedLm(config));
  auto scoring =
      std::make_unique<LmScoringModel>(config, options, std::move(model), std::move(reader));
  WB_RETURN_IF_ERROR(scoring->Initialize());
  return scoring;
}

}  // namespace wideberth::scorer
