// SPDX-License-Identifier: Apache-2.0
// The one-screen page of HealthPage: one text without outside resources that draws /status.json
// again every two seconds. Private to transport.
#pragma once

namespace wideberth::transport {

extern const char kHealthHtml[];

}  // namespace wideberth::transport
