// SPDX-License-Identifier: Apache-2.0
#include "model/generate.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/catch_torch.h"
#include "model/decode.h"
#include "model/random.h"
#include "model/sampler.h"
#include "model/small_gemm.h"

namespace wideberth::model {
namespace {

using ::at::Tensor;
constexpr int64_t kPrefillTokens =
    2048;  // Of one forward pass over prompts; bounds its activations.

struct Active {
  size_t group;
  int completion;
};

class Generation {
 public:
  Generation(const CausalLm& model, const std::vector<PromptGroup>& groups,
             const GenerateOptions& options)
      : model_(model), groups_(groups), options_(options), sampler_(options.sampling) {
    stops_.insert(options.stop_tokens.begin(), options.stop_tokens.end());
    stops_.insert(options.sampling.stop_token_id().begin(), options.sampling.stop_token_id().end());
    for (const PromptGroup& group : groups) results_.emplace_back(group.num_completions);
  }

  absl::StatusOr<std::vector<std::vector<Sampled>>> Run() {
    Prefill();
    std::vector<int64_t> prompt_of;
    for (const Active& sequence : active_)
      prompt_of.push_back(static_cast<int64_t>(sequence.group));
    DecodeBatch batch(model_, prompts_, std::move(prompt_of), options_.sampling.max_new_tokens());
    std::vector<Active> rows = active_;  // Whose row of the batch each is; finished ones stay until
                                         // the batch is compacted.
    while (true) {
      for (const Active& row : rows) {
        if (options_.wanted && !Finished(row) && !options_.wanted(row.group))
          unwanted_.insert(row.group);
      }
      DropFinished(&batch, &rows);
      if (rows.empty()) return std::move(results_);
      if (options_.between_steps && !options_.between_steps(num_sampled_))
        return absl::CancelledError("generation was stopped between two decode steps");
      std::vector<int32_t> last;
      for (const Active& row : rows) last.push_back(Of(row).tokens.back());
      const Tensor logits_BV = Logits(batch.Step(last, options_.adapter));
      for (size_t i = 0; i < rows.size(); ++i) {
        if (!Finished(rows[i])) Sample(logits_BV, static_cast<int64_t>(i), rows[i]);
      }
    }
  }

 private:
  Sampled& Of(const Active& sequence) { return results_[sequence.group][sequence.completion]; }

  bool Finished(const Active& sequence) {
    const Sampled& sampled = Of(sequence);
    return sampled.finish == proto::STOP || unwanted_.count(sequence.group) > 0 ||
           static_cast<int>(sampled.tokens.size()) >= options_.sampling.max_new_tokens();
  }

  Tensor Logits(const Tensor& hidden_MH) {
    return TimesTransposed(hidden_MH, model_.HeadOf(options_.adapter))
        .to(at::kCPU, at::kFloat)
        .contiguous();
  }

  // The shared prefix and what follows it as one.
  KvPrefix Whole(KvPrefix own) const {
    const KvPrefix* prefix = options_.prefix;
    if (prefix == nullptr) return own;
    for (size_t layer = 0; layer < own.keys_KPD.size(); ++layer) {
      own.keys_KPD[layer] = at::cat({prefix->keys_KPD[layer], own.keys_KPD[layer]}, 1);
      own.values_KPD[layer] = at::cat({prefix->values_KPD[layer], own.values_KPD[layer]}, 1);
    }
    own.length += prefix->length;
    return own;
  }

  void Prefill() {
    const int64_t known = options_.prefix == nullptr ? 0 : options_.prefix->length;
    prompts_.reserve(groups_.size());
    for (size_t first = 0; first < groups_.size();) {
      TokenTree tree;
      std::vector<int64_t> last_rows;
      size_t next = first;
      while (next < groups_.size() &&
             (next == first ||
              tree.num_tokens + static_cast<int64_t>(groups_[next].prompt.size()) - known <=
                  kPrefillTokens)) {
        const std::vector<int32_t>& prompt = groups_[next++].prompt;
        last_rows.push_back(tree.LastRow(tree.Add({prompt.begin() + known, prompt.end()})));
      }
      std::vector<KvPrefix> kv;
      ForwardOptions forward;
      forward.adapter = options_.adapter;
      forward.prefix = options_.prefix;
      forward.root_kv = &kv;
      const Tensor hidden_NH = model_.Hidden(tree, forward);
      const Tensor logits_GV = Logits(hidden_NH.index_select(0, model_.Indices(last_rows)));
      for (KvPrefix& prefix : kv) prompts_.push_back(Whole(std::move(prefix)));
      for (size_t g = first; g < next; ++g) {
        for (int c = 0; c < groups_[g].num_completions; ++c) {
          active_.push_back({g, c});
          Sample(logits_GV, static_cast<int64_t>(g - first), active_.back());
        }
      }
      first = next;
    }
  }

  void Sample(const Tensor& logits, int64_t row, const Active& sequence) {
    const PromptGroup& group = groups_[sequence.group];
    Sampled& sampled = Of(sequence);
    const int64_t vocab = logits.size(1);
    const absl::Span<const float> values(logits.data_ptr<float>() + row * vocab,
                                         static_cast<size_t>(vocab));
    std::vector<int32_t> seen;
    if (options_.sampling.repetition_penalty() != 1.0) {
      seen = group.prompt;
      seen.insert(seen.end(), sampled.tokens.begin(), sampled.tokens.end());
    }
    const double uniform =
        UniformAt(options_.seed, group.group, static_cast<uint32_t>(sequence.completion),
                  static_cast<uint32_t>(sampled.tokens.size()));
    const Sampler::Choice choice = sampler_.Sample(values, seen, uniform);
    sampled.tokens.push_back(choice.token);
    sampled.logprobs.push_back(static_cast<float>(choice.logprob));
    if (stops_.count(choice.token)) sampled.finish = proto::STOP;
    ++num_sampled_;
  }

  // Compacting copies the caches, so finished rows are dragged along until they are a quarter of
  // the batch.
  void DropFinished(DecodeBatch* batch, std::vector<Active>* rows) {
    std::vector<int64_t> keep;
    for (size_t i = 0; i < rows->size(); ++i) {
      if (!Finished((*rows)[i])) keep.push_back(static_cast<int64_t>(i));
    }
    if (!keep.empty() && keep.size() * 4 > rows->size() * 3) return;
    std::vector<Active> kept;
    for (int64_t i : keep) kept.push_back((*rows)[i]);
    if (!keep.empty()) batch->Keep(keep);
    *rows = std::move(kept);
  }

  const CausalLm& model_;
  const std::vector<PromptGroup>& groups_;
  const GenerateOptions& options_;
  Sampler sampler_;
  std::set<int32_t> stops_;
  std::set<size_t> unwanted_;  // Groups that end as they are.
  std::vector<std::vector<Sampled>> results_;
  std::vector<KvPrefix> prompts_;
  std::vector<Active> active_;
  int64_t num_sampled_ = 0;
};

}  // namespace

absl::StatusOr<std::vector<std::vector<Sampled>>> Generate(const CausalLm& model,
                                                           const std::vector<PromptGroup>& groups,
                                                           const GenerateOptions& options) {
  WB_RETURN_IF_ERROR(Sampler::Validate(options.sampling));
  if (model.spec().sequence_classification) {
    return absl::InvalidArgumentError(absl::StrCat(model.spec().folder, ": a ",
                                                   model.spec().architecture,
                                                   " has no output head to sample from"));
  }
  for (const PromptGroup& group : groups) {
    if (group.prompt.empty())
      return absl::InvalidArgumentError(
          absl::StrCat("group ", group.group, ": the prompt has no token"));
    const int64_t longest =
        static_cast<int64_t>(group.prompt.size()) + options.sampling.max_new_tokens();
    if (longest > model.spec().max_positions) {
      return absl::InvalidArgumentError(
          absl::StrCat("group ", group.group, ": a prompt of ", group.prompt.size(),
                       " tokens and max_new_tokens ", options.sampling.max_new_tokens(),
                       " exceed the context of ", model.spec().max_positions));
    }
    if (options.prefix != nullptr &&
        static_cast<int64_t>(group.prompt.size()) <= options.prefix->length) {
      return absl::InvalidArgumentError(
          absl::StrCat("group ", group.group, ": a prompt of ", group.prompt.size(),
                       " tokens, expected more than the ", options.prefix->length,
                       " it shares with all others"));
    }
    for (int32_t token : group.prompt) {
      if (token < 0 || token >= model.spec().vocab) {
        return absl::InvalidArgumentError(absl::StrCat(
            "group ", group.group, ": token id ", token, " is outside the model's vocabulary of ",
            model.spec().vocab, " (is the tokenizer another model's?)"));
      }
    }
  }
  if (groups.empty()) return std::vector<std::vector<Sampled>>();
  return CatchTorch("generating", [&] {
    c10::InferenceMode inference;
    return Generation(model, groups, options).Run();
  });
}

}  // namespace wideberth::model
