// SPDX-License-Identifier: Apache-2.0
// The reference setting of tests/golden/grpo.json (four completions of 3, 2, 3 and 1 tokens) as
// inputs of the loss. Shapes: M packed tokens.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/text_proto.h"
#include "learner/loss.h"
#include "tests/testing/paths.h"

namespace wideberth::learner {

using nlohmann::json;

inline const json& Golden() {
  static const json golden = [] {
    std::ifstream file(testing::GoldenPath("grpo.json"));
    return file ? json::parse(file) : json();
  }();
  return golden;
}

// The valid entries of a padded [B][T] table, row after row.
inline std::vector<double> Packed(const json& table) {
  std::vector<double> values;
  for (size_t b = 0; b < table.size(); ++b) {
    for (size_t t = 0; t < table[b].size(); ++t) {
      if (Golden()["mask"][b][t] == 1) values.push_back(table[b][t]);
    }
  }
  return values;
}

inline at::Tensor Constant(const std::vector<double>& values, at::ScalarType dtype = at::kDouble) {
  return at::tensor(values, at::kDouble).to(dtype);
}
inline at::Tensor Leaf(const std::vector<double>& values, at::ScalarType dtype = at::kDouble) {
  return Constant(values, dtype).set_requires_grad(true);
}

inline LossInputs GoldenInputs(const std::vector<double>& advantages,
                               at::ScalarType dtype = at::kDouble) {
  LossInputs inputs;
  inputs.new_logprobs = Leaf(Packed(Golden()["new"]), dtype);
  inputs.old_logprobs = Constant(Packed(Golden()["old"]), dtype);
  inputs.sampler_logprobs = Constant(Packed(Golden()["sampler"]), dtype);
  inputs.reference_logprobs = Constant(Packed(Golden()["reference"]), dtype);
  inputs.entropies = Constant(Packed(Golden()["entropy"]), dtype);
  inputs.advantages = advantages;
  inputs.lengths = {3, 2, 3, 1};
  return inputs;
}
inline const std::vector<double>& GroupScaled() {
  static const std::vector<double> advantages = Golden()["advantages"]["group"];
  return advantages;
}

// LearnerConfig from its text, on TRL's default of no KL.
inline proto::LearnerConfig LearnerOf(const std::string& text) {
  proto::LearnerConfig learner;
  learner.set_beta(0);
  const absl::Status parsed = MergeTextProto(text, "test", &learner);
  EXPECT_TRUE(parsed.ok()) << parsed;
  return learner;
}
inline LossConfig ConfigOf(const std::string& text) { return LossConfigOf(LearnerOf(text), 4); }

// The normaliser of inputs that are a whole version and a whole slice at once; sets the entropy
// mask where the configuration has one.
inline LossNormalizer WholeBatch(const LossConfig& config, LossInputs* inputs) {
  LossNormalizer normalizer;
  std::vector<int64_t> counted;
  int64_t next = 0;
  for (size_t c = 0; c < inputs->lengths.size(); ++c) {
    const bool counts = inputs->counted.empty() || inputs->counted[c];
    for (int64_t i = 0; i < inputs->lengths[c]; ++i, ++next) {
      if (counts) counted.push_back(next);
    }
  }
  normalizer.generation_tokens = normalizer.slice_tokens = normalizer.entropy_tokens =
      static_cast<int64_t>(counted.size());
  normalizer.slice_completions = static_cast<int64_t>(inputs->lengths.size());
  if (config.UsesEntropyMask()) {
    const at::Tensor index = at::tensor(counted, at::kLong);
    const double threshold =
        EntropyThreshold(inputs->entropies.index_select(0, index), config.top_entropy_quantile);
    inputs->entropy_mask = HighEntropyMask(inputs->entropies, threshold);
    normalizer.entropy_tokens = inputs->entropy_mask.index_select(0, index).sum().item<int64_t>();
  }
  return normalizer;
}

inline LossResult WholeLoss(LossInputs inputs, const LossConfig& config) {
  const LossNormalizer normalizer = WholeBatch(config, &inputs);
  return GrpoLoss(inputs, config, normalizer);
}

inline std::vector<double> GradientOf(const LossInputs& inputs, const LossResult& result) {
  result.loss.backward();
  const at::Tensor gradient = inputs.new_logprobs.grad().to(at::kDouble).contiguous();
  return {gradient.data_ptr<double>(), gradient.data_ptr<double>() + gradient.numel()};
}

inline void ExpectNear(const std::vector<double>& actual, const std::vector<double>& expected,
                       double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(actual[i], expected[i], tolerance) << "token " << i;
  }
}

// Completions [first, end) of `all`, as a micro-batch.
inline LossInputs SliceOf(const LossInputs& all, size_t first, size_t end) {
  int64_t from = 0, length = 0;
  for (size_t c = 0; c < end; ++c) (c < first ? from : length) += all.lengths[c];
  const auto part = [&](const at::Tensor& t) {
    return t.defined() ? t.narrow(0, from, length) : t;
  };
  LossInputs slice;
  slice.new_logprobs = part(all.new_logprobs);
  slice.old_logprobs = part(all.old_logprobs);
  slice.sampler_logprobs = part(all.sampler_logprobs);
  slice.reference_logprobs = part(all.reference_logprobs);
  slice.entropies = part(all.entropies);
  slice.entropy_mask = part(all.entropy_mask);
  slice.advantages.assign(all.advantages.begin() + first, all.advantages.begin() + end);
  slice.lengths.assign(all.lengths.begin() + first, all.lengths.begin() + end);
  if (!all.counted.empty())
    slice.counted.assign(all.counted.begin() + first, all.counted.begin() + end);
  return slice;
}

}  // namespace wideberth::learner
