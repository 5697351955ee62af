// SPDX-License-Identifier: Apache-2.0
// Was a group sampled by the policy it claims? Before groups are trained on, the learner computes
// the log-probs of one completion of each once more, with the very bytes of the version it names.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "learner/group_pool.h"
#include "model/adapter.h"
#include "model/causal_lm.h"
#include "transport/adapter_blob.h"

namespace wideberth::learner {

// Not thread-safe: lives on the thread that owns the device.
class Probe {
 public:
  struct Options {
    double temperature = 1;     // Of sampling; 0 as 1.
    double max_difference = 0;  // learner.max_logprob_difference; 0: differences are only measured.
    size_t num_versions = 2;    // The newest so many are kept.
  };
  // `model` outlives it.
  Probe(const model::CausalLm* model, const Options& options)
      : model_(*model), options_(options), arithmetic_(ArithmeticOf(model->dtype())) {}

  // A version that was published; older ones are forgotten. InvalidArgument where it does not fit
  // the model.
  absl::Status Remember(const transport::AdapterBlob& blob);

  // For each group: OK, or DataLoss with a sentence that names the group, the actor, and, where it
  // is known, the version it was really sampled with. Compared are the tokens of the completion's
  // first version. A group is refused where
  //   - a token's log-prob differs by more than max_difference, or is no number;
  //   - the mean difference is beyond what arithmetic of the model's dtype explains;
  //   - the version before or the base explains the log-probs better, by a factor of four.
  // Groups of a version that is no longer kept, and those without tokens, are not looked at.
  // Internal for what torch throws.
  absl::StatusOr<std::vector<absl::Status>> Check(const std::vector<AcceptedGroup>& groups);

  int64_t num_checked() const { return num_checked_; }  // Groups.

 private:
  // What is compared of one group.
  struct Sample {
    size_t group = 0;  // Index into Check's argument.
    std::vector<int32_t> prompt, tokens;
    std::vector<float> logprobs;
    bool adapter_off = false;
    uint64_t version = 0;
  };
  struct Difference {
    double mean = 0;
    double largest = 0;  // NaN where one is.
    size_t token = 0;    // Of the largest.
  };
  static bool Choose(const AcceptedGroup& group, Sample* sample);
  // Of each sample, all by one policy (null: the base).
  std::vector<Difference> Compare(const std::vector<const Sample*>& samples,
                                  const model::Adapter* adapter) const;
  absl::Status Judge(const AcceptedGroup& group, const Sample& sample, const Difference& found);
  std::string OtherPolicy(const Sample& sample, double mean) const;
  double UsualMean() const;
  // Mean differences of log-probs between sampler and learner by the same policy.
  struct Arithmetic {
    double noise = 0;  // Below, nothing tells policies apart.
    double limit = 0;  // Beyond, it was another policy.
  };
  static Arithmetic ArithmeticOf(at::ScalarType dtype);

  const model::CausalLm& model_;
  const Options options_;
  const Arithmetic arithmetic_;
  std::map<uint64_t, std::shared_ptr<const model::Adapter>> versions_;
  std::deque<double> means_;  // Of the last groups that were found right.
  int64_t num_checked_ = 0;
};

}  // namespace wideberth::learner
