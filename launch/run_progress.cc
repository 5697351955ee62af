// SPDX-License-Identifier: Apache-2.0
#include "launch/run_progress.h"

#include <cstdio>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "nlohmann/json.hpp"

namespace wideberth::launch {
namespace {

absl::optional<double> Number(const nlohmann::json& line, const char* name) {
  const auto found = line.find(name);
  if (found == line.end() || !found->is_number()) return absl::nullopt;
  return found->get<double>();
}

}  // namespace

absl::optional<StepMetrics> ParseStepMetrics(absl::string_view json_line) {
  const nlohmann::json line = nlohmann::json::parse(json_line.begin(), json_line.end(), nullptr,
                                                    /*allow_exceptions=*/false);
  if (!line.is_object() || !line.contains("step") || !line["step"].is_number_integer())
    return absl::nullopt;
  StepMetrics metrics;
  metrics.step = line["step"].get<int64_t>();
  if (const auto steps = Number(line, "max_steps"))
    metrics.max_steps = static_cast<int64_t>(*steps);
  metrics.loss = Number(line, "loss");
  metrics.reward = Number(line, "reward_mean");
  metrics.t = Number(line, "t_mean");
  metrics.boundary_mass = Number(line, "boundary_mass");
  metrics.kl = Number(line, "kl");
  metrics.tokens_per_second = Number(line, "tokens_per_second");
  return metrics;
}

std::string ProgressLine(const StepMetrics& metrics, int64_t max_steps,
                         absl::optional<absl::Duration> remaining) {
  std::string line = absl::StrCat("step ", metrics.step, "/", max_steps);
  if (metrics.loss && !metrics.reward) absl::StrAppendFormat(&line, "  loss %.4f", *metrics.loss);
  if (metrics.reward) absl::StrAppendFormat(&line, "  reward %.3f", *metrics.reward);
  if (metrics.t) absl::StrAppendFormat(&line, "  t %.3f", *metrics.t);
  if (metrics.boundary_mass)
    absl::StrAppendFormat(&line, "  near 0.5 %.1f %%", 100 * *metrics.boundary_mass);
  if (metrics.kl) absl::StrAppendFormat(&line, "  KL %.2g", *metrics.kl);
  if (metrics.tokens_per_second)
    absl::StrAppendFormat(&line, "  %.0f tok/s", *metrics.tokens_per_second);
  if (remaining)
    absl::StrAppend(&line, "  ETA ",
                    absl::FormatDuration(absl::Trunc(*remaining, absl::Seconds(1))));
  return line;
}

absl::optional<StepMetrics> MetricsTail::Poll() {
  std::ifstream file(path_, std::ios::binary);
  if (!file || !file.seekg(offset_)) return absl::nullopt;
  std::string fresh(std::istreambuf_iterator<char>(file), {});
  offset_ += static_cast<int64_t>(fresh.size());
  unfinished_ += fresh;
  const size_t end = unfinished_.rfind('\n');
  if (end == std::string::npos) return absl::nullopt;
  absl::optional<StepMetrics> newest;
  for (const absl::string_view line :
       absl::StrSplit(absl::string_view(unfinished_).substr(0, end), '\n')) {
    if (absl::optional<StepMetrics> metrics = ParseStepMetrics(line)) newest = std::move(metrics);
  }
  unfinished_.erase(0, end + 1);
  return newest;
}

void Eta::Note(int64_t step, absl::Time now) {
  if (!first_) first_ = {step, now};
  last_step_ = step;
  last_time_ = now;
}

absl::optional<absl::Duration> Eta::Remaining(int64_t max_steps) const {
  if (!first_ || last_step_ <= first_->first) return absl::nullopt;
  const absl::Duration each = (last_time_ - first_->second) / (last_step_ - first_->first);
  return each * (max_steps - last_step_);
}

void ProgressDisplay::Show(const std::string& line) {
  if (!terminal_) return Say(line);
  std::printf("\r\033[K%s", line.c_str());
  std::fflush(stdout);
  shown_ = true;
}

void ProgressDisplay::Say(const std::string& line) {
  Clear();
  if (terminal_) {
    std::printf("%s\n", line.c_str());
  } else {
    std::printf("%s %s\n",
                absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone()).c_str(),
                line.c_str());
  }
  std::fflush(stdout);
}

void ProgressDisplay::Clear() {
  if (!shown_) return;
  std::printf("\r\033[K");
  std::fflush(stdout);
  shown_ = false;
}

}  // namespace wideberth::launch
