// SPDX-License-Identifier: Apache-2.0
// The rows that SFT, DPO, REWARD and GUARD train on: JSON lines read once at start, and the order
// in which a run visits them. No torch and no tokenizer here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "proto/config.pb.h"
#include "proto/wire.pb.h"

namespace wideberth::learner {

// A path of DataConfig may end in "#FIELD=VALUE": only the file's rows whose FIELD, a text, is
// VALUE are read; "#lines=FIRST-LAST" or "#lines=FIRST-" reads these lines, from 1. All readers
// below take every path in order and fail with InvalidArgument, naming file:line, the field, what
// was found and what was expected, for an empty line, a line that is no JSON object, a missing
// field or one of another type, and for files without any row.

// A text, or messages where `messages` is not empty.
struct TextOrChat {
  std::string text;
  std::vector<proto::ChatMessage> messages;
  bool is_chat() const { return !messages.empty(); }
};

struct SftRow {
  std::string origin;                        // "file:line"
  std::vector<proto::ChatMessage> messages;  // A whole chat with an answer in it; or, where empty,
  TextOrChat prompt, completion;             // both texts or both messages.
};
// {"messages": [...]}, or {"prompt", "completion"}. Further fields are passed over.
absl::StatusOr<std::vector<SftRow>> ReadSftRows(
    const google::protobuf::RepeatedPtrField<std::string>& paths);

struct PreferenceRow {
  std::string origin;
  TextOrChat prompt, chosen, rejected;  // All texts or all messages.
  double weight = 1;                    // Not negative.
  absl::optional<double> margin;
};
// {"prompt", "chosen", "rejected"} with an optional "weight" and "margin". Further fields are
// passed over. Without "prompt" both answers are whole dialogues as in HH-RLHF ("\n\nHuman: ...
// \n\nAssistant: ..."), equal but for the last answer; pairs that part before are left out with a
// warning.
absl::StatusOr<std::vector<PreferenceRow>> ReadPreferenceRows(
    const google::protobuf::RepeatedPtrField<std::string>& paths);

struct GuardRow {
  std::string origin;
  std::string prompt, response;
  bool positive = false;
  std::string source;  // Empty where the row has none.
};
struct GuardRows {
  std::vector<GuardRow> rows;
  int64_t num_unlabelled = 0;  // Left out: the label or the response is null.
};
// Under the field names and positive labels of `config`. Labels are texts, booleans or numbers;
// where `positive_label` is unset, "unsafe", "harmful", true and 1 are positive, "safe",
// "unharmful", "harmless", false and 0 negative, and anything else is an error.
absl::StatusOr<GuardRows> ReadGuardRows(
    const google::protobuf::RepeatedPtrField<std::string>& paths, const proto::DataConfig& config);

// Reads everything that the task of `config` (not RL) would train and validate on, and drops it.
absl::Status CheckData(const proto::RunConfig& config);

// Which rows every optimiser step takes. A batch does not reach over the end of an epoch, so the
// last one of an epoch may be smaller. Depends on its arguments only: the number of the step is the
// data cursor. Not thread-safe.
class RowOrder {
 public:
  // num_rows and batch_size at least 1.
  RowOrder(int64_t num_rows, const proto::DataConfig& config, uint64_t seed)
      : num_rows_(num_rows),
        batch_size_(config.batch_size()),
        shuffle_(config.shuffle()),
        seed_(seed) {}

  int64_t steps_per_epoch() const { return (num_rows_ + batch_size_ - 1) / batch_size_; }
  // The rows of optimiser step `step`, from 0.
  std::vector<int64_t> Batch(int64_t step);
  // Rows of all steps before `step`, counted over epochs.
  int64_t RowsBefore(int64_t step) const;
  // Epochs done after `step` steps, with the part of the present one.
  double Epochs(int64_t step) const;

 private:
  const int64_t num_rows_, batch_size_;
  const bool shuffle_;
  const uint64_t seed_;
  int64_t epoch_ = -1;  // Of `order_`.
  std::vector<int64_t> order_;
};

}  // namespace wideberth::learner
