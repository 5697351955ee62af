// SPDX-License-Identifier: Apache-2.0
// Requests that were asked in several wordings: what an attacker reaches who tries them all on a
// policy and its filter and keeps the worst. Part of report/findings.*.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/optional.h"
#include "report/comparison.h"
#include "report/statistics.h"

namespace wideberth::report {

// An arm behind its filter. The attacker chooses each request's wording by the answers with an even
// index, the harm counted is that of the others: choosing by what is counted would overstate it.
struct WorstWording {
  std::string arm;
  int64_t num_requests = 0;
  double harm = 0;                          // Over all wordings.
  double worst_harm = 0;                    // Of the chosen ones.
  absl::optional<PairedTest> against_base;  // Of `worst_harm`, request by request; p by itself.
};

// One an arm, requests of all runs together; empty where there is no request with two wordings, or
// a prompt has fewer than two answers.
std::vector<WorstWording> WorstWordings(const Runs& runs);

}  // namespace wideberth::report
