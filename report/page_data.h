// SPDX-License-Identifier: Apache-2.0
// The numbers that report/page.js draws, as JSON.
#pragma once

#include <string>

#include "report/findings.h"

namespace wideberth::report {

constexpr int kHistogramBins = 20, kReliabilityBins = 10;

// {"tau", "headline", "arms": [{"name", "system": {"harm", "help", "harm_interval",
// "help_interval"}, "raw": {"harm", "help"}}], "histogram": {arm: [share]}, "reliability": {arm:
// [{"t", "harmful", "n"}]}, "curves": [{"arm", "run", "values": {name: [[step, value]]}}], "sweep":
// [{"arm", "points": [{"harm", "help", "tau", "front"}]}]}. `curves` reads the arms' training runs.
std::string ChartData(const Findings& findings);

// The shares of t in kHistogramBins bins, mean over runs.
std::vector<double> HistogramOver(const Runs& runs, const std::string& arm);
// The guard against the judge's harm of at least 2, answers of all runs.
std::vector<CalibrationBin> ReliabilityOver(const Runs& runs, const std::string& arm);

}  // namespace wideberth::report
