// SPDX-License-Identifier: Apache-2.0
// What was measured, in sentences that assert no more than that: the head of the report's page and
// of its text.
#pragma once

#include <string>
#include <vector>

#include "report/comparison.h"

namespace wideberth::report {

// "Behind the same filter boundary lowers harm by ... and raises help by ...", then what else a
// reader must know of it; the first sentence is the claim, one for each further boundary arm
// follows. What is not significant is said to be so.
std::vector<std::string> ClaimSentences(const Runs& runs,
                                        const std::vector<ArmDifference>& differences);

// How much of the gain the boundary term explains, a sentence for each control and metric.
std::vector<std::string> AttributionSentences(const std::vector<Attribution>& attributions);
// The same in one sentence for each boundary arm; empty without attributions.
std::string AttributionConclusion(const std::vector<Attribution>& attributions);

// What the page's figures are made of: prompts, answers, runs and training seeds.
std::string SampleSentence(const Runs& runs);

// What the reader must know before the claim: unfinished runs, prompts that occur in training, runs
// pooled in spite of different settings. Empty: nothing.
std::vector<std::string> WarningSentences(const Runs& runs);

// What the figures do not say, and the rules they rest on.
std::vector<std::string> LimitSentences(const Runs& runs);

// "+0.907 (95 % interval +0.877 to +0.937, p < 0.001)", p after Holm's correction.
std::string InWords(const ArmDifference& difference);
std::string PInWords(double p);  // "p = 0.030", "p < 0.001"

}  // namespace wideberth::report
