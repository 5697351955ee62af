// SPDX-License-Identifier: Apache-2.0
// One scoring model: conversations in, typed scores out. Driven by the scorer's device thread
// through the batcher, and by `wideberth score`. The interface names neither torch nor gRPC, so
// that everything around a model is tested without one.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/config.pb.h"
#include "proto/wire.pb.h"

namespace wideberth::scorer {

// What every score says about its origin.
struct ScorerIdentity {
  std::string scorer_name;
  std::string model_fingerprint;  // Of all tensors of the model's folder, the adapter's files and
                                  // its calibration.
  std::string template_hash;  // Of everything that turns a conversation into tokens and logits into
                              // a value.
};

// A conversation as the model reads it.
struct PreparedItem {
  std::vector<int32_t> tokens;  // The whole sequence; empty where `refusal` or `text` is set.
  std::string text;             // What an HTTP_JUDGE asks.
  int64_t num_new_tokens = 0;   // Those behind the template's constant head, which is computed once
                                // for all: what a batch is charged.
  absl::Time deadline = absl::InfiniteFuture();  // Of a GENERATIVE item: not answered by then, it
                                                 // is left and the others go on.
  std::string refusal;  // One sentence where the input can never be scored.
};

// What a generative guard or a judge has written since the start.
struct GenerationStats {
  int64_t num_answers = 0;     // Those that ended by themselves or by max_new_tokens.
  int64_t num_unreadable = 0;  // Answers without a verdict or grade.
  int64_t num_tokens = 0;      // Those of answers left at a deadline included.
  // Of an HTTP_JUDGE.
  int64_t num_remembered = 0;  // Answers of earlier questions, used again.
  int64_t num_requests = 0;    // Retries included.
  int64_t num_retries = 0;
  int64_t num_prompt_tokens = 0;
  double dollars = 0;
};

struct ScoringOptions {
  // Every score is a function of its item only, to the last bit: each is computed by itself, always
  // in the same way, whatever else is at hand.
  bool deterministic = false;
  // Answers that an HTTP_JUDGE remembers are reduced to their grades on the disk.
  bool redact_text = false;
};

// Not thread-safe but for what says so: the other calls come from the one thread that owns the
// device. Nothing throws.
class ScoringModel {
 public:
  virtual ~ScoringModel() = default;

  // Loads the model of a validated configuration. Errors name the scorer, and file, field or
  // verdict text at fault.
  static absl::StatusOr<std::unique_ptr<ScoringModel>> Create(const proto::ScorerConfig& config,
                                                              const ScoringOptions& options = {});

  virtual PreparedItem Prepare(const proto::ScoreItem& item) = 0;

  // One result per item, in order; `value` is set exactly where the status is SCORED. A refused
  // item is REFUSED_INPUT; a failing batch is tried again item by item, so that MODEL_ERROR hits
  // only those that fail alone. latency_ms is the time of this call.
  virtual std::vector<proto::Score> ScoreBatch(const std::vector<PreparedItem>& items) = 0;

  // Any thread. From now on a batch under way or to come ends as soon as it can, with whatever
  // results: a kind that generates stops within a decode step, one that asks a server within a
  // moment. The others finish their batch.
  virtual void Interrupt() {}

  // Empty for kinds that do not generate.
  virtual GenerationStats generation() const { return {}; }

  // Constant; any thread may read it.
  virtual const ScorerIdentity& identity() const = 0;
};

// A score of `status` with its origin and, unless SCORED, the sentence that says why there is no
// value.
inline proto::Score MakeScore(const ScorerIdentity& identity, proto::ScoreStatus status,
                              std::string message) {
  proto::Score score;
  score.set_scorer_name(identity.scorer_name);
  score.set_model_fingerprint(identity.model_fingerprint);
  score.set_template_hash(identity.template_hash);
  score.set_status(status);
  score.set_cached(false);
  if (!message.empty()) score.set_message(std::move(message));
  return score;
}

}  // namespace wideberth::scorer
