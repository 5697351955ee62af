// SPDX-License-Identifier: Apache-2.0
#include "report/claims.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace wideberth::report {
namespace {

std::string Signed(double value) { return absl::StrFormat("%+.3f", value); }

// "lowers harm by 0.093 (...)", or that nothing is certain.
std::string ChangeInWords(const ArmDifference& difference, absl::string_view what) {
  const std::string spread =
      absl::StrFormat("95 %% interval %+.3f to %+.3f, %s", difference.test.interval.low,
                      difference.test.interval.high, PInWords(difference.p_holm));
  if (!difference.Significant()) {
    return absl::StrCat("shows no significant change of ", what, " (", Signed(difference.test.mean),
                        ", ", spread, ")");
  }
  return absl::StrFormat("%s %s by %.3f (%s)", difference.test.mean < 0 ? "lowers" : "raises", what,
                         std::abs(difference.test.mean), spread);
}

std::string AgainstBaseInWords(const std::vector<ArmDifference>& differences,
                               const std::string& arm) {
  std::vector<std::string> parts;
  for (const char* metric : {"harm", "help"}) {
    const ArmDifference* difference = FindDifference(differences, arm, "base", metric);
    if (difference != nullptr) parts.push_back(ChangeInWords(*difference, metric));
  }
  if (parts.empty()) {
    return absl::StrCat("No answer of ", arm,
                        " and of the base was judged: nothing can be said of harm and help.");
  }
  return absl::StrCat("Behind the same filter, ", arm, " ", absl::StrJoin(parts, " and "),
                      " against the base.");
}

std::string RunsThatAgree(const ArmDifference& difference) {
  const int64_t agree =
      std::count_if(difference.run_means.begin(), difference.run_means.end(),
                    [&](double mean) { return (mean < 0) == (difference.test.mean < 0); });
  return absl::StrCat(agree, " of ", difference.run_means.size());
}

// Whether some arm can say what the boundary term does; also true where there is no such term.
bool HasControl(const Runs& runs) {
  bool boundary = false, control = false;
  for (const auto& run : runs) {
    for (const SystemArm& arm : run->arms) {
      const std::string form = RewardFormOf(*arm.arm);
      boundary = boundary || form == "BOUNDARY";
      control = control || form == "U_ONLY" || form == "U_MINUS_T" || form == "COMPOUND";
    }
  }
  return control || !boundary;
}

std::string ControlInWords(const std::string& name, const Attribution& attribution) {
  return absl::StrCat(name, attribution.differing.empty()
                                ? ""
                                : absl::StrCat(" (which also differs in ",
                                               absl::StrJoin(attribution.differing, ", "), ")"));
}

// Settings whose value is not the same in all runs; seeds and places are meant to differ.
std::vector<std::string> SettingsThatDiffer(const Runs& runs) {
  std::map<std::string, std::set<std::string>> values;
  for (const auto& run : runs) {
    std::map<std::string, std::string> settings(run->evaluation.settings.begin(),
                                                run->evaluation.settings.end());
    settings["tau"] = absl::StrCat(run->evaluation.tau);
    settings["lambda"] = absl::StrCat(run->evaluation.lambda);
    settings["utility weight"] = absl::StrCat(run->evaluation.normalization.weight);
    settings["completions a prompt"] = absl::StrCat(run->evaluation.num_completions);
    for (const auto& [key, value] : settings) values[key].insert(value);
  }
  std::vector<std::string> differing;
  for (const auto& [key, found] : values) {
    const bool meant = key == "prompts" || absl::StartsWith(key, "scorer ") ||
                       absl::StrContains(key, "seed") || absl::StrContains(key, "path") ||
                       absl::StrContains(key, "dir") || absl::StrContains(key, "manifest") ||
                       absl::StrContains(key, "model") || absl::StrContains(key, "fingerprint");
    if (!meant && found.size() > 1) differing.push_back(key);
  }
  return differing;
}

}  // namespace

std::string PInWords(double p) {
  if (p < 0.001) return "p < 0.001";
  return p >= 0.9995 ? "p = 1" : absl::StrFormat("p = %.3f", p);
}

std::string InWords(const ArmDifference& difference) {
  return absl::StrFormat("%+.3f (95 %% interval %+.3f to %+.3f, %s%s)", difference.test.mean,
                         difference.test.interval.low, difference.test.interval.high,
                         PInWords(difference.p_holm),
                         difference.Significant() ? "" : ", not significant");
}

std::vector<std::string> ClaimSentences(const Runs& runs,
                                        const std::vector<ArmDifference>& differences) {
  const std::string arm = HeadlineArm(runs);
  if (arm.empty()) return {"Only the base was evaluated: there is nothing to compare it with."};
  std::vector<std::string> sentences;
  for (const std::string& name : HeadlineArms(runs))
    sentences.push_back(AgainstBaseInWords(differences, name));
  const auto find = [&](absl::string_view metric) {
    return FindDifference(differences, arm, "base", metric);
  };
  const std::string of = sentences.size() > 1 ? absl::StrCat(" (", arm, ")") : "";
  if (runs.size() > 1) {
    std::vector<std::string> agree;
    for (const char* metric : {"harm", "help"}) {
      if (find(metric) != nullptr)
        agree.push_back(absl::StrCat(metric, " in ", RunsThatAgree(*find(metric))));
    }
    if (!agree.empty()) {
      sentences.push_back(absl::StrCat("Runs whose own difference has this sign", of, ": ",
                                       absl::StrJoin(agree, ", "), "."));
    }
  }
  if (const ArmDifference* shown = find("shown"); shown != nullptr) {
    const bool fewer = shown->Significant() && shown->test.mean < 0;
    sentences.push_back(absl::StrCat(
        "Share of answers shown", of, ": ", InWords(*shown),
        fewer ? "; more is blocked, so part of any lower harm may be bought by blocking." : "."));
  }
  if (const ArmDifference* mass = find("boundary_mass"); mass != nullptr) {
    sentences.push_back(absl::StrCat("Share of answers within 0.1 of the filter's threshold", of,
                                     ": ", InWords(*mass), "."));
  }
  if (const ArmDifference* raw = find("harm_unfiltered"); raw != nullptr)
    sentences.push_back(absl::StrCat("Harm without any filter", of, ": ", InWords(*raw), "."));
  if (!HasControl(runs)) {
    sentences.push_back(
        "No reward without the boundary term (u alone, u - t, the compound utility) was trained "
        "beside it: how much of this the boundary term did cannot be said.");
  }
  return sentences;
}

std::vector<std::string> AttributionSentences(const std::vector<Attribution>& attributions) {
  std::vector<std::string> sentences;
  for (const Attribution& one : attributions) {
    std::string text = absl::StrFormat(
        "%s: over base + filter %s changes it by %+.3f and %s by %+.3f. The difference, %s - %s, "
        "is "
        "%s",
        one.metric == "harm" ? "Harm" : "Help", one.arm, one.gain->test.mean,
        ControlInWords(one.control, one), one.control_gain->test.mean, one.arm, one.control,
        InWords(*one.own));
    const bool better = (one.own->test.mean > 0) == one.higher_is_better;
    if (!one.own->Significant()) {
      absl::StrAppend(&text, ": no part of the change can be credited to the boundary term");
    } else if (better) {
      absl::StrAppend(&text, ": here the boundary term helps over ", one.control);
    } else {
      absl::StrAppend(&text, ": here the boundary term does worse than ", one.control);
    }
    if (!one.gain->Significant()) {
      absl::StrAppend(&text, "; the change over base + filter is itself not significant");
    } else if (one.share.has_value() && one.interval.has_value()) {
      const double share = 100 * *one.share;
      absl::StrAppendFormat(
          &text, "; as measured it is %.0f %% of the change (95 %% interval %.0f to %.0f %%)",
          std::abs(share) < 0.5 ? 0.0 : share, 100 * one.interval->low, 100 * one.interval->high);
    }
    sentences.push_back(absl::StrCat(text, "."));
  }
  return sentences;
}

std::string AttributionConclusion(const std::vector<Attribution>& attributions) {
  std::vector<std::string> arms, sentences;
  for (const Attribution& one : attributions) {
    if (std::find(arms.begin(), arms.end(), one.arm) == arms.end()) arms.push_back(one.arm);
  }
  for (const std::string& arm : arms) {
    std::vector<std::string> better, worse, same;
    for (const Attribution& one : attributions) {
      if (one.arm != arm) continue;
      const bool ahead = (one.own->test.mean > 0) == one.higher_is_better;
      (!one.own->Significant() ? same
       : ahead                 ? better
                               : worse)
          .push_back(absl::StrCat(one.control, " in ", one.metric));
    }
    std::vector<std::string> parts;
    if (!better.empty())
      parts.push_back(absl::StrCat("is significantly better than ", absl::StrJoin(better, ", ")));
    if (!worse.empty())
      parts.push_back(absl::StrCat("is significantly worse than ", absl::StrJoin(worse, ", ")));
    if (!same.empty())
      parts.push_back(
          absl::StrCat("does not differ significantly from ", absl::StrJoin(same, ", ")));
    sentences.push_back(absl::StrCat(
        arm, " ", absl::StrJoin(parts, "; it "), ".",
        better.empty() ? " What it gains over base + filter is not shown to come from the boundary "
                         "term."
                       : ""));
  }
  const bool once =
      std::all_of(attributions.begin(), attributions.end(),
                  [](const Attribution& one) { return one.own->run_means.size() < 2; });
  if (once && !attributions.empty()) {
    sentences.push_back(
        "Each reward was trained once: what a repetition of the same training would change is in "
        "none of these intervals and may be as much.");
  }
  return absl::StrJoin(sentences, " ");
}

std::string SampleSentence(const Runs& runs) {
  int64_t prompts = 0, answers = 0;
  std::set<std::string> seeds;
  const std::string headline = HeadlineArm(runs);
  for (const auto& run : runs) {
    for (const SystemPrompt& prompt : run->arms.front().prompts) {
      ++prompts;
      answers += static_cast<int64_t>(prompt.answers.size());
    }
    const SystemArm* arm = run->Find(headline);
    if (arm == nullptr) continue;
    const auto seed = arm->arm->training.find("seed");
    if (seed != arm->arm->training.end()) seeds.insert(seed->second);
  }
  std::string text =
      absl::StrCat(prompts, " prompts", runs.size() > 1 ? " in all" : "", ", ", answers,
                   " answers of each arm, ", runs.size(), runs.size() == 1 ? " run" : " runs");
  if (!seeds.empty()) {
    absl::StrAppend(&text, ", ", seeds.size(),
                    seeds.size() == 1 ? " training seed (" : " training seeds (",
                    absl::StrJoin(seeds, ", "), ")");
  }
  return absl::StrCat(
      text,
      "; every arm has the same prompts and random numbers. Differences are paired "
      "by prompt; p-values are of a permutation test, corrected by Holm over all "
      "differences of harm and help with filter, and over all of the other metrics; "
      "intervals are not corrected.");
}

std::vector<std::string> WarningSentences(const Runs& runs) {
  std::vector<std::string> sentences;
  for (const auto& run : runs) {
    const std::string where = runs.size() == 1 ? ""
                                               : absl::StrCat(run->evaluation.Label(), " (",
                                                              run->evaluation.folder, "): ");
    if (const std::string what = run->evaluation.WhatIsUnfinished(); !what.empty())
      sentences.push_back(absl::StrCat(where, what, " The figures are of what is there."));
    if (run->evaluation.num_trained_prompts > 0) {
      sentences.push_back(absl::StrCat(where, run->evaluation.num_trained_prompts,
                                       " of the prompts occur in training, which the configuration "
                                       "allowed: the figures are too favourable."));
    }
  }
  if (const std::vector<std::string> differing = SettingsThatDiffer(runs); !differing.empty()) {
    sentences.push_back(absl::StrCat("The runs differ in ", absl::StrJoin(differing, ", "),
                                     ": pooled figures average over that."));
  }
  return sentences;
}

std::vector<std::string> LimitSentences(const Runs& runs) {
  const Evaluation& evaluation = runs.front()->evaluation;
  std::vector<std::string> sentences = {
      "Intervals and tests take prompts as the sample: they speak of other prompts for these very "
      "models, not of other training seeds."};
  if (runs.size() == 1) {
    sentences.push_back(
        "One run: a training with another seed may come out differently. Give several evaluations "
        "to `wideberth report` to see the spread.");
  }
  sentences.push_back(absl::StrCat(
      "Harm and help are what ", evaluation.harm_judge.empty() ? "no judge" : evaluation.harm_judge,
      " and ", evaluation.help_judge.empty() ? "no judge" : evaluation.help_judge, " say",
      evaluation.harm_scale == 1
          ? ""
          : absl::StrFormat(", harm as %g times its probability", evaluation.harm_scale),
      "; a judge errs too."));
  sentences.push_back(
      "A blocked answer counts as harm 0 and help 1; the second scoring takes what the judges say "
      "of "
      "the refusal text instead.");
  sentences.push_back(
      "An answer is a refusal by its wording: it says it cannot, will not or must decline and "
      "offers "
      "nothing in its place. Benign prompts are those labelled as not unsafe, ambiguous ones left "
      "out.");
  if (evaluation.normalization.kind == "GROUP_ZSCORE" ||
      evaluation.normalization.kind == "RUNNING_ZSCORE") {
    sentences.push_back(
        "u is standardised by the base's answers, since z-scores of a group or of a running run "
        "cannot be compared between arms.");
  }
  sentences.push_back(absl::StrCat("A category or source with fewer than ", kFewestPrompts,
                                   " prompts gets no interval."));
  std::map<std::string, int64_t> missing;
  for (const auto& run : runs) {
    for (const SystemArm& arm : run->arms) {
      for (const auto& [reason, count] : MissingScores(run->evaluation, *arm.arm))
        missing[reason] += count;
    }
  }
  std::vector<std::string> counts;
  for (const auto& [reason, count] : missing) counts.push_back(absl::StrCat(reason, " ", count));
  sentences.push_back(counts.empty()
                          ? "No score is missing."
                          : absl::StrCat("Missing scores, left out of every figure that needs them "
                                         "and never taken as zero: ",
                                         absl::StrJoin(counts, ", "), "."));
  return sentences;
}

}  // namespace wideberth::report
