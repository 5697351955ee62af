// SPDX-License-Identifier: Apache-2.0
#include "transport/score_piece.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace wideberth::transport {

bool NeverConnected(const absl::Status& status) {
  return absl::IsUnavailable(status) &&
         absl::StrContains(absl::AsciiStrToLower(status.message()), "failed to connect");
}

bool MayPass(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
      return true;
    default:
      return false;
  }
}

bool IsVerdict(proto::ScoreStatus status) {
  return status == proto::SCORED || status == proto::REFUSED_INPUT ||
         status == proto::MALFORMED_OUTPUT;
}

void Settle(Piece& piece, const std::string& name, proto::ScoreStatus status,
            const std::string& why, std::vector<proto::Score>* scores) {
  for (const size_t i : piece.items) {
    proto::Score& score = (*scores)[i];
    score.set_scorer_name(name);
    score.set_status(status);
    score.set_message(absl::StrCat("scorer ", name, ": ", why));
  }
  piece.items.clear();
}

}  // namespace wideberth::transport
