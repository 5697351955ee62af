// SPDX-License-Identifier: Apache-2.0
#include "learner/guard.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"
#include "learner/calibration.h"
#include "learner/guard_reader.h"
#include "model/logprobs.h"
#include "model/shared_prefixes.h"

namespace wideberth::learner {
namespace {

absl::StatusOr<std::vector<GuardExample>> ReadExamples(
    const GuardReader& reader, const google::protobuf::RepeatedPtrField<std::string>& paths,
    const proto::DataConfig& data, int64_t max_tokens, const char* what) {
  std::vector<GuardExample> examples;
  WB_ASSIGN_OR_RETURN(GuardRows rows, ReadGuardRows(paths, data));
  int64_t num_cut = 0, num_positive = 0;
  for (GuardRow& row : rows.rows) {
    bool cut = false;
    absl::StatusOr<std::vector<int32_t>> tokens =
        reader.ReadWithin(row.prompt, row.response, max_tokens, &cut);
    if (!tokens.ok()) return Annotate(tokens.status(), row.origin);
    num_cut += cut;
    num_positive += row.positive;
    examples.push_back(
        {*std::move(tokens), row.positive, std::move(row.origin), std::move(row.source)});
  }
  WB_LOG(INFO) << examples.size() << " " << what << " rows, " << num_positive << " positive, "
               << num_cut << " cut to " << max_tokens << " tokens; " << rows.num_unlabelled
               << " rows without a label or a response are left out";
  return examples;
}

at::Tensor LogSumExpOf(const at::Tensor& last_SH, const at::Tensor& head_VH,
                       const std::vector<int64_t>& ids) {
  const at::Tensor rows = at::tensor(ids, at::kLong).to(head_VH.device());
  const at::Tensor head_RH = head_VH.index_select(0, rows).to(at::kDouble);
  return at::logsumexp(at::matmul(last_SH, head_RH.t()), {1});
}

}  // namespace

absl::StatusOr<std::unique_ptr<SupervisedTask>> GuardTask::Create(const proto::RunConfig& config,
                                                                  const model::CausalLm& model) {
  const proto::DataConfig& data = config.data();
  const auto bos = model.spec().bos_token_id;
  WB_ASSIGN_OR_RETURN(const GuardReader reader,
                      GuardReader::Create(config.scorer(0), bos, model.head().size(0)));
  WB_ASSIGN_OR_RETURN(std::vector<int32_t> head, reader.ConstantHead());
  const int64_t max_tokens = std::min<int64_t>(data.max_tokens(), model.spec().max_positions);
  WB_ASSIGN_OR_RETURN(std::vector<GuardExample> train,
                      ReadExamples(reader, data.path(), data, max_tokens, "training"));
  std::vector<GuardExample> validation;
  if (data.validation_path_size() > 0) {
    WB_ASSIGN_OR_RETURN(
        validation, ReadExamples(reader, data.validation_path(), data, max_tokens, "validation"));
  }
  return std::make_unique<GuardTask>(config.learner().guard(),
                                     Verdict{reader.positive(), reader.negative()}, std::move(head),
                                     std::move(train), std::move(validation));
}

std::vector<Pass> GuardTask::Plan(Split split, absl::Span<const int64_t> rows,
                                  int64_t max_tokens) const {
  std::vector<Pass> passes;
  double sum_of_weights = 0;
  for (const int64_t i : rows) {
    const GuardExample& example = Rows(split)[i];
    // A token is always left, whose output is the verdict.
    const int64_t known = std::min(model::CommonPrefix(example.tokens, head_),
                                   static_cast<int64_t>(example.tokens.size()) - 1);
    const bool shares = known > 0 && known == static_cast<int64_t>(head_.size());
    const int64_t shared = shares ? known : 0;
    const int64_t own = static_cast<int64_t>(example.tokens.size()) - shared;
    if (passes.empty() || passes.back().tree.num_tokens + own > max_tokens) {
      passes.emplace_back();
      if (!head_.empty()) passes.back().tree.Add(head_);
    }
    Pass& pass = passes.back();
    const int node =
        pass.tree.Add({example.tokens.begin() + shared, example.tokens.end()}, shares ? 0 : -1);
    pass.members.push_back(i);
    pass.rows.push_back(pass.tree.LastRow(node));
    pass.targets.push_back(example.positive ? verdict_.positive[0] : verdict_.negative[0]);
    pass.lengths.push_back(1);
    pass.weights.push_back(example.positive ? config_.positive_weight()
                                            : config_.negative_weight());
    sum_of_weights += pass.weights.back();
  }
  for (Pass& pass : passes) {
    for (double& weight : pass.weights) weight /= sum_of_weights;
  }
  return passes;
}

PassResult GuardTask::Compute(Split split, const Pass& pass, const ModelInUse& model) const {
  const at::Tensor hidden_NH = model.Hidden(pass.tree);
  const at::Tensor& head_VH = model.Head();
  const at::Tensor logprob_S =
      model::LogProbsOfTokens(hidden_NH, head_VH, pass.rows, pass.targets, /*temperature=*/1.0)
          .logprob;
  PassResult result;
  const at::Tensor weights_S = at::tensor(pass.weights, at::kDouble).to(logprob_S.options());
  result.loss = logprob_S.mul(weights_S).sum().neg();

  const at::NoGradGuard no_grad;
  const at::Tensor last_SH =
      hidden_NH.detach().index_select(0, model.model->Indices(pass.rows)).to(at::kDouble);
  const at::Tensor log_odds_S = (LogSumExpOf(last_SH, head_VH, verdict_.positive) -
                                 LogSumExpOf(last_SH, head_VH, verdict_.negative))
                                    .to(at::kCPU)
                                    .contiguous();
  const double* log_odds = log_odds_S.const_data_ptr<double>();
  Mean& accuracy = result.means["accuracy"];
  for (size_t s = 0; s < pass.members.size(); ++s) {
    result.values.push_back(log_odds[s]);
    accuracy.sum += (log_odds[s] > 0) == Rows(split)[pass.members[s]].positive;
    accuracy.count += 1;
  }
  return result;
}

absl::StatusOr<TaskResults> GuardTask::Finish(const Validation& validation,
                                              const std::string& adapter_folder,
                                              const std::string& run_dir) const {
  std::vector<ScoredLabel> scored;
  std::string lines;
  for (size_t i = 0; i < validation.values.size(); ++i) {
    const GuardExample& example = validation_[i];
    const double log_odds = validation.values[i];
    if (!std::isfinite(log_odds)) {
      return absl::InternalError(absl::StrCat(example.origin, ": the log-odds are ", log_odds,
                                              ", expected a finite number to calibrate with"));
    }
    scored.push_back({log_odds, example.positive, example.source});
    nlohmann::ordered_json line = {{"origin", example.origin},
                                   {"source", example.source},
                                   {"positive", example.positive},
                                   {"log_odds", log_odds}};
    absl::StrAppend(
        &lines, line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace), "\n");
  }
  WB_RETURN_IF_ERROR(WriteFileAtomically(absl::StrCat(run_dir, "/validation.jsonl"), lines));
  double temperature = 1;
  if (config_.calibrate()) {
    const absl::StatusOr<double> fitted = FitTemperature(scored);
    if (fitted.ok()) temperature = *fitted;
    if (!fitted.ok()) WB_LOG(WARNING) << fitted.status().message() << "; the temperature stays 1";
  }
  const GuardFigures figures = FiguresOf(scored, temperature);
  TaskResults results{CalibrationJson(figures), CalibrationTable(figures)};
  if (config_.calibrate()) {
    WB_RETURN_IF_ERROR(
        WriteFileAtomically(absl::StrCat(adapter_folder, "/calibration.json"), results.json));
  }
  return results;
}

}  // namespace wideberth::learner
