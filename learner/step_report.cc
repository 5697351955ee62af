// SPDX-License-Identifier: Apache-2.0
#include "learner/step_report.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "learner/advantages.h"
#include "report/json_text.h"

namespace wideberth::learner {
namespace {

using nlohmann::ordered_json;
using report::NumberOrNull;

constexpr size_t kHistory = 200;

double Rate(int64_t tokens, double seconds) {
  return seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0;
}

double TokensPerSecond(const StepReport& report) {
  return Rate(report.metrics.num_completion_tokens, report.seconds.total);
}

ordered_json Missing(const MissingScores& missing) {
  ordered_json json = ordered_json::object();
  for (int status = 1; status < proto::ScoreStatus_ARRAYSIZE; ++status) {
    json[proto::ScoreStatus_Name(static_cast<proto::ScoreStatus>(status))] = missing[status];
  }
  return json;
}

void AddRewards(const StepReport& report, ordered_json* json) {
  const StepMetrics& m = report.metrics;
  (*json)["reward"] = NumberOrNull(m.reward_mean);
  (*json)["reward_std"] = NumberOrNull(m.reward_deviation);
  (*json)["frac_reward_zero_std"] = NumberOrNull(m.fraction_zero_deviation);
  for (const ScorerStatistics& scorer : report.scorers) {
    (*json)[absl::StrCat("rewards/", scorer.name, "/mean")] = NumberOrNull(scorer.mean);
    (*json)[absl::StrCat("rewards/", scorer.name, "/std")] = NumberOrNull(scorer.deviation);
  }
  (*json)["t_mean"] = NumberOrNull(report.t_mean);
  (*json)["boundary_mass"] = NumberOrNull(report.boundary_mass);
  (*json)["u_mean"] = NumberOrNull(report.u_mean);
  (*json)["advantage_abs_mean"] = NumberOrNull(m.advantage_abs_mean);
  (*json)["unscored"] = m.num_unscored;
  for (int status = 1; status < proto::ScoreStatus_ARRAYSIZE; ++status) {
    (*json)[absl::StrCat("unscored/",
                         proto::ScoreStatus_Name(static_cast<proto::ScoreStatus>(status)))] =
        report.missing_now[status];
  }
}

void AddTraining(const StepMetrics& m, ordered_json* json) {
  (*json)["loss"] = NumberOrNull(m.loss);
  (*json)["grad_norm"] = NumberOrNull(m.grad_norm);
  (*json)["learning_rate"] = NumberOrNull(m.learning_rate);
  // Of the first iteration, where the loss's own metrics are of the last.
  (*json)["kl"] = NumberOrNull(m.kl);
  (*json)["entropy"] = NumberOrNull(m.entropy);
  for (const auto& [name, value] : m.named) {
    if (name != "kl" && name != "entropy") (*json)[name] = NumberOrNull(value);
  }
  const double tokens = std::max<double>(1.0, static_cast<double>(m.clipping.num_tokens));
  (*json)["ratio_mean"] = NumberOrNull(m.clipping.ratio_sum / tokens);
  // Without a group of the version being trained there is nothing to compare.
  const bool compared = m.logprob_difference_max >= 0;
  (*json)["logprob_difference_max"] =
      compared ? NumberOrNull(m.logprob_difference_max) : ordered_json(nullptr);
  (*json)["logprob_difference_mean"] =
      compared ? NumberOrNull(m.logprob_difference_mean) : ordered_json(nullptr);
  (*json)["logprob_difference_worst"] = m.logprob_difference_worst;
  (*json)["ratio_deviation_max"] =
      compared ? NumberOrNull(m.ratio_deviation_max) : ordered_json(nullptr);
  (*json)["importance_ratio_max"] = NumberOrNull(m.importance_ratio_max);
}

void AddCounts(const StepReport& report, ordered_json* json) {
  const StepMetrics& m = report.metrics;
  const CompletionLengths& lengths = report.lengths;
  (*json)["num_tokens"] = report.num_tokens;
  (*json)["completions/mean_length"] = NumberOrNull(m.length_mean);
  (*json)["completions/min_length"] = m.length_min;
  (*json)["completions/max_length"] = m.length_max;
  (*json)["completions/clipped_ratio"] = NumberOrNull(m.clipped_fraction);
  (*json)["completions/mean_terminated_length"] = NumberOrNull(lengths.terminated_mean);
  (*json)["completions/min_terminated_length"] = lengths.terminated_min;
  (*json)["completions/max_terminated_length"] = lengths.terminated_max;
  (*json)["groups"] = m.num_groups;
  (*json)["completions"] = m.num_completions;
  (*json)["completions_trained"] = m.num_trained;
  (*json)["completion_tokens"] = m.num_completion_tokens;
  (*json)["forward_tokens"] = m.num_forward_tokens;
}

void AddTimes(const StepReport& report, ordered_json* json) {
  const StepMetrics& m = report.metrics;
  const StepSeconds& seconds = report.seconds;
  (*json)["step_time"] = seconds.total;
  (*json)["tokens_per_second"] = TokensPerSecond(report);
  // While it lasts: generate and score of one actor, train of the learner.
  const int64_t tokens = report.lengths.num_tokens;
  (*json)["tokens_per_second/generate"] = Rate(tokens, seconds.generate);
  (*json)["tokens_per_second/score"] = Rate(tokens, seconds.score);
  (*json)["tokens_per_second/train"] = Rate(m.num_completion_tokens, seconds.train);
  (*json)["staleness_mean"] = report.staleness_mean;
  (*json)["staleness_max"] = report.staleness_max;
  (*json)["sync_seconds"] = NumberOrNull(report.sync_seconds);
  (*json)["seconds"] = {{"total", seconds.total},           {"wait", seconds.wait},
                        {"train", seconds.train},           {"reference", m.reference_seconds},
                        {"forward", m.forward_seconds},     {"backward", m.backward_seconds},
                        {"optimizer", m.optimizer_seconds}, {"publish", seconds.publish},
                        {"generate", seconds.generate},     {"score", seconds.score}};
}

}  // namespace

void DescribeGroups(const std::vector<AcceptedGroup>& groups, StepReport* report) {
  std::map<std::string, std::vector<double>> scores;
  CompletionLengths& lengths = report->lengths;
  int64_t terminated_tokens = 0;
  for (const AcceptedGroup& group : groups) {
    for (const proto::Completion& completion : group.request.completion()) {
      for (const proto::Score& score : completion.score()) {
        std::vector<double>& of_scorer = scores[score.scorer_name()];
        if (score.status() == proto::SCORED && std::isfinite(score.value())) {
          of_scorer.push_back(score.value());
        } else if (score.status() != proto::SCORED) {
          ++report->missing_now[score.status()];
        }
      }
      const int64_t length = completion.token_id_size();
      if (length == 0) continue;
      lengths.num_tokens += length;
      lengths.num_prompt_tokens += group.request.prompt_token_id_size();
      if (completion.finish_reason() == proto::LENGTH) continue;
      const bool first = lengths.num_terminated++ == 0;
      terminated_tokens += length;
      lengths.terminated_min = first ? length : std::min(lengths.terminated_min, length);
      lengths.terminated_max = std::max(lengths.terminated_max, length);
    }
  }
  if (lengths.num_terminated > 0) {
    lengths.terminated_mean =
        static_cast<double>(terminated_tokens) / static_cast<double>(lengths.num_terminated);
  }
  for (const auto& [name, values] : scores) {
    const Moments moments = SampleMoments(values);
    report->scorers.push_back({name, moments.mean, moments.deviation});
  }
}

std::string StepJson(const StepReport& report) {
  ordered_json json = {{"step", report.step}, {"version", report.version}};
  AddRewards(report, &json);
  AddTraining(report.metrics, &json);
  AddCounts(report, &json);
  AddTimes(report, &json);
  json["groups_so_far"] = {
      {"leased", report.leases.leased},       {"accepted", report.leases.accepted},
      {"expired", report.leases.expired},     {"returned", report.leases.returned},
      {"duplicate", report.leases.duplicate}, {"stale", report.leases.stale},
      {"refused", report.leases.refused},     {"retried", report.leases.retried},
      {"dropped", report.leases.dropped}};
  json["missing_scores_so_far"] = Missing(report.missing);
  json["skipped"] = report.metrics.skipped ? 1 : 0;
  json["fingerprint"] = report.fingerprint;
  json["time"] = report.unix_time;
  return report::JsonText(json);
}

std::string StepLine(const StepReport& report, int64_t max_steps) {
  const auto show = [](const absl::optional<double>& v) {
    return v.has_value() ? absl::StrFormat("%.4f", *v) : std::string("-");
  };
  return absl::StrFormat(
      "step %d/%d: reward %.4f, t %s, near the boundary %s, u %s, KL %.6f, loss %.5f, gradient "
      "norm %.4f, log-probs differ by at most %.2g, "
      "%d tokens, %.1f s (%.1f waiting, %.1f training)",
      report.step, max_steps, report.metrics.reward_mean, show(report.t_mean),
      show(report.boundary_mass), show(report.u_mean), report.metrics.kl, report.metrics.loss,
      report.metrics.grad_norm, report.metrics.logprob_difference_max,
      report.metrics.num_completion_tokens, report.seconds.total, report.seconds.wait,
      report.seconds.train);
}

std::string Sparkline(const std::vector<absl::optional<double>>& values, int width) {
  static constexpr const char* kHeights[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  const int n = static_cast<int>(values.size());
  const int columns = std::min(n, width);
  std::vector<absl::optional<double>> means;
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (int c = 0; c < columns; ++c) {
    double sum = 0;
    int count = 0;
    for (int i = c * n / columns; i < (c + 1) * n / columns; ++i) {
      if (!values[i].has_value() || !std::isfinite(*values[i])) continue;
      sum += *values[i];
      ++count;
    }
    means.push_back(count > 0 ? absl::optional<double>(sum / count) : absl::nullopt);
    if (count > 0) {
      low = std::min(low, sum / count);
      high = std::max(high, sum / count);
    }
  }
  std::string line;
  for (const absl::optional<double>& mean : means) {
    if (!mean.has_value()) {
      line += " ";
      continue;
    }
    const double share = high > low ? (*mean - low) / (high - low) : 0.5;
    line += kHeights[std::min(7, static_cast<int>(share * 8))];
  }
  return line;
}

StepHistory::StepHistory(transport::Metrics* metrics) : metrics_(metrics) {}

void StepHistory::Add(const StepReport& report) {
  const StepMetrics& m = report.metrics;
  const auto gauge = [&](const char* name, const char* help, double value) {
    metrics_->NewGauge(name, help)->Set(value);
  };
  gauge("wideberth_policy_version", "Optimiser steps done.", static_cast<double>(report.version));
  gauge("wideberth_reward_mean", "Mean reward of the last step.", m.reward_mean);
  gauge("wideberth_kl_nats", "KL to the base per token, last step.", m.kl);
  gauge("wideberth_logprob_difference_max",
        "Largest difference of log-probs between sampler and learner, last step.",
        m.logprob_difference_max);
  gauge("wideberth_step_seconds", "Wall time of the last step.", report.seconds.total);
  gauge("wideberth_wait_seconds", "Time the last step waited for groups.", report.seconds.wait);
  gauge("wideberth_tokens_per_second", "Completion tokens trained on per second, last step.",
        TokensPerSecond(report));
  if (report.t_mean.has_value())
    gauge("wideberth_guard_score_mean", "Mean t of the last step.", *report.t_mean);
  if (report.boundary_mass.has_value())
    gauge("wideberth_boundary_mass_ratio", "Share of t within 0.1 of 0.5, last step.",
          *report.boundary_mass);
  if (report.sync_seconds.has_value())
    gauge("wideberth_adapter_sync_seconds", "From publication to the last acknowledgement.",
          *report.sync_seconds);
  metrics_->NewCounter("wideberth_trained_tokens_total", "Completion tokens trained on.")
      ->Increment(static_cast<double>(m.num_completion_tokens));

  MutexLock lock(mutex_);
  const auto count = [&](const char* outcome, uint64_t now, uint64_t* before) {
    metrics_
        ->NewCounter("wideberth_groups_total", "Groups by what became of them.",
                     {{"outcome", outcome}})
        ->Increment(static_cast<double>(now - *before));
    *before = now;
  };
  count("accepted", report.leases.accepted, &counted_.accepted);
  count("expired", report.leases.expired, &counted_.expired);
  count("returned", report.leases.returned, &counted_.returned);
  count("duplicate", report.leases.duplicate, &counted_.duplicate);
  count("stale", report.leases.stale, &counted_.stale);
  count("refused", report.leases.refused, &counted_.refused);
  count("retried", report.leases.retried, &counted_.retried);
  count("dropped", report.leases.dropped, &counted_.dropped);
  for (int status = 1; status < proto::ScoreStatus_ARRAYSIZE; ++status) {
    metrics_
        ->NewCounter("wideberth_missing_scores_total", "Scores that are none, by status.",
                     {{"status", proto::ScoreStatus_Name(static_cast<proto::ScoreStatus>(status))}})
        ->Increment(static_cast<double>(report.missing[status] - counted_missing_[status]));
  }
  counted_missing_ = report.missing;
  points_.push_back(
      {m.reward_mean, report.t_mean, report.boundary_mass, m.kl, TokensPerSecond(report)});
  if (points_.size() > kHistory) points_.pop_front();
}

std::vector<std::pair<std::string, std::string>> StepHistory::Facts() const {
  MutexLock lock(mutex_);
  std::vector<std::pair<std::string, std::string>> facts;
  const std::pair<const char*, absl::optional<double> Point::*> series[] = {
      {"reward", &Point::reward},
      {"t", &Point::t},
      {"near the boundary", &Point::boundary_mass},
      {"KL to the base", &Point::kl}};
  for (const auto& [name, field] : series) {
    std::vector<absl::optional<double>> values;
    for (const Point& point : points_) values.push_back(point.*field);
    if (values.empty() || !values.back().has_value()) continue;
    facts.emplace_back(name, absl::StrFormat("%.4g  %s", *values.back(), Sparkline(values, 40)));
  }
  return facts;
}

absl::optional<double> StepHistory::tokens_per_second() const {
  MutexLock lock(mutex_);
  if (points_.empty()) return absl::nullopt;
  return points_.back().tokens_per_second;
}

}  // namespace wideberth::learner
