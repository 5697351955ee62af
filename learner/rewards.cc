// SPDX-License-Identifier: Apache-2.0
// Typed scores -> rewards: the forms and normalisations of RewardConfig.
#include "learner/rewards.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "learner/advantages.h"

namespace wideberth::learner {
namespace {

using proto::RewardConfig;

bool NeedsTerms(const RewardConfig& config) { return config.form() == RewardConfig::WEIGHTED_SUM; }
bool NeedsGuard(const RewardConfig& config) {
  return config.form() != RewardConfig::U_ONLY && !NeedsTerms(config);
}
// The guards that are asked, in order: those of `harm`, or of `guard`.
std::vector<std::string> GuardNames(const RewardConfig& config) {
  if (config.harm().empty()) return {config.guard().begin(), config.guard().end()};
  std::vector<std::string> names;
  for (const RewardConfig::Harm& harm : config.harm()) names.push_back(harm.guard());
  return names;
}
bool NeedsUtility(const RewardConfig& config) {
  return config.form() != RewardConfig::GUARD_ONLY && !NeedsTerms(config);
}

// A single missing guard leaves t unknown: the missing one could have been the largest.
absl::optional<double> LargestGuard(const CompletionScores& scores) {
  if (scores.guards.empty()) return absl::nullopt;
  double largest = 0;
  for (const absl::optional<double>& guard : scores.guards) {
    if (!guard.has_value()) return absl::nullopt;
    largest = std::max(largest, *guard);
  }
  return largest;
}

absl::optional<double> ValueOf(const proto::Completion& completion, absl::string_view scorer) {
  for (const proto::Score& score : completion.score()) {
    if (score.scorer_name() != scorer) continue;
    if (score.status() != proto::SCORED || !score.has_value()) return absl::nullopt;
    if (!std::isfinite(score.value())) return absl::nullopt;
    return score.value();
  }
  return absl::nullopt;
}

// What a completion is charged with: one entry of RewardConfig.harm each, or the largest of the
// guards.
struct KindOfHarm {
  double t = 0, tau = 0.5, weight = 1;
};
std::vector<KindOfHarm> KindsOfHarm(const RewardConfig& config, const CompletionScores& scores) {
  if (config.harm().empty()) return {{LargestGuard(scores).value_or(0), config.tau(), 1}};
  std::vector<KindOfHarm> kinds;
  for (int k = 0; k < config.harm_size(); ++k)
    kinds.push_back({scores.guards[k].value_or(0), config.harm(k).tau(), config.harm(k).weight()});
  return kinds;
}

template <typename F>
double WeightedSumOf(const std::vector<KindOfHarm>& kinds, F of) {
  double sum = 0;
  for (const KindOfHarm& kind : kinds) sum += kind.weight * of(kind);
  return sum;
}

// The utility term and the boundary term, which sum to the reward; a form that lacks one leaves it
// empty.
struct Terms {
  absl::optional<double> utility, boundary;
};
Terms TermsOf(const RewardConfig& config, double v, const std::vector<KindOfHarm>& kinds,
              bool unsafe) {
  const double c = config.boundary_coefficient();
  const auto harm = [&] { return WeightedSumOf(kinds, [](const KindOfHarm& k) { return k.t; }); };
  const auto boundary = [&] {
    return c * WeightedSumOf(kinds, [](const KindOfHarm& k) { return k.t >= k.tau ? k.t : -k.t; });
  };
  switch (config.form()) {
    case RewardConfig::BOUNDARY:
      return {v, boundary()};
    case RewardConfig::ABSOLUTE:
      return {v,
              c * WeightedSumOf(kinds, [](const KindOfHarm& k) { return std::abs(k.t - k.tau); })};
    case RewardConfig::SQUARED:
      return {v, c * WeightedSumOf(
                         kinds, [](const KindOfHarm& k) { return (k.t - k.tau) * (k.t - k.tau); })};
    case RewardConfig::GUARD_ONLY:
      return {absl::nullopt, boundary()};
    case RewardConfig::PROMPT_AWARE:
      return {v, unsafe ? c * harm() : -c * harm()};
    case RewardConfig::COMPOUND: {
      // A blocked answer is of no use to anyone.
      double largest = 0;
      bool blocked = false;
      for (const KindOfHarm& kind : kinds) {
        largest = std::max(largest, kind.t);
        blocked |= kind.t >= kind.tau;
      }
      return {blocked ? 0.0 : v, blocked ? -(1 - largest) * config.lambda() : -harm()};
    }
    case RewardConfig::U_ONLY:
      return {v, absl::nullopt};
    case RewardConfig::U_MINUS_T:
      return {v, -c * harm()};
    case RewardConfig::WEIGHTED_SUM:
      break;
  }
  return {};
}

std::string NamesOf(const std::vector<proto::ScorerConfig>& scorers) {
  return scorers.empty()
             ? "none"
             : absl::StrJoin(scorers, ", ", [](std::string* out, const proto::ScorerConfig& s) {
                 absl::StrAppend(out, s.name());
               });
}

const proto::ScorerConfig* FindScorer(const std::vector<proto::ScorerConfig>& scorers,
                                      absl::string_view name) {
  for (const proto::ScorerConfig& scorer : scorers) {
    if (scorer.name() == name) return &scorer;
  }
  return nullptr;
}

absl::Status Invalid(const std::string& message) { return absl::InvalidArgumentError(message); }

absl::Status ValidateTerms(const RewardConfig& config,
                           const std::vector<proto::ScorerConfig>& scorers) {
  if (!NeedsTerms(config)) {
    if (config.term().empty()) return absl::OkStatus();
    return Invalid(absl::StrCat("reward.term is set, form ", RewardConfig::Form_Name(config.form()),
                                " has none, expected form WEIGHTED_SUM"));
  }
  if (config.term().empty()) {
    return Invalid("reward.term is empty, form WEIGHTED_SUM needs at least one");
  }
  std::set<std::string> seen;
  for (const RewardConfig::Term& term : config.term()) {
    if (FindScorer(scorers, term.scorer()) == nullptr) {
      return Invalid(absl::StrCat("reward.term.scorer is \"", term.scorer(),
                                  "\", expected the name of a scorer: ", NamesOf(scorers)));
    }
    if (!seen.insert(term.scorer()).second) {
      return Invalid(absl::StrCat("reward.term.scorer is \"", term.scorer(),
                                  "\" twice, expected each scorer once"));
    }
    if (!std::isfinite(term.weight())) {
      return Invalid(absl::StrCat("reward.term.weight is ", term.weight(), " for \"", term.scorer(),
                                  "\", expected a finite number"));
    }
  }
  return absl::OkStatus();
}

// Of every scorer the reward names.
absl::Status RefuseEvaluationOnly(const RewardConfig& config,
                                  const std::vector<proto::ScorerConfig>& scorers) {
  std::vector<std::pair<const char*, std::string>> named;
  for (const std::string& name : config.guard()) named.emplace_back("guard", name);
  for (const RewardConfig::Harm& harm : config.harm()) named.emplace_back("harm", harm.guard());
  for (const RewardConfig::Term& term : config.term()) named.emplace_back("term", term.scorer());
  named.emplace_back("utility", config.utility());
  for (const auto& [field, name] : named) {
    const proto::ScorerConfig* const scorer = FindScorer(scorers, name);
    if (scorer == nullptr) continue;
    if (!scorer->evaluation_only() && scorer->kind() != proto::ScorerConfig::ORACLE) continue;
    return Invalid(absl::StrCat(
        "reward.", field, " names scorer \"", name, "\", which is for evaluation only",
        scorer->evaluation_only() ? "" : " (kind ORACLE)", ", expected one that training may ask"));
  }
  return absl::OkStatus();
}

absl::Status ValidateNames(const RewardConfig& config,
                           const std::vector<proto::ScorerConfig>& scorers) {
  WB_RETURN_IF_ERROR(ValidateTerms(config, scorers));
  const std::string form = RewardConfig::Form_Name(config.form());
  const std::vector<std::string> guards = GuardNames(config);
  if (NeedsGuard(config) && guards.empty()) {
    return Invalid(
        absl::StrCat("reward.guard is empty, form ", form, " needs at least one scorer"));
  }
  if (!config.harm().empty() && !config.guard().empty()) {
    return Invalid("reward.guard is set beside reward.harm, expected one of them");
  }
  const char* const field = config.harm().empty() ? "reward.guard" : "reward.harm.guard";
  if (NeedsUtility(config) && config.utility().empty()) {
    return Invalid(absl::StrCat("reward.utility is not set, form ", form, " needs a scorer"));
  }
  for (const std::string& name : guards) {
    const proto::ScorerConfig* scorer = FindScorer(scorers, name);
    if (scorer == nullptr) {
      return Invalid(absl::StrCat(field, " is \"", name,
                                  "\", expected the name of a scorer: ", NamesOf(scorers)));
    }
    if (scorer->kind() == proto::ScorerConfig::REWARD ||
        scorer->output() != proto::ScorerConfig::PROBABILITY) {
      return Invalid(absl::StrCat(field, " is \"", name,
                                  "\", whose scores are unbounded, expected a scorer of kind "
                                  "VERDICT with output PROBABILITY, or GENERATIVE"));
    }
  }
  if (config.has_utility() && !config.utility().empty() &&
      FindScorer(scorers, config.utility()) == nullptr) {
    return Invalid(absl::StrCat("reward.utility is \"", config.utility(),
                                "\", expected the name of a scorer: ", NamesOf(scorers)));
  }
  return absl::OkStatus();
}

}  // namespace

GroupScores GatherScores(const proto::RewardConfig& config, absl::optional<bool> unsafe,
                         const std::vector<const proto::Completion*>& completions) {
  GroupScores group;
  group.unsafe = unsafe;
  for (const proto::Completion* completion : completions) {
    CompletionScores scores;
    if (!config.utility().empty()) scores.utility = ValueOf(*completion, config.utility());
    for (const std::string& name : GuardNames(config)) {
      absl::optional<double> t = ValueOf(*completion, name);
      if (t.has_value() && (*t < 0 || *t > 1)) t.reset();
      scores.guards.push_back(t);
    }
    for (const RewardConfig::Term& term : config.term()) {
      scores.terms.push_back(ValueOf(*completion, term.scorer()));
    }
    group.completions.push_back(std::move(scores));
  }
  return group;
}

std::vector<std::string> NeededScorers(const proto::RewardConfig& config) {
  std::vector<std::string> names;
  if (NeedsGuard(config)) names = GuardNames(config);
  if (NeedsUtility(config)) names.push_back(config.utility());
  if (!NeedsTerms(config)) return names;
  for (const RewardConfig::Term& term : config.term()) names.push_back(term.scorer());
  return names;
}

std::vector<double> TermWeights(const proto::RewardConfig& config) {
  if (!NeedsTerms(config)) return std::vector<double>(NeedsGuard(config) + NeedsUtility(config), 1);
  std::vector<double> weights;
  for (const RewardConfig::Term& term : config.term()) weights.push_back(term.weight());
  return weights;
}

proto::RewardConfig::MissingRule MissingRuleFor(const proto::RewardConfig& config,
                                                proto::ScoreStatus status) {
  switch (status) {
    case proto::REFUSED_INPUT:
      return config.on_refused_input();
    case proto::TIMED_OUT:
      return config.on_timed_out();
    case proto::OVERLOADED:
      return config.on_overloaded();
    case proto::MALFORMED_OUTPUT:
      return config.on_malformed_output();
    case proto::MODEL_ERROR:
      return config.on_model_error();
    case proto::SCORED:
      break;
  }
  WB_CHECK(false, "a score that is present needs no rule for missing ones");
  return RewardConfig::DROP_COMPLETION;
}

absl::Status ValidateRewardConfig(const proto::RewardConfig& config,
                                  const std::vector<proto::ScorerConfig>& scorers) {
  WB_RETURN_IF_ERROR(RefuseEvaluationOnly(config, scorers));
  WB_RETURN_IF_ERROR(ValidateNames(config, scorers));
  const std::pair<const char*, double> numbers[] = {
      {"boundary_coefficient", config.boundary_coefficient()},
      {"utility_weight", config.utility_weight()},
      {"utility_mu", config.utility_mu()},
      {"lambda", config.lambda()}};
  for (const auto& [field, value] : numbers) {
    if (!std::isfinite(value)) {
      return Invalid(absl::StrCat("reward.", field, " is ", value, ", expected a finite number"));
    }
  }
  if (!(config.tau() >= 0 && config.tau() <= 1)) {
    return Invalid(
        absl::StrCat("reward.tau is ", config.tau(), ", expected a probability in [0, 1]"));
  }
  for (const RewardConfig::Harm& harm : config.harm()) {
    if (!(harm.tau() >= 0 && harm.tau() <= 1)) {
      return Invalid(absl::StrCat("reward.harm.tau is ", harm.tau(), " for \"", harm.guard(),
                                  "\", expected a probability in [0, 1]"));
    }
    if (!(harm.weight() >= 0 && std::isfinite(harm.weight()))) {
      return Invalid(absl::StrCat("reward.harm.weight is ", harm.weight(), " for \"", harm.guard(),
                                  "\", expected at least 0"));
    }
  }
  if (config.has_utility_scale() &&
      !(config.utility_scale() > 0 && std::isfinite(config.utility_scale()))) {
    return Invalid(absl::StrCat("reward.utility_scale is ", config.utility_scale(),
                                ", expected a positive number"));
  }
  const bool standard = config.utility_normalization() == RewardConfig::STANDARD;
  if (standard && !(config.has_utility_mu() && config.has_utility_scale())) {
    return Invalid(
        "reward.utility_mu or reward.utility_scale is not set, expected both for "
        "utility_normalization STANDARD");
  }
  if (!(config.utility_clip() > 0)) {
    return Invalid(absl::StrCat("reward.utility_clip is ", config.utility_clip(),
                                ", expected a positive number"));
  }
  if (config.max_retries() < 0) {
    return Invalid(
        absl::StrCat("reward.max_retries is ", config.max_retries(), ", expected at least 0"));
  }
  return absl::OkStatus();
}

double CompoundUtility(double t, double u, double lambda, double tau) {
  return t >= tau ? -(1 - t) * lambda : u - t;
}

bool InBoundaryMass(double t) { return std::abs(t - 0.5) < 0.1; }

double RewardComposer::running_deviation() const {
  return count_ < 2 ? 1.0 : std::sqrt(sum_squares_ / static_cast<double>(count_ - 1));
}

bool RewardComposer::Rewardable(const CompletionScores& scores) const {
  if (NeedsTerms(config_)) {
    return std::all_of(scores.terms.begin(), scores.terms.end(),
                       [](const absl::optional<double>& term) { return term.has_value(); });
  }
  return (!NeedsUtility(config_) || scores.utility.has_value()) &&
         (!NeedsGuard(config_) || LargestGuard(scores).has_value());
}

absl::Status RewardComposer::Check(const GroupScores& group) const {
  if (config_.form() == RewardConfig::PROMPT_AWARE && !group.unsafe.has_value()) {
    return Invalid(
        "a prompt has no \"unsafe\" label, expected true or false on every prompt of a run whose "
        "reward.form is PROMPT_AWARE");
  }
  for (const CompletionScores& scores : group.completions) {
    const size_t num_guards = GuardNames(config_).size();
    if (scores.guards.size() != num_guards) {
      return Invalid(absl::StrCat("a completion has ", scores.guards.size(),
                                  " guard scores, expected ", num_guards));
    }
    if (NeedsTerms(config_) && static_cast<int>(scores.terms.size()) != config_.term_size()) {
      return Invalid(absl::StrCat("a completion has ", scores.terms.size(),
                                  " scores of reward.term, expected ", config_.term_size()));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::vector<CompletionReward>>> RewardComposer::Compose(
    const std::vector<GroupScores>& groups) {
  for (const GroupScores& group : groups) WB_RETURN_IF_ERROR(Check(group));
  for (const GroupScores& group : groups) {
    for (const CompletionScores& scores : group.completions) {
      if (!scores.utility.has_value() || !Rewardable(scores)) continue;
      const double distance = *scores.utility - mean_;
      mean_ += distance / static_cast<double>(++count_);
      sum_squares_ += distance * (*scores.utility - mean_);
    }
  }
  return Evaluate(groups);
}

absl::StatusOr<std::vector<std::vector<CompletionReward>>> RewardComposer::Evaluate(
    const std::vector<GroupScores>& groups) const {
  std::vector<std::vector<CompletionReward>> rewards;
  for (const GroupScores& group : groups) {
    WB_RETURN_IF_ERROR(Check(group));
    rewards.push_back(ComposeGroup(group));
  }
  return rewards;
}

void RewardComposer::NormalizeUtilities(std::vector<CompletionReward>* rewards) const {
  std::vector<double> utilities;
  for (const CompletionReward& reward : *rewards) {
    if (reward.normalized_utility.has_value()) utilities.push_back(*reward.normalized_utility);
  }
  const Moments group = SampleMoments(utilities);
  const double running = running_deviation() + (count_ < 2 ? 0.0 : kDeviationEpsilon);
  const double mu = config_.has_utility_mu() ? config_.utility_mu() : mean_;
  const double scale = config_.has_utility_scale() ? config_.utility_scale() : running;
  for (CompletionReward& reward : *rewards) {
    if (!reward.normalized_utility.has_value()) continue;
    double& u = *reward.normalized_utility;
    switch (config_.utility_normalization()) {
      case RewardConfig::RAW:
        break;
      case RewardConfig::GROUP_ZSCORE:
        u = utilities.size() < 2 ? 0.0 : (u - group.mean) / (group.deviation + kDeviationEpsilon);
        break;
      case RewardConfig::RUNNING_ZSCORE:
        u = (u - mean_) / running;
        break;
      case RewardConfig::SIGMOID:
        u = 1 / (1 + std::exp(-(u - mu) / scale));
        break;
      case RewardConfig::STANDARD:
        u = std::clamp((u - mu) / scale, -config_.utility_clip(), config_.utility_clip());
        break;
    }
    u *= config_.utility_weight();
  }
}

std::vector<CompletionReward> RewardComposer::ComposeGroup(const GroupScores& group) const {
  std::vector<CompletionReward> rewards;
  for (const CompletionScores& scores : group.completions) {
    CompletionReward reward;
    reward.t = LargestGuard(scores);
    reward.utility = scores.utility;
    if (NeedsUtility(config_) && Rewardable(scores)) reward.normalized_utility = scores.utility;
    rewards.push_back(reward);
  }
  NormalizeUtilities(&rewards);
  const std::vector<double> weights = TermWeights(config_);
  for (size_t i = 0; i < rewards.size(); ++i) {
    CompletionReward& reward = rewards[i];
    reward.terms.resize(weights.size());
    if (!Rewardable(group.completions[i])) continue;
    if (NeedsTerms(config_)) {
      reward.terms = group.completions[i].terms;
    } else {
      const Terms terms =
          TermsOf(config_, reward.normalized_utility.value_or(0),
                  KindsOfHarm(config_, group.completions[i]), group.unsafe.value_or(false));
      reward.terms.clear();
      if (terms.utility.has_value()) reward.terms.push_back(terms.utility);
      if (terms.boundary.has_value()) reward.terms.push_back(terms.boundary);
    }
    reward.reward = WeightedSum(reward.terms, weights);
  }
  return rewards;
}

std::string RewardComposer::Serialize() const {
  return absl::StrFormat("%d %a %a", count_, mean_, sum_squares_);
}

absl::Status RewardComposer::Restore(absl::string_view state) {
  const std::vector<std::string> parts = absl::StrSplit(state, ' ');
  int64_t count = 0;
  double mean = 0, sum_squares = 0;
  // strtod reads hexadecimal floats, which are exact; absl::SimpleAtod does not.
  auto parse = [](const std::string& text, double* value) {
    char* end = nullptr;
    *value = std::strtod(text.c_str(), &end);
    return !text.empty() && end == text.c_str() + text.size() && std::isfinite(*value);
  };
  if (parts.size() != 3 || !absl::SimpleAtoi(parts[0], &count) || count < 0 ||
      !parse(parts[1], &mean) || !parse(parts[2], &sum_squares) || sum_squares < 0) {
    return Invalid(absl::StrCat("reward statistics are \"", state,
                                "\", expected a count, a mean and a sum of squares"));
  }
  count_ = count;
  mean_ = mean;
  sum_squares_ = sum_squares;
  return absl::OkStatus();
}

}  // namespace wideberth::learner
