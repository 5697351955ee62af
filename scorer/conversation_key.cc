// SPDX-License-Identifier: Apache-2.0
#include "scorer/conversation_key.h"

#include "absl/strings/string_view.h"
#include "base/hash.h"

namespace wideberth::scorer {
namespace {

// A length before each part keeps ("ab", "c") apart from ("a", "bc").
void Add(absl::string_view part, Fingerprinter* fingerprint) {
  const uint64_t size = part.size();
  fingerprint->Update(absl::string_view(reinterpret_cast<const char*>(&size), sizeof(size)));
  fingerprint->Update(part);
}

}  // namespace

std::string ConversationKey(const proto::ScoreItem& item) {
  Fingerprinter fingerprint;
  for (const proto::ChatMessage& message : item.prompt()) {
    Add(message.role(), &fingerprint);
    Add(message.content(), &fingerprint);
  }
  Add(item.completion(), &fingerprint);
  // An answer that was cut off is another answer; unset means ended, as STOP does.
  if (item.finish_reason() == proto::LENGTH) Add("cut off", &fingerprint);
  return fingerprint.Hex();
}

}  // namespace wideberth::scorer
