// SPDX-License-Identifier: Apache-2.0
// Peak memory of a training pass, counted by allocations: it grows with the tokens, whatever the
// vocabulary, and less so where layers are computed again.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "model/causal_lm.h"
#include "model/logprobs.h"
#include "tests/testing/counting_allocator.h"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::model {
namespace {

using wideberth::testing::CountedTensors;
using wideberth::testing::TinyTensor;

constexpr double kMegabyte = 1 << 20;

class MemoryTest : public ::testing::Test {
 protected:
  // A tiny Llama with another vocabulary; float32, so that weights stay in the file's mapping.
  std::unique_ptr<CausalLm> Load(int64_t vocab) {
    const std::string folder = folder_.Join(absl::StrCat("vocab-", vocab));
    EXPECT_TRUE(wideberth::testing::WriteTinyModel("llama", folder).ok());
    auto json = nlohmann::json::parse(*ReadFile(folder + "/config.json"));
    json["vocab_size"] = vocab;
    EXPECT_TRUE(WriteFileAtomically(folder + "/config.json", json.dump()).ok());
    std::vector<TinyTensor> tensors = wideberth::testing::TinyModelTensors("llama");
    for (TinyTensor& tensor : tensors) {
      if (tensor.shape[0] != 320) continue;
      tensor.shape[0] = vocab;
      tensor.data = wideberth::testing::TinyUniform(tensor.name, vocab * tensor.shape[1]);
    }
    EXPECT_TRUE(wideberth::testing::WriteSafetensors(tensors, folder + "/model.safetensors").ok());
    proto::ModelConfig config;
    config.set_path(folder);
    auto model = CausalLm::Load(config);
    EXPECT_TRUE(model.ok()) << model.status();
    return *std::move(model);
  }

  struct Peak {
    double pass, largest;  // MB
  };
  // Forward and backward of a group of completions of 100 tokens below a prompt of 50.
  static Peak Train(const CausalLm& model, int completions, bool checkpoint) {
    const auto adapter =
        *Adapter::Initialize(model.spec(), proto::LoraConfig(), 1, at::kFloat, at::kCPU);
    for (at::Tensor& parameter : adapter->Parameters()) parameter.requires_grad_(true);
    std::vector<std::vector<int32_t>> below;
    for (int c = 0; c < completions; ++c) below.emplace_back(100, 3 + c);
    const GroupTree group = MakeGroupTree(std::vector<int32_t>(50, 7), below);
    const CountedTensors counted;
    ForwardOptions options;
    options.adapter = adapter.get();
    options.checkpoint_layers = checkpoint;
    const at::Tensor logprob = LogProbsOfTokens(model.Hidden(group.tree, options), model.head(),
                                                group.rows, group.targets, 1.0)
                                   .logprob;
    logprob.sum().backward();
    return {static_cast<double>(counted.peak_bytes()) / kMegabyte,
            static_cast<double>(counted.largest_bytes()) / kMegabyte};
  }

  wideberth::testing::TempDir folder_;
};

TEST_F(MemoryTest, TheCounterCounts) {
  const CountedTensors counted;
  {
    const at::Tensor a = at::zeros({1000}, at::kDouble);
    const at::Tensor b = at::zeros({500}, at::kDouble);
    EXPECT_EQ(counted.current_bytes(), 12000);
  }
  EXPECT_EQ(counted.current_bytes(), 0);
  EXPECT_EQ(counted.peak_bytes(), 12000);
  EXPECT_EQ(counted.largest_bytes(), 8000);
}

TEST_F(MemoryTest, GrowsWithTokensWhateverTheVocabulary) {
  constexpr int64_t kVocab = 50000;
  const auto small = Load(320), large = Load(kVocab);
  const Peak small_10 = Train(*small, 10, false), small_20 = Train(*small, 20, false),
             large_10 = Train(*large, 10, false), large_20 = Train(*large, 20, false);
  std::cout << "peak MB at 1040 and 2030 tokens: vocabulary 320 " << small_10.pass << ", "
            << small_20.pass << "; vocabulary 50000 " << large_10.pass << ", " << large_20.pass
            << "\n";
  const double logits_20 = 2000.0 * kVocab * 4 / kMegabyte;  // 381 MB
  EXPECT_LT(large_20.largest, logits_20 / 4);
  EXPECT_LT(large_20.pass, logits_20 / 1.5);
  // A thousand tokens more cost the same under both.
  const double growth = small_20.pass - small_10.pass;
  EXPECT_GT(growth, 5);
  EXPECT_NEAR(large_20.pass - large_10.pass, growth, 0.25 * growth);
}

TEST_F(MemoryTest, LayersComputedAgainNeedLess) {
  const auto model = Load(320);
  const Peak kept = Train(*model, 20, false), again = Train(*model, 20, true);
  std::cout << "peak MB at 2030 tokens, 3 layers: " << kept.pass << ", layers computed again "
            << again.pass << "\n";
  EXPECT_LT(again.pass, 0.6 * kept.pass);
}

}  // namespace
}  // namespace wideberth::model
