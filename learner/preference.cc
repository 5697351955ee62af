// SPDX-License-Identifier: Apache-2.0
#include "learner/preference.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/status.h"
#include "learner/dataset.h"

namespace wideberth::learner {
namespace {

int64_t Length(const std::vector<int32_t>& tokens) { return static_cast<int64_t>(tokens.size()); }

absl::StatusOr<std::vector<PreferencePair>> Tokenised(const RowReader& reader,
                                                      const std::vector<PreferenceRow>& rows,
                                                      int64_t max_tokens) {
  std::vector<PreferencePair> pairs;
  int64_t num_cut = 0, num_equal = 0;
  for (const PreferenceRow& row : rows) {
    WB_ASSIGN_OR_RETURN(const AnsweredTokens chosen,
                        reader.Completion(row.prompt, row.chosen, row.origin));
    WB_ASSIGN_OR_RETURN(const AnsweredTokens rejected,
                        reader.Completion(row.prompt, row.rejected, row.origin));
    num_cut += std::max(Length(chosen.tokens), Length(rejected.tokens)) > max_tokens;
    PreferencePair pair = MakePair(chosen, rejected, max_tokens);
    num_equal += pair.chosen == pair.rejected;
    pair.weight = row.weight;
    pair.margin = row.margin.value_or(0);
    pairs.push_back(std::move(pair));
  }
  if (num_cut > 0) {
    WB_LOG(INFO) << num_cut << " of " << rows.size() << " pairs are cut to data.max_tokens of "
                 << max_tokens;
  }
  if (num_equal > 0) {
    WB_LOG(WARNING) << num_equal << " of " << rows.size()
                    << " pairs have the same tokens as chosen and as rejected answer";
  }
  return pairs;
}

// Begins another pass where the pair no longer fits; its weights are filled in at the end.
Pass& PassFor(int64_t num_tokens, int64_t max_tokens, std::vector<Pass>* passes) {
  if (passes->empty() || passes->back().tree.num_tokens + num_tokens > max_tokens)
    passes->emplace_back();
  return passes->back();
}

void ShareEqually(size_t num_rows, std::vector<Pass>* passes) {
  for (Pass& pass : *passes)
    pass.weights.assign(pass.members.size(), 1.0 / static_cast<double>(num_rows));
}

// The last token predicts nothing, so it is not in the tree.
void AddAnswer(const std::vector<int32_t>& tokens, int prompt, Pass* pass) {
  pass->rows.push_back(pass->tree.LastRow(prompt));
  if (tokens.size() > 1) {
    const int node = pass->tree.Add(std::vector<int32_t>(tokens.begin(), tokens.end() - 1), prompt);
    for (int64_t row = pass->tree.nodes[node].first_row; row <= pass->tree.LastRow(node); ++row)
      pass->rows.push_back(row);
  }
  pass->targets.insert(pass->targets.end(), tokens.begin(), tokens.end());
  pass->lengths.push_back(Length(tokens));
}

}  // namespace

PreferencePair MakePair(const AnsweredTokens& chosen, const AnsweredTokens& rejected,
                        int64_t max_tokens) {
  const auto apart = std::mismatch(chosen.tokens.begin(), chosen.tokens.end(),
                                   rejected.tokens.begin(), rejected.tokens.end());
  const int64_t prompt_end =
      std::max<int64_t>(1, std::min({chosen.prompt_tokens, rejected.prompt_tokens,
                                     apart.first - chosen.tokens.begin()}));
  const int64_t longest = std::max(Length(chosen.tokens), Length(rejected.tokens));
  const int64_t front = std::clamp<int64_t>(longest - max_tokens, 0, prompt_end - 1);
  const auto answer = [&](const std::vector<int32_t>& tokens) {
    const int64_t end = std::min(Length(tokens), front + max_tokens);
    return std::vector<int32_t>(tokens.begin() + prompt_end, tokens.begin() + end);
  };
  PreferencePair pair;
  pair.prompt.assign(chosen.tokens.begin() + front, chosen.tokens.begin() + prompt_end);
  pair.chosen = answer(chosen.tokens);
  pair.rejected = answer(rejected.tokens);
  return pair;
}

absl::StatusOr<PreferenceData> ReadPreferenceData(const proto::RunConfig& config,
                                                  const model::CausalLm& model) {
  absl::optional<int32_t> eos;
  if (!model.spec().eos_token_ids.empty()) eos = model.spec().eos_token_ids[0];
  WB_ASSIGN_OR_RETURN(const RowReader reader,
                      RowReader::Create(config.policy().model().path(), model.spec().vocab, eos));
  const int64_t max_tokens =
      std::min<int64_t>(config.data().max_tokens(), model.spec().max_positions);
  PreferenceData data;
  WB_ASSIGN_OR_RETURN(const std::vector<PreferenceRow> train,
                      ReadPreferenceRows(config.data().path()));
  WB_ASSIGN_OR_RETURN(data.train, Tokenised(reader, train, max_tokens));
  if (config.data().validation_path_size() > 0) {
    WB_ASSIGN_OR_RETURN(const std::vector<PreferenceRow> held_out,
                        ReadPreferenceRows(config.data().validation_path()));
    WB_ASSIGN_OR_RETURN(data.validation, Tokenised(reader, held_out, max_tokens));
  }
  return data;
}

std::vector<Pass> PackForLogProbs(const std::vector<PreferencePair>& pairs,
                                  absl::Span<const int64_t> rows, int64_t max_tokens) {
  std::vector<Pass> passes;
  for (const int64_t i : rows) {
    const PreferencePair& pair = pairs[i];
    Pass& pass = PassFor(Length(pair.prompt) + Length(pair.chosen) - 1 + Length(pair.rejected) - 1,
                         max_tokens, &passes);
    const int prompt = pass.tree.Add(pair.prompt);
    AddAnswer(pair.chosen, prompt, &pass);
    AddAnswer(pair.rejected, prompt, &pass);
    pass.members.push_back(i);
  }
  ShareEqually(rows.size(), &passes);
  return passes;
}

std::vector<Pass> PackForScores(const std::vector<PreferencePair>& pairs,
                                absl::Span<const int64_t> rows, int64_t max_tokens) {
  std::vector<Pass> passes;
  for (const int64_t i : rows) {
    const PreferencePair& pair = pairs[i];
    Pass& pass = PassFor(Length(pair.prompt) + Length(pair.chosen) + Length(pair.rejected),
                         max_tokens, &passes);
    const int prompt = pass.tree.Add(pair.prompt);
    for (const std::vector<int32_t>* answer : {&pair.chosen, &pair.rejected})
      pass.rows.push_back(pass.tree.LastRow(pass.tree.Add(*answer, prompt)));
    pass.members.push_back(i);
  }
  ShareEqually(rows.size(), &passes);
  return passes;
}

}  // namespace wideberth::learner
