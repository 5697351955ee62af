// SPDX-License-Identifier: Apache-2.0
// The tables of the report's page, as HTML. Empty where there is nothing to show.
#pragma once

#include <string>

#include "report/findings.h"

namespace wideberth::report {

// The four arms: base, base + filter, trained, trained + filter (each that was trained with the
// boundary reward).
std::string FourArmsTable(const Findings& findings);
// All metrics of all arms, with intervals where one run is shown.
std::string AllArmsTable(const Findings& findings);
// One arm, or every arm where `arm` is empty, against the base.
std::string DifferencesTable(const Findings& findings, absl::string_view arm);
// Boundary arms against their controls.
std::string ControlsTable(const Findings& findings);
// The gain over base + filter, the control's, their difference and its share of the gain.
std::string AttributionTable(const Findings& findings);
// By "category" or "source": the base and one arm, or all arms where `arm` is empty.
std::string SlicesTable(const Findings& findings, absl::string_view kind, absl::string_view arm);
std::string FiltersTable(const Findings& findings);
// Empty where no request was asked in several wordings.
std::string WordingsTable(const Findings& findings);
// U for prices of blocking: at the filter's threshold, and the best of the sweep.
std::string LambdaTable(const Findings& findings);
std::string SweepTable(const Findings& findings);
std::string HistogramTable(const Findings& findings);
std::string ReliabilityTable(const Findings& findings);

}  // namespace wideberth::report
