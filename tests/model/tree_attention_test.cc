// SPDX-License-Identifier: Apache-2.0
// Attention over random token trees against one dense masked attention, and whole models over
// packed groups against separate sequences: outputs and gradients. Shapes as in model/causal_lm.h.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "model/attention.h"
#include "model/causal_lm.h"
#include "model/logprobs.h"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::model {
namespace {

using ::at::Tensor;
using Ids = std::vector<int32_t>;

double LargestDifference(const Tensor& a, const Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  int Below(int n) { return static_cast<int>(engine_() % static_cast<uint32_t>(n)); }
  Ids Tokens(int longest) {
    Ids ids(1 + Below(longest));
    for (int32_t& id : ids) id = 3 + Below(300);
    return ids;
  }

 private:
  std::mt19937 engine_;
};

// Groups of 1 to 8 members of 1 to 40 tokens, some members with children of their own, in an order
// in which siblings need not be neighbours.
TokenTree RandomTree(Random& random) {
  TokenTree tree;
  const int groups = 1 + random.Below(3);
  std::vector<int> roots;
  for (int g = 0; g < groups; ++g) roots.push_back(tree.Add(random.Tokens(40)));
  for (int g = 0; g < groups; ++g) {
    for (int c = random.Below(9); c > 0; --c) {
      const int node = tree.Add(random.Tokens(40), roots[random.Below(groups)]);
      for (int deeper = random.Below(4) == 0 ? 1 + random.Below(3) : 0; deeper > 0; --deeper)
        tree.Add(random.Tokens(20), deeper == 3 ? static_cast<int>(tree.nodes.size()) - 1 : node);
    }
  }
  return tree;
}

// [N, P + N], true where the row's token may not look.
Tensor Hidden(const TokenTree& tree, int64_t prefix) {
  Tensor hidden = at::ones({tree.num_tokens, prefix + tree.num_tokens}, at::kBool);
  hidden.narrow(1, 0, prefix).fill_(false);
  for (const TokenTree::Node& node : tree.nodes) {
    const auto count = static_cast<int64_t>(node.tokens.size());
    Tensor rows = hidden.narrow(0, node.first_row, count);
    rows.narrow(1, prefix + node.first_row, count)
        .copy_(at::ones({count, count}, at::kBool).triu(1));
    for (int above = node.parent; above >= 0; above = tree.nodes[above].parent) {
      rows.narrow(1, prefix + tree.nodes[above].first_row,
                  static_cast<int64_t>(tree.nodes[above].tokens.size()))
          .fill_(false);
    }
  }
  return hidden;
}

Tensor Dense(const TokenTree& tree, const KvPrefix* prefix, const Tensor& q, const Tensor& k,
             const Tensor& v) {
  const int64_t repeat = q.size(1) / k.size(1);
  Tensor keys = k.transpose(0, 1), values = v.transpose(0, 1);
  if (prefix != nullptr) {
    keys = at::cat({prefix->keys_KPD[0], keys}, 1);
    values = at::cat({prefix->values_KPD[0], values}, 1);
  }
  const Tensor scores =
      at::bmm(q.transpose(0, 1), keys.repeat_interleave(repeat, 0).transpose(1, 2)) /
      std::sqrt(static_cast<double>(q.size(2)));
  const Tensor p =
      at::softmax(scores.masked_fill(Hidden(tree, prefix == nullptr ? 0 : prefix->length),
                                     -std::numeric_limits<double>::infinity()),
                  -1);
  return at::bmm(p, values.repeat_interleave(repeat, 0)).transpose(0, 1).reshape({q.size(0), -1});
}

class RandomTrees : public ::testing::TestWithParam<int> {};

TEST_P(RandomTrees, AttentionAndItsGradientsAreThoseOfDenseAttention) {
  Random random(static_cast<uint32_t>(GetParam()));
  at::manual_seed(GetParam());
  const auto wide = at::TensorOptions(at::kDouble);
  const int64_t kv = 1 + random.Below(3), repeat = 1 + random.Below(4), d = 8;
  const TokenTree tree = RandomTree(random);
  KvPrefix prefix;
  prefix.length = random.Below(2) * (1 + random.Below(50));
  prefix.keys_KPD = {at::randn({kv, prefix.length, d}, wide)};
  prefix.values_KPD = {at::randn({kv, prefix.length, d}, wide)};
  const KvPrefix* shown = prefix.length > 0 ? &prefix : nullptr;
  std::vector<Tensor> inputs = {at::randn({tree.num_tokens, kv * repeat, d}, wide) * 2,
                                at::randn({tree.num_tokens, kv, d}, wide),
                                at::randn({tree.num_tokens, kv, d}, wide)};
  const Tensor upstream = at::randn({tree.num_tokens, kv * repeat * d}, wide);
  const auto run = [&](auto attend) {
    std::vector<Tensor> found;
    for (Tensor& input : inputs) input = input.detach().requires_grad_(true);
    const Tensor out = attend();
    found.push_back(out.detach());
    (out * upstream).sum().backward();
    for (const Tensor& input : inputs) found.push_back(input.grad());
    return found;
  };
  const auto expected = run([&] { return Dense(tree, shown, inputs[0], inputs[1], inputs[2]); });
  for (const auto path : {TreeAttention::Path::kBest, TreeAttention::Path::kGeneric}) {
    const TreeAttention attention(tree, shown, repeat, at::kCPU, path);
    const auto found = run([&] { return attention.Attend(0, inputs[0], inputs[1], inputs[2]); });
    for (size_t i = 0; i < found.size(); ++i)
      EXPECT_LT(LargestDifference(found[i], expected[i]), 1e-11) << "tensor " << i;
  }
  // float32, and bfloat16 as rounded from it.
  const TreeAttention attention(tree, shown, repeat, at::kCPU);
  for (const auto [type, bound] : {std::pair(at::kFloat, 1e-5), std::pair(at::kBFloat16, 0.1)}) {
    const Tensor found = attention.Attend(0, inputs[0].detach().to(type),
                                          inputs[1].detach().to(type), inputs[2].detach().to(type));
    EXPECT_EQ(found.scalar_type(), type);
    EXPECT_LT(LargestDifference(found, expected[0]), bound);
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomTrees, ::testing::Range(0, 40));

class PackedModel : public ::testing::Test {
 protected:
  void Load(proto::DType dtype) {
    ASSERT_TRUE(wideberth::testing::WriteTinyModel("llama", folder_.path()).ok());
    proto::ModelConfig config;
    config.set_path(folder_.path());
    config.set_dtype(dtype);
    model_ = *CausalLm::Load(config);
    proto::LoraConfig lora;
    lora.set_rank(4);
    lora.set_dropout(0.2);
    adapter_ = *Adapter::Initialize(model_->spec(), lora, 1, model_->dtype(), at::kCPU);
    for (Tensor& parameter : adapter_->Parameters()) {
      parameter.add_(0.01);
      parameter.requires_grad_(true);
    }
  }

  struct Pass {
    Tensor logprobs;
    std::vector<Tensor> gradients;
  };
  // Adds to the gradients of passes before, unless `fresh`.
  Pass Run(const GroupTree& group, const Tensor& weights, ForwardOptions options, bool fresh) {
    std::vector<Tensor> parameters = adapter_->Parameters();
    for (Tensor& parameter : parameters) {
      if (fresh) parameter.mutable_grad().reset();
    }
    options.adapter = adapter_.get();
    Pass pass;
    const Tensor logprobs = LogProbsOfTokens(model_->Hidden(group.tree, options), model_->head(),
                                             group.rows, group.targets, 0.9)
                                .logprob;
    pass.logprobs = logprobs.detach();
    (logprobs * weights).sum().backward();
    for (const Tensor& parameter : parameters) pass.gradients.push_back(parameter.grad().clone());
    return pass;
  }

  wideberth::testing::TempDir folder_;
  std::unique_ptr<CausalLm> model_;
  std::shared_ptr<Adapter> adapter_;
};

// Several groups in one tree, as a micro-batch.
GroupTree Pack(const std::vector<Ids>& prompts, const std::vector<std::vector<Ids>>& completions) {
  GroupTree all;
  for (size_t g = 0; g < prompts.size(); ++g) {
    const GroupTree one = MakeGroupTree(prompts[g], completions[g]);
    const int64_t shift = all.tree.num_tokens;
    const int nodes = static_cast<int>(all.tree.nodes.size());
    for (const TokenTree::Node& node : one.tree.nodes)
      all.tree.Add(node.tokens, node.parent < 0 ? -1 : node.parent + nodes);
    for (const int64_t row : one.rows) all.rows.push_back(row + shift);
    all.targets.insert(all.targets.end(), one.targets.begin(), one.targets.end());
  }
  return all;
}

TEST_F(PackedModel, GradientsOfRandomGroupsAreThoseOfSeparateSequences) {
  Load(proto::FLOAT64);
  KvPrefix constant;
  {
    TokenTree head;
    head.Add({9, 8, 7, 6, 5});
    std::vector<KvPrefix> kept;
    ForwardOptions keep;
    keep.root_kv = &kept;
    model_->Hidden(head, keep);
    constant = kept[0];
  }
  for (uint32_t seed = 0; seed < 8; ++seed) {
    Random random(seed);
    ForwardOptions options;
    if (seed % 2 == 1) options.prefix = &constant;
    std::vector<Ids> prompts;
    std::vector<std::vector<Ids>> completions;
    for (int g = 1 + random.Below(3); g > 0; --g) {
      prompts.push_back(random.Tokens(40));
      completions.emplace_back();
      for (int c = 1 + random.Below(8); c > 0; --c) completions.back().push_back(random.Tokens(40));
    }
    const GroupTree packed = Pack(prompts, completions);
    const Tensor weights =
        at::linspace(-1, 2, static_cast<int64_t>(packed.rows.size()), at::kDouble);
    const Pass together = Run(packed, weights, options, /*fresh=*/true);
    Pass apart;
    int64_t at = 0;
    for (size_t g = 0; g < prompts.size(); ++g) {
      for (const Ids& completion : completions[g]) {
        const auto n = static_cast<int64_t>(completion.size());
        apart = Run(MakeGroupTree(prompts[g], {completion}), weights.narrow(0, at, n), options,
                    /*fresh=*/at == 0);
        EXPECT_LT(LargestDifference(apart.logprobs, together.logprobs.narrow(0, at, n)), 1e-10);
        at += n;
      }
    }
    for (size_t i = 0; i < apart.gradients.size(); ++i)
      EXPECT_LT(LargestDifference(apart.gradients[i], together.gradients[i]), 1e-9)
          << "seed " << seed << " tensor " << i;
  }
}

TEST_F(PackedModel, WhatElseIsPackedChangesNothingButRounding) {
  Load(proto::FLOAT32);
  Random random(5);
  const Ids prompt = random.Tokens(40), other = random.Tokens(40);
  const std::vector<Ids> completions = {random.Tokens(40), random.Tokens(40), random.Tokens(40)};
  const GroupTree alone = Pack({prompt}, {completions}),
                  packed = Pack({other, prompt}, {{random.Tokens(40)}, completions});
  const auto logprobs = [&](const GroupTree& group) {
    ForwardOptions options;
    options.adapter = adapter_.get();
    return LogProbsOfTokens(model_->Hidden(group.tree, options), model_->head(), group.rows,
                            group.targets, 1.0)
        .logprob.detach();
  };
  const Tensor a = logprobs(alone), b = logprobs(packed);
  EXPECT_LT(LargestDifference(a, b.narrow(0, b.size(0) - a.size(0), a.size(0))), 2e-5);
}

TEST_F(PackedModel, LayersComputedAgainGiveTheSameBits) {
  for (const proto::DType dtype : {proto::FLOAT64, proto::FLOAT32, proto::BFLOAT16}) {
    Load(dtype);
    Random random(3);
    const GroupTree group = Pack({random.Tokens(40), random.Tokens(40)},
                                 {{random.Tokens(40), random.Tokens(40)}, {random.Tokens(40)}});
    const Tensor weights = at::linspace(-1, 2, static_cast<int64_t>(group.rows.size()),
                                        dtype == proto::FLOAT64 ? at::kDouble : at::kFloat);
    for (const bool dropout : {false, true}) {
      ForwardOptions options;
      if (dropout) options.dropout_seed = 17;
      const Pass kept = Run(group, weights, options, /*fresh=*/true);
      options.checkpoint_layers = true;
      const Pass again = Run(group, weights, options, /*fresh=*/true);
      EXPECT_TRUE(at::equal(kept.logprobs, again.logprobs));
      for (size_t i = 0; i < kept.gradients.size(); ++i) {
        EXPECT_TRUE(at::equal(kept.gradients[i], again.gradients[i])) << "tensor " << i;
        EXPECT_GT(kept.gradients[i].abs().max().item<double>(), 0) << "tensor " << i;
      }
    }
  }
}

}  // namespace
}  // namespace wideberth::model
