// SPDX-License-Identifier: Apache-2.0
// Files that every report's page carries inside, so that it opens offline. The build turns them
// into constants (cmake/embed.cmake).
#pragma once

namespace wideberth::report {

extern const char* const kChartJs;  // Chart.js, minified, as Debian's libjs-chart.js has it.
extern const char* const kPageCss;  // report/page.css
extern const char* const kPageJs;   // report/page.js

}  // namespace wideberth::report
