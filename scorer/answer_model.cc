// SPDX-License-Identifier: Apache-2.0
// AnswerModel over CausalLm: the instruction's keys and values are kept, questions are decoded in
// one batch behind them.
#include "scorer/answer_model.h"

#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/status.h"
#include "model/catch_torch.h"
#include "model/generate.h"
#include "model/shared_prefixes.h"
#include "scorer/adapted_lm.h"
#include "scorer/conversation_reader.h"

namespace wideberth::scorer {
namespace {

uint64_t KeyOf(const std::vector<int32_t>& tokens) {
  const std::string hex = Fingerprint(absl::string_view(
      reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(int32_t)));
  return std::strtoull(hex.substr(0, 16).c_str(), nullptr, 16);
}

class LmAnswerModel final : public AnswerModel {
 public:
  LmAnswerModel(const proto::ScorerConfig& config, AdaptedLm model, ConversationReader reader)
      : config_(config), model_(std::move(model)), reader_(std::move(reader)) {}

  absl::Status Initialize() {
    const std::string who = absl::StrCat("scorer \"", config_.name(), "\"");
    const bool trained_head = model_.adapter != nullptr && model_.adapter->score_head().defined();
    if (model_.lm->spec().sequence_classification || trained_head) {
      return absl::InvalidArgumentError(absl::StrCat(
          who, ": kind ", proto::ScorerConfig::Kind_Name(config_.kind()),
          " needs a model for causal language modelling, found ",
          trained_head
              ? absl::StrCat("a score head in ", config_.adapter())
              : absl::StrCat(model_.lm->spec().architecture, " in ", config_.model().path())));
    }
    const auto& eos = model_.lm->spec().eos_token_ids;
    stops_.insert(eos.begin(), eos.end());
    if (reader_.chat()) {
      for (const std::string& token : reader_.chat()->stop_tokens()) {
        if (const auto id = reader_.tokenizer().TokenToId(token)) stops_.insert(*id);
      }
    }
    return model::CatchTorch(absl::StrCat(who, ", prefill of the instruction"),
                             [&] { return PrefillInstruction(); });
  }

  absl::StatusOr<std::vector<int32_t>> Read(const proto::ScoreItem& item) const override {
    return reader_.Read(item, model_.lm->spec().bos_token_id);
  }
  int64_t NumKnown(const std::vector<int32_t>& tokens) const override {
    return BeginsWithHead(tokens) ? head_kv_.length : 0;
  }
  int64_t context_tokens() const override { return model_.lm->spec().max_positions; }
  std::string fingerprint() const override { return model_.fingerprint; }
  std::string Description() const override {
    return absl::StrCat(reader_.Description(), "\n", absl::StrJoin(stops_, " "));
  }

  absl::StatusOr<std::vector<Answers>> Generate(absl::Span<const Question> questions) override {
    const proto::GenerativeConfig& generative = config_.generative();
    std::vector<Answers> answers(questions.size());
    if (interrupted_) {
      for (Answers& none : answers) none.timed_out = true;
      return answers;
    }
    std::vector<model::PromptGroup> groups;
    bool all_known = true;
    for (const Question& question : questions) {
      groups.push_back({KeyOf(question.tokens), question.tokens, generative.num_samples()});
      all_known &= BeginsWithHead(question.tokens);
    }
    model::GenerateOptions options;
    options.sampling.set_max_new_tokens(generative.max_new_tokens());
    options.sampling.set_temperature(generative.temperature());
    options.stop_tokens.assign(stops_.begin(), stops_.end());
    options.adapter = model_.adapter.get();
    if (all_known) options.prefix = &head_kv_;
    options.wanted = [&](size_t i) {
      answers[i].timed_out |= interrupted_ || Clock::Real().Now() >= questions[i].deadline;
      return !answers[i].timed_out;
    };
    WB_ASSIGN_OR_RETURN(const auto sampled, model::Generate(*model_.lm, groups, options));
    for (size_t i = 0; i < sampled.size(); ++i) {
      for (const model::Sampled& sample : sampled[i]) {
        answers[i].samples.push_back({reader_.tokenizer().Decode(sample.tokens),
                                      static_cast<int64_t>(sample.tokens.size()),
                                      sample.finish != proto::STOP});
      }
    }
    return answers;
  }

  void Interrupt() override { interrupted_ = true; }

 private:
  bool BeginsWithHead(const std::vector<int32_t>& tokens) const {
    return head_kv_.length > 0 && tokens.size() > head_tokens_.size() &&
           model::CommonPrefix(tokens, head_tokens_) == head_kv_.length;
  }

  absl::Status PrefillInstruction() {
    const c10::InferenceMode inference;
    WB_ASSIGN_OR_RETURN(head_tokens_, reader_.ConstantHead(model_.lm->spec().bos_token_id));
    const int64_t longest =
        static_cast<int64_t>(head_tokens_.size()) + config_.generative().max_new_tokens();
    if (longest >= context_tokens()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the instruction has ", head_tokens_.size(), " tokens, ",
                       config_.kind() == proto::ScorerConfig::JUDGE ? "judge" : "generative",
                       ".max_new_tokens is ", config_.generative().max_new_tokens(),
                       ", the context of ", config_.model().path(), " is ", context_tokens()));
    }
    if (!head_tokens_.empty()) head_kv_ = Prefill(model_, head_tokens_);
    return absl::OkStatus();
  }

  const proto::ScorerConfig config_;
  const AdaptedLm model_;
  const ConversationReader reader_;
  std::atomic<bool> interrupted_ = false;
  std::set<int32_t> stops_;
  std::vector<int32_t> head_tokens_;  // The beginning of every question, computed once.
  model::KvPrefix head_kv_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<AnswerModel>> AnswerModel::Load(const proto::ScorerConfig& config) {
  WB_ASSIGN_OR_RETURN(ConversationReader reader, ConversationReader::Create(config));
  WB_ASSIGN_OR_RETURN(AdaptedLm model, LoadAdaptedLm(config));
  auto answers = std::make_unique<LmAnswerModel>(config, std::move(model), std::move(reader));
  WB_RETURN_IF_ERROR(answers->Initialize());
  return answers;
}

}  // namespace wideberth::scorer
