// SPDX-License-Identifier: Apache-2.0
#include "learner/step_report.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace wideberth::learner {
namespace {

using nlohmann::ordered_json;

constexpr size_t kHistory = 200;

ordered_json Number(const absl::optional<double>& value) {
  return value.has_value() && std::isfinite(*value) ? ordered_json(*value) : ordered_json(nullptr);
}

double TokensPerSecond(const StepReport& report) {
  return report.seconds.total > 0
             ? static_cast<double>(report.metrics.num_completion_tokens) / report.seconds.total
             : 0.0;
}

ordered_json Missing(const MissingScores& missing) {
  ordered_json json = ordered_json::object();
  for (int status = 1; status < proto::ScoreStatus_ARRAYSIZE; ++status) {
    json[proto::ScoreStatus_Name(static_cast<proto::ScoreStatus>(status))] = missing[status];
  }
  return json;
}

void AddTraining(const StepMetrics& m, ordered_json* json) {
  (*json)["loss"] = Number(m.loss);
  (*json)["grad_norm"] = Number(m.grad_norm);
  (*json)["entropy"] = Number(m.entropy);
  (*json)["advantage_abs_mean"] = Number(m.advantage_abs_mean);
  (*json)["fraction_zero_deviation"] = Number(m.fraction_zero_deviation);
  const double tokens = std::max<double>(1.0, static_cast<double>(m.clipping.num_tokens));
  (*json)["ratio_mean"] = Number(m.clipping.ratio_sum / tokens);
  (*json)["clipped_low"] = static_cast<double>(m.clipping.clipped_low) / tokens;
  (*json)["clipped_high"] = static_cast<double>(m.clipping.clipped_high) / tokens;
  (*json)["logprob_difference_max"] = Number(m.logprob_difference_max);
  (*json)["logprob_difference_mean"] = Number(m.logprob_difference_mean);
  (*json)["logprob_difference_worst"] = m.logprob_difference_worst;
  (*json)["importance_ratio_max"] = Number(m.importance_ratio_max);
  (*json)["groups"] = m.num_groups;
  (*json)["completions"] = m.num_completions;
  (*json)["completions_trained"] = m.num_trained;
  (*json)["unscored"] = m.num_unscored;
  (*json)["completion_tokens"] = m.num_completion_tokens;
  (*json)["forward_tokens"] = m.num_forward_tokens;
  (*json)["length_mean"] = Number(m.length_mean);
  (*json)["cut_off"] = Number(m.clipped_fraction);
}

}  // namespace

std::string StepJson(const StepReport& report) {
  const StepMetrics& m = report.metrics;
  ordered_json json = {{"step", report.step},
                       {"version", report.version},
                       {"reward_mean", Number(m.reward_mean)},
                       {"reward_deviation", Number(m.reward_deviation)},
                       {"t_mean", Number(report.t_mean)},
                       {"boundary_mass", Number(report.boundary_mass)},
                       {"u_mean", Number(report.u_mean)},
                       {"kl", Number(m.kl)}};
  AddTraining(m, &json);
  json["tokens_per_second"] = TokensPerSecond(report);
  json["staleness_mean"] = report.staleness_mean;
  json["staleness_max"] = report.staleness_max;
  json["sync_seconds"] = Number(report.sync_seconds);
  json["seconds"] = {{"total", report.seconds.total},       {"wait", report.seconds.wait},
                     {"train", report.seconds.train},       {"reference", m.reference_seconds},
                     {"forward", m.forward_seconds},        {"backward", m.backward_seconds},
                     {"optimizer", m.optimizer_seconds},    {"publish", report.seconds.publish},
                     {"generate", report.seconds.generate}, {"score", report.seconds.score}};
  json["groups_so_far"] = {
      {"leased", report.leases.leased},       {"accepted", report.leases.accepted},
      {"expired", report.leases.expired},     {"returned", report.leases.returned},
      {"duplicate", report.leases.duplicate}, {"stale", report.leases.stale},
      {"refused", report.leases.refused},     {"retried", report.leases.retried},
      {"dropped", report.leases.dropped}};
  json["missing_scores_so_far"] = Missing(report.missing);
  json["fingerprint"] = report.fingerprint;
  json["time"] = report.unix_time;
  return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
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
