// SPDX-License-Identifier: Apache-2.0
#include "learner/sft.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "model/logprobs.h"

namespace wideberth::learner {
namespace {

// How many of these tokens are the likeliest of the vocabulary. One that has more than half of the
// probability is; only the others are looked at again.
int64_t NumLikeliest(const at::Tensor& hidden_NH, const at::Tensor& head_VH, const Pass& pass,
                     const at::Tensor& logprob_M) {
  constexpr int64_t kChunkRows = 64;
  const at::NoGradGuard no_grad;
  const at::Tensor host_M = logprob_M.detach().to(at::kDouble).to(at::kCPU).contiguous();
  const double* logprobs = host_M.const_data_ptr<double>();
  int64_t likeliest = 0;
  std::vector<int64_t> rows, targets;
  const auto look = [&] {
    if (rows.empty()) return;
    const at::Tensor rows_C = at::tensor(rows, at::kLong).to(hidden_NH.device());
    const at::Tensor targets_C = at::tensor(targets, at::kLong).to(hidden_NH.device());
    const at::Tensor best_C = at::mm(hidden_NH.index_select(0, rows_C), head_VH.t()).argmax(1);
    likeliest += best_C.eq(targets_C).sum().item<int64_t>();
    rows.clear();
    targets.clear();
  };
  for (size_t m = 0; m < pass.rows.size(); ++m) {
    if (logprobs[m] > std::log(0.5) + 1e-3) {
      ++likeliest;
      continue;
    }
    rows.push_back(pass.rows[m]);
    targets.push_back(pass.targets[m]);
    if (static_cast<int64_t>(rows.size()) == kChunkRows) look();
  }
  look();
  return likeliest;
}

absl::StatusOr<std::vector<AnsweredTokens>> Tokenised(const RowReader& reader,
                                                      const std::vector<SftRow>& rows,
                                                      int64_t max_tokens) {
  std::vector<AnsweredTokens> all;
  int64_t num_cut = 0;
  for (const SftRow& row : rows) {
    WB_ASSIGN_OR_RETURN(AnsweredTokens tokens,
                        row.messages.empty()
                            ? reader.Completion(row.prompt, row.completion, row.origin)
                            : reader.Chat(row.messages, row.origin));
    num_cut += static_cast<int64_t>(tokens.tokens.size()) > max_tokens;
    all.push_back(CutToLength(std::move(tokens), max_tokens));
    if (all.back().num_answer_tokens() > 0) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        row.origin, ": no token of an answer is left within data.max_tokens of ", max_tokens));
  }
  if (num_cut > 0) {
    WB_LOG(INFO) << num_cut << " of " << rows.size() << " rows are cut to data.max_tokens of "
                 << max_tokens;
  }
  return all;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SupervisedTask>> SftTask::Create(const proto::RunConfig& config,
                                                                const model::CausalLm& model) {
  const proto::DataConfig& data = config.data();
  absl::optional<int32_t> eos;
  if (!model.spec().eos_token_ids.empty()) eos = model.spec().eos_token_ids[0];
  WB_ASSIGN_OR_RETURN(const RowReader reader,
                      RowReader::Create(config.policy().model().path(), model.spec().vocab, eos));
  const int64_t max_tokens = std::min<int64_t>(data.max_tokens(), model.spec().max_positions);
  WB_ASSIGN_OR_RETURN(const std::vector<SftRow> rows, ReadSftRows(data.path()));
  WB_ASSIGN_OR_RETURN(std::vector<AnsweredTokens> train, Tokenised(reader, rows, max_tokens));
  std::vector<AnsweredTokens> validation;
  if (data.validation_path_size() > 0) {
    WB_ASSIGN_OR_RETURN(const std::vector<SftRow> held_out, ReadSftRows(data.validation_path()));
    WB_ASSIGN_OR_RETURN(validation, Tokenised(reader, held_out, max_tokens));
  }
  return std::make_unique<SftTask>(std::move(train), std::move(validation));
}

std::vector<Pass> SftTask::Plan(Split split, absl::Span<const int64_t> rows,
                                int64_t max_tokens) const {
  std::vector<Pass> passes;
  int64_t num_answer_tokens = 0;
  for (const int64_t i : rows) {
    const AnsweredTokens& row = Rows(split)[i];
    // From the last token nothing is predicted.
    const auto num_tokens = static_cast<int64_t>(row.tokens.size()) - 1;
    if (passes.empty() || passes.back().tree.num_tokens + num_tokens > max_tokens)
      passes.emplace_back();
    Pass& pass = passes.back();
    const int node = pass.tree.Add(std::vector<int32_t>(row.tokens.begin(), row.tokens.end() - 1));
    const int64_t first = pass.tree.nodes[node].first_row;
    for (int64_t t = 0; t < num_tokens; ++t) {
      if (!row.answer[t + 1]) continue;
      pass.rows.push_back(first + t);
      pass.targets.push_back(row.tokens[t + 1]);
    }
    pass.members.push_back(i);
    pass.lengths.push_back(row.num_answer_tokens());
    num_answer_tokens += row.num_answer_tokens();
  }
  for (Pass& pass : passes)
    pass.weights.assign(pass.rows.size(), 1.0 / static_cast<double>(num_answer_tokens));
  return passes;
}

PassResult SftTask::Compute(Split, const Pass& pass, const ModelInUse& model) const {
  const at::Tensor hidden_NH = model.Hidden(pass.tree);
  const at::Tensor& head_VH = model.Head();
  const at::Tensor logprob_M =
      model::LogProbsOfTokens(hidden_NH, head_VH, pass.rows, pass.targets, /*temperature=*/1.0)
          .logprob;
  PassResult result;
  result.loss = logprob_M.sum().neg().mul(pass.weights.front());
  const auto count = static_cast<double>(pass.rows.size());
  result.means["mean_token_accuracy"] = {
      static_cast<double>(NumLikeliest(hidden_NH, head_VH, pass, logprob_M)), count};
  return result;
}

}  // namespace wideberth::learner
