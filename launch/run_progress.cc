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

struct Column {
  const char* name;
  int width;  // The gap before it included.
  absl::optional<double> StepMetrics::*value;
};

constexpr int kStepWidth = 11, kTimeWidth = 8, kRowsPerHeader = 20;
constexpr Column kColumns[] = {{"reward", 9, &StepMetrics::reward},
                               {"t", 8, &StepMetrics::t},
                               {"near", 7, &StepMetrics::boundary_mass},
                               {"u", 8, &StepMetrics::u},
                               {"KL", 9, &StepMetrics::kl},
                               {"loss", 9, &StepMetrics::loss},
                               {"norm", 8, &StepMetrics::grad_norm},
                               {"length", 7, &StepMetrics::length},
                               {"tok/s", 6, &StepMetrics::tokens_per_second}};

// "0.42s", "31.0s", "12m10s", "3h20m", "2d4h".
std::string CompactTime(absl::Duration duration) {
  const double seconds = absl::ToDoubleSeconds(duration);
  if (seconds < 100) return absl::StrFormat("%.*fs", seconds < 9.995 ? 2 : 1, seconds);
  const auto whole = static_cast<int64_t>(seconds);
  if (whole < 3600) return absl::StrFormat("%dm%02ds", whole / 60, whole % 60);
  if (whole < 86400) return absl::StrFormat("%dh%02dm", whole / 3600, whole % 3600 / 60);
  return absl::StrFormat("%dd%dh", whole / 86400, whole % 86400 / 3600);
}

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
  metrics.reward = Number(line, "reward");
  metrics.t = Number(line, "t_mean");
  metrics.boundary_mass = Number(line, "boundary_mass");
  metrics.u = Number(line, "u_mean");
  metrics.kl = Number(line, "kl");
  metrics.loss = Number(line, "loss");
  metrics.grad_norm = Number(line, "grad_norm");
  metrics.length = Number(line, "completions/mean_length");
  metrics.tokens_per_second = Number(line, "tokens_per_second");
  metrics.seconds = Number(line, "step_time");
  return metrics;
}

absl::optional<ArmProgress> ParseArmProgress(absl::string_view json_line) {
  const nlohmann::json line = nlohmann::json::parse(json_line.begin(), json_line.end(), nullptr,
                                                    /*allow_exceptions=*/false);
  if (!line.is_object() || !line.contains("arm") || !line["arm"].is_string()) return absl::nullopt;
  const auto whole = [&](const char* name) {
    return static_cast<int64_t>(Number(line, name).value_or(0));
  };
  return ArmProgress{line["arm"].get<std::string>(),
                     whole("arm_index"),
                     whole("num_arms"),
                     whole("answered"),
                     whole("of"),
                     Number(line, "seconds").value_or(0)};
}

std::string ArmLine(const ArmProgress& progress) {
  const auto answered = static_cast<double>(progress.answered);
  const double rate = progress.seconds > 0 ? answered / progress.seconds : 0;
  std::string line =
      absl::StrFormat("arm %s (%d of %d): %d of %d prompts, %.1f/s", progress.arm,
                      progress.index + 1, progress.num_arms, progress.answered, progress.of, rate);
  if (rate > 0 && progress.answered < progress.of) {
    const double left = static_cast<double>(progress.of - progress.answered) / rate;
    absl::StrAppend(&line, ", ", CompactTime(absl::Seconds(left)), " left");
  }
  return line;
}

std::string CompactNumber(double value, int width) {
  std::string text = absl::StrFormat("%.4g", value);
  for (int digits = 3; digits > 0 && static_cast<int>(text.size()) > width; --digits)
    text = absl::StrFormat("%.*g", digits, value);
  return text;
}

std::string TableHeader() {
  std::string header = absl::StrFormat("%*s", kStepWidth, "step");
  for (const Column& column : kColumns)
    absl::StrAppendFormat(&header, "%*s", column.width, column.name);
  return absl::StrCat(header, absl::StrFormat("%*s%*s", kTimeWidth, "time", kTimeWidth, "left"));
}

std::string TableRow(const StepMetrics& metrics, int64_t max_steps,
                     absl::optional<absl::Duration> remaining) {
  std::string row = absl::StrFormat("%*s", kStepWidth, absl::StrCat(metrics.step, "/", max_steps));
  for (const Column& column : kColumns) {
    const absl::optional<double>& value = metrics.*column.value;
    absl::StrAppendFormat(&row, "%*s", column.width,
                          value ? CompactNumber(*value, column.width - 1) : "-");
  }
  const auto time = [](absl::optional<absl::Duration> duration) {
    return absl::StrFormat("%*s", kTimeWidth, duration ? CompactTime(*duration) : "-");
  };
  return absl::StrCat(
      row,
      time(metrics.seconds ? absl::optional<absl::Duration>(absl::Seconds(*metrics.seconds))
                           : absl::nullopt),
      time(remaining));
}

std::vector<StepMetrics> MetricsTail::Poll(std::vector<ArmProgress>* arms) {
  std::ifstream file(path_, std::ios::binary);
  if (!file || !file.seekg(offset_)) return {};
  std::string fresh(std::istreambuf_iterator<char>(file), {});
  offset_ += static_cast<int64_t>(fresh.size());
  unfinished_ += fresh;
  const size_t end = unfinished_.rfind('\n');
  if (end == std::string::npos) return {};
  std::vector<StepMetrics> steps;
  for (const absl::string_view line :
       absl::StrSplit(absl::string_view(unfinished_).substr(0, end), '\n')) {
    if (absl::optional<StepMetrics> metrics = ParseStepMetrics(line))
      steps.push_back(*std::move(metrics));
    if (arms == nullptr) continue;
    if (absl::optional<ArmProgress> arm = ParseArmProgress(line)) arms->push_back(*std::move(arm));
  }
  unfinished_.erase(0, end + 1);
  return steps;
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

void ProgressDisplay::ShowRow(const std::string& row) {
  if (rows_to_header_-- == 0) {
    rows_to_header_ = kRowsPerHeader - 1;
    std::printf("%s\n", TableHeader().c_str());
  }
  std::printf("%s\n", row.c_str());
  std::fflush(stdout);
}

void ProgressDisplay::Say(const std::string& line) {
  if (terminal_) {
    std::printf("%s\n", line.c_str());
  } else {
    std::printf("%s %s\n",
                absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone()).c_str(),
                line.c_str());
  }
  std::fflush(stdout);
}

void ProgressDisplay::ShowBlock(const std::string& text) {
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
  rows_to_header_ = 0;
}

}  // namespace wideberth::launch
