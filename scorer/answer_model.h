// SPDX-License-Identifier: Apache-2.0
// What writes a generative guard's answers: a causal model with its question's tokens. Abstract, so
// that reading the answers is tested without weights.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "proto/config.pb.h"
#include "proto/wire.pb.h"

namespace wideberth::scorer {

// Not thread-safe but for Interrupt: the other calls come from the thread that owns the device.
// Nothing throws.
class AnswerModel {
 public:
  struct Question {
    std::vector<int32_t> tokens;
    absl::Time deadline = absl::InfiniteFuture();
  };
  struct Answer {
    std::string text;
    int64_t num_tokens = 0;
    bool truncated = false;  // Ended by max_new_tokens, or by the deadline.
  };
  struct Answers {
    std::vector<Answer> samples;
    bool timed_out = false;  // The deadline or Interrupt came first: samples may be incomplete.
  };

  virtual ~AnswerModel() = default;

  // Loads the model, and its adapter, of a validated configuration. Errors name the scorer, and
  // file or field at fault.
  static absl::StatusOr<std::unique_ptr<AnswerModel>> Load(const proto::ScorerConfig& config);

  virtual absl::StatusOr<std::vector<int32_t>> Read(const proto::ScoreItem& item) const = 0;
  // Of `tokens`, those at the beginning that are computed once for all questions.
  virtual int64_t NumKnown(const std::vector<int32_t>& tokens) const = 0;
  // Question and answer together.
  virtual int64_t context_tokens() const = 0;
  virtual std::string fingerprint() const = 0;
  // Of everything that turns a conversation into tokens and ends an answer.
  virtual std::string Description() const = 0;

  // num_samples answers of each question, in order, all decoded together. The random numbers follow
  // from the question's tokens alone: equal questions get equal answers, but for a logit's last
  // bits, which may follow from the company. A question whose deadline has passed is left where it
  // is, and the others go on.
  virtual absl::StatusOr<std::vector<Answers>> Generate(absl::Span<const Question> questions) = 0;

  // Any thread. Every question, under way or to come, is left after the present decode step.
  virtual void Interrupt() {}
};

}  // namespace wideberth::scorer
