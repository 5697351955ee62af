// SPDX-License-Identifier: Apache-2.0
// The tables of the report's page that say where its figures come from: runs, settings, data,
// costs. Empty where there is nothing to show.
#pragma once

#include <string>

#include "report/findings.h"

namespace wideberth::report {

// Of each run beside the others; empty for one.
std::string RunsTable(const Findings& findings);
std::string TrainingTable(const Findings& findings);
std::string SettingsTable(const Findings& findings);
std::string CostsTable(const Findings& findings);
// The file that the setting "manifest" names, or that lies beside the prompts as manifest.json,
// flattened; empty without one.
std::string ManifestTable(const Findings& findings);

}  // namespace wideberth::report
