// SPDX-License-Identifier: Apache-2.0
// By what the batcher tells that two items ask the same.
#pragma once

#include <string>

#include "proto/wire.pb.h"

namespace wideberth::scorer {

// Equal for items whose conversations are equal and ended alike, whatever their ids.
std::string ConversationKey(const proto::ScoreItem& item);

}  // namespace wideberth::scorer
