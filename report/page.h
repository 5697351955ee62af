// SPDX-License-Identifier: Apache-2.0
// The report as one HTML file that opens without a network: claim, arms, charts, tables, guards,
// examples, settings and limits. Without an evaluation it has the guards alone, and no script.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "report/findings.h"

namespace wideberth::report {

struct PageOptions {
  bool redact = false;  // Prompts and answers become their lengths and hashes.
};
std::string PageHtml(const Findings& findings, const PageOptions& options);

// The main charts: report.html#chart=NAME shows one alone. Those of help are left out where nobody
// judged it.
std::vector<std::string> MainCharts(const Findings& findings);

// Works out `folders` and writes report.html and summary.json into `out`. Errors are those of
// WorkOut, or of writing.
absl::StatusOr<Findings> WriteReport(const std::vector<std::string>& folders,
                                     const std::string& out, const PageOptions& options);

}  // namespace wideberth::report
