// SPDX-License-Identifier: Apache-2.0
#include "model/generate.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/catch_torch.h"
#include "model/random.h"
#include "model/small_gemm.h"

namespace wideberth::model {
namespace {

using ::at::Tensor;
constexpr int64_t kPrefillTokens =
    2048;  // Of one forward pass over prompts; bounds its activations.

}  // namespace

Generator::Generator(const CausalLm* model, const GenerateOptions& options)
    : model_(model),
      options_(options),
      sampler_(options_.sampling),
      stops_(options_.stop_tokens.begin(), options_.stop_tokens.end()),
      adapter_(options_.adapter),
      batch_(model) {
  stops_.insert(options_.sampling.stop_token_id().begin(), options_.sampling.stop_token_id().end());
}

absl::StatusOr<std::unique_ptr<Generator>> Generator::Create(const CausalLm* model,
                                                             const GenerateOptions& options) {
  WB_RETURN_IF_ERROR(Sampler::Validate(options.sampling));
  if (model->spec().sequence_classification) {
    return absl::InvalidArgumentError(absl::StrCat(model->spec().folder, ": a ",
                                                   model->spec().architecture,
                                                   " has no output head to sample from"));
  }
  return std::unique_ptr<Generator>(new Generator(model, options));
}

void Generator::Use(const Adapter* adapter, uint64_t version) {
  adapter_ = adapter;
  version_ = version;
}

absl::Status Generator::Check(const std::vector<PromptGroup>& groups) const {
  for (const PromptGroup& group : groups) {
    const int64_t num_tokens = static_cast<int64_t>(group.prompt.size());
    const std::string name = absl::StrCat("group ", group.group);
    if (group.prompt.empty())
      return absl::InvalidArgumentError(absl::StrCat(name, ": the prompt has no token"));
    if (num_tokens + options_.sampling.max_new_tokens() > model_->spec().max_positions) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": a prompt of ", num_tokens, " tokens and max_new_tokens ",
                       options_.sampling.max_new_tokens(), " exceed the context of ",
                       model_->spec().max_positions));
    }
    if (options_.prefix != nullptr && num_tokens <= options_.prefix->length) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": a prompt of ", num_tokens, " tokens, expected more than the ",
                       options_.prefix->length, " it shares with all others"));
    }
    for (int32_t token : group.prompt) {
      if (token < 0 || token >= model_->spec().vocab) {
        return absl::InvalidArgumentError(
            absl::StrCat(name, ": token id ", token, " is outside the model's vocabulary of ",
                         model_->spec().vocab, " (is the tokenizer another model's?)"));
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<size_t> Generator::Add(const std::vector<PromptGroup>& groups) {
  WB_RETURN_IF_ERROR(Check(groups));
  const size_t first = next_index_;
  for (const PromptGroup& group : groups) {
    Group& added = groups_[next_index_++];
    added.prompt = group;
    added.completions.resize(group.num_completions);
    added.num_open = group.num_completions;
  }
  WB_RETURN_IF_ERROR(CatchTorch("reading prompts", [&]() -> absl::Status {
    const c10::InferenceMode inference;
    Prefill(first, next_index_);
    return absl::OkStatus();
  }));
  return first;
}

// The shared prefix and what follows it as one.
KvPrefix Generator::Whole(KvPrefix own) const {
  const KvPrefix* prefix = options_.prefix;
  if (prefix == nullptr) return own;
  for (size_t layer = 0; layer < own.keys_KPD.size(); ++layer) {
    own.keys_KPD[layer] = at::cat({prefix->keys_KPD[layer], own.keys_KPD[layer]}, 1);
    own.values_KPD[layer] = at::cat({prefix->values_KPD[layer], own.values_KPD[layer]}, 1);
  }
  own.length += prefix->length;
  return own;
}

void Generator::Prefill(size_t first_index, size_t end_index) {
  const int64_t known = options_.prefix == nullptr ? 0 : options_.prefix->length;
  std::vector<KvPrefix> prompts;
  std::vector<int64_t> prompt_of;
  for (size_t first = first_index; first < end_index;) {
    TokenTree tree;
    std::vector<int64_t> last_rows;
    size_t next = first;
    while (next < end_index &&
           (next == first ||
            tree.num_tokens + static_cast<int64_t>(groups_.at(next).prompt.prompt.size()) - known <=
                kPrefillTokens)) {
      const std::vector<int32_t>& prompt = groups_.at(next++).prompt.prompt;
      last_rows.push_back(tree.LastRow(tree.Add({prompt.begin() + known, prompt.end()})));
    }
    std::vector<KvPrefix> kv;
    ForwardOptions forward;
    forward.adapter = adapter_;
    forward.prefix = options_.prefix;
    forward.root_kv = &kv;
    const Tensor hidden_NH = model_->Hidden(tree, forward);
    const Tensor logits_GV = Logits(hidden_NH.index_select(0, model_->Indices(last_rows)));
    for (KvPrefix& prefix : kv) prompts.push_back(Whole(std::move(prefix)));
    for (size_t g = first; g < next; ++g) {
      for (int c = 0; c < groups_.at(g).prompt.num_completions; ++c) {
        prompt_of.push_back(static_cast<int64_t>(g - first_index));
        rows_.push_back({g, c});
        Sample(logits_GV, static_cast<int64_t>(g - first), rows_.back());
      }
    }
    first = next;
  }
  batch_.Add(std::move(prompts), std::move(prompt_of), options_.sampling.max_new_tokens());
}

Tensor Generator::Logits(const Tensor& hidden_MH) const {
  return TimesTransposed(hidden_MH, model_->HeadOf(adapter_)).to(at::kCPU, at::kFloat).contiguous();
}

void Generator::Sample(const Tensor& logits_BV, int64_t logits_row, Row& row) {
  Group& group = groups_.at(row.group);
  Sampled& sampled = group.completions[row.completion];
  const int64_t vocab = logits_BV.size(1);
  const absl::Span<const float> values(logits_BV.data_ptr<float>() + logits_row * vocab,
                                       static_cast<size_t>(vocab));
  std::vector<int32_t> seen;
  if (options_.sampling.repetition_penalty() != 1.0) {
    seen = group.prompt.prompt;
    seen.insert(seen.end(), sampled.tokens.begin(), sampled.tokens.end());
  }
  const double uniform =
      UniformAt(options_.seed, group.prompt.group, static_cast<uint32_t>(row.completion),
                static_cast<uint32_t>(sampled.tokens.size()));
  const Sampler::Choice choice = sampler_.Sample(values, seen, uniform);
  sampled.tokens.push_back(choice.token);
  sampled.logprobs.push_back(static_cast<float>(choice.logprob));
  if (sampled.versions.empty() || sampled.versions.back().version != version_)
    sampled.versions.push_back({version_, 0});
  ++sampled.versions.back().num_tokens;
  ++num_sampled_;
  row.last_token = choice.token;
  if (stops_.count(choice.token)) sampled.finish = proto::STOP;
  const bool full = static_cast<int>(sampled.tokens.size()) >= options_.sampling.max_new_tokens();
  full_ |= full;
  row.ended = full || sampled.finish == proto::STOP;
  if (row.ended) --group.num_open;
}

absl::Status Generator::Step() {
  return CatchTorch("generating", [&]() -> absl::Status {
    const c10::InferenceMode inference;
    DropEnded();
    if (!rows_.empty()) StepOrThrow();
    return absl::OkStatus();
  });
}

void Generator::StepOrThrow() {
  std::vector<int32_t> last;
  for (const Row& row : rows_) last.push_back(row.last_token);
  const Tensor logits_BV = Logits(batch_.Step(last, adapter_));
  for (size_t i = 0; i < rows_.size(); ++i) {
    Row& row = rows_[i];
    full_ |= ++row.num_steps >= options_.sampling.max_new_tokens();
    if (!row.ended) Sample(logits_BV, static_cast<int64_t>(i), row);
  }
}

// Compacting copies a cohort's caches, so ended rows are dragged along until they are a quarter of
// the batch, or one of them has no room left.
void Generator::DropEnded() {
  std::vector<int64_t> keep;
  for (size_t i = 0; i < rows_.size(); ++i) {
    if (!rows_[i].ended) keep.push_back(static_cast<int64_t>(i));
  }
  if (!full_ && !keep.empty() && keep.size() * 4 > rows_.size() * 3) return;
  batch_.Keep(keep);
  std::erase_if(rows_, [](const Row& row) { return row.ended; });
  full_ = false;
}

void Generator::End(size_t index) {
  const auto group = groups_.find(index);
  if (group == groups_.end()) return;
  group->second.num_open = 0;
  for (Row& row : rows_) row.ended |= row.group == index;
}

std::vector<Generator::Finished> Generator::TakeFinished() {
  std::vector<Finished> finished;
  for (auto group = groups_.begin(); group != groups_.end();) {
    if (group->second.num_open > 0) {
      ++group;
      continue;
    }
    finished.push_back({group->first, std::move(group->second.completions)});
    group = groups_.erase(group);
  }
  return finished;
}

std::vector<size_t> Generator::running() const {
  std::vector<size_t> indices;
  for (const auto& [index, group] : groups_) indices.push_back(index);
  return indices;
}

absl::StatusOr<std::vector<std::vector<Sampled>>> Generate(const CausalLm& model,
                                                           const std::vector<PromptGroup>& groups,
                                                           const GenerateOptions& options) {
  WB_ASSIGN_OR_RETURN(const std::unique_ptr<Generator> generator,
                      Generator::Create(&model, options));
  WB_RETURN_IF_ERROR(generator->Add(groups).status());
  std::vector<std::vector<Sampled>> results(groups.size());
  while (true) {
    for (const size_t index : generator->running()) {
      if (options.wanted && !options.wanted(index)) generator->End(index);
    }
    for (Generator::Finished& finished : generator->TakeFinished())
      results[finished.index] = std::move(finished.completions);
    if (generator->running().empty()) return results;
    if (options.between_steps && !options.between_steps(generator->num_sampled()))
      return absl::CancelledError("generation was stopped between two decode steps");
    WB_RETURN_IF_ERROR(generator->Step());
  }
}

}  // namespace wideberth::model
