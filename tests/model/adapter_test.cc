// SPDX-License-Identifier: Apache-2.0
// What a LoRA adapter can be told: target modules, rslora, dropout, initialisation, a score head;
// adapters of all weights; and that files keep all of it. Parity with PEFT's numbers is in
// causal_lm_test.cc.
#include "model/adapter.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "base/file.h"
#include "model/causal_lm.h"
#include "model/lora_linear.h"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::model {
namespace {

using ::at::Tensor;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

class AdapterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(wideberth::testing::WriteTinyModel("llama", folder_.Join("model")).ok());
    proto::ModelConfig config;
    config.set_path(folder_.Join("model"));
    config.set_dtype(proto::FLOAT64);
    auto model = CausalLm::Load(config);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
  }

  absl::StatusOr<std::shared_ptr<Adapter>> Make(const proto::LoraConfig& config) {
    return Adapter::Initialize(model_->spec(), config, 7, at::kDouble, at::kCPU);
  }
  // B is not zero, so that the adapter matters.
  std::shared_ptr<Adapter> Trained(const proto::LoraConfig& config) {
    auto adapter = *Make(config);
    for (Tensor& tensor : adapter->Parameters()) tensor.add_(0.03);
    return adapter;
  }
  Tensor Hidden(const Adapter& adapter, absl::optional<uint64_t> dropout_seed = absl::nullopt) {
    TokenTree tree;
    tree.Add({5, 6, 7, 8, 9, 10, 11, 12});
    ForwardOptions options;
    options.adapter = &adapter;
    options.dropout_seed = dropout_seed;
    return model_->Hidden(tree, options);
  }

  wideberth::testing::TempDir folder_;
  std::unique_ptr<CausalLm> model_;
};

std::vector<std::string> Modules(const Adapter& adapter) {
  std::vector<std::string> modules;
  for (const auto& [name, tensor] : adapter.NamedTensors()) {
    if (absl::EndsWith(name, ".lora_A.weight"))
      modules.push_back(name.substr(0, name.size() - std::string(".lora_A.weight").size()));
  }
  return modules;
}

TEST_F(AdapterTest, TargetsAreNamesOrEndsOfNamesOfModules) {
  proto::LoraConfig config;
  for (const char* target : {"mlp.down_proj", "1.self_attn.q_proj", "model.layers.2.mlp.up_proj"})
    config.add_target(target);
  EXPECT_THAT(Modules(**Make(config)),
              ElementsAre("model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj",
                          "model.layers.1.mlp.down_proj", "model.layers.2.mlp.up_proj",
                          "model.layers.2.mlp.down_proj"));
  EXPECT_EQ(Modules(**Make(proto::LoraConfig())).size(), 21u);
  // Not ends after a dot, no such layer, no linear projection.
  for (const char* target : {"proj", "layers.3.mlp.up_proj", "lm_head", "up_proj.", ""}) {
    config.clear_target();
    config.add_target("q_proj");
    config.add_target(target);
    EXPECT_THAT(std::string(Make(config).status().message()),
                HasSubstr(absl::StrCat("lora.target \"", target,
                                       "\" is no projection of this model, expected some of "
                                       "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, "
                                       "down_proj or a module such as \"layers.0.mlp.up_proj\" "
                                       "(layers 0 to 2)")));
  }
}

TEST_F(AdapterTest, InitialisationIsKaimingUniformWithBZero) {
  proto::LoraConfig config;
  config.set_rank(64);
  const auto adapter = *Make(config);
  for (const auto& [name, tensor] : adapter->NamedTensors()) {
    if (absl::StrContains(name, "lora_B")) {
      EXPECT_EQ(tensor.abs().max().item<double>(), 0) << name;
      continue;
    }
    // kaiming_uniform_(a = sqrt 5): bound sqrt(6 / ((1 + 5) fan_in)), deviation bound / sqrt 3.
    const double bound = 1 / std::sqrt(static_cast<double>(tensor.size(1)));
    const double n = static_cast<double>(tensor.numel());
    EXPECT_LE(tensor.abs().max().item<double>(), bound) << name;
    EXPECT_GT(tensor.abs().max().item<double>(), bound * (1 - 20 / n)) << name;
    EXPECT_NEAR(tensor.mean().item<double>(), 0, 5 * bound / std::sqrt(3 * n)) << name;
    EXPECT_NEAR(tensor.std().item<double>(), bound / std::sqrt(3.0), 5 * bound / std::sqrt(n));
  }
  EXPECT_FALSE(at::equal((*Make(config))->Find(0, Projection::kQ)->a,
                         (*Make(config))->Find(1, Projection::kQ)->a));
}

TEST_F(AdapterTest, RsloraScalesByTheRootOfTheRank) {
  proto::LoraConfig config;
  config.set_rank(9);
  config.set_alpha(18);
  EXPECT_DOUBLE_EQ((*Make(config))->scaling(), 2);
  config.set_rslora(true);
  EXPECT_DOUBLE_EQ((*Make(config))->scaling(), 6);
}

TEST_F(AdapterTest, FilesKeepEverySettingAndTheScoreHead) {
  proto::LoraConfig config;
  config.set_rank(3);
  config.set_alpha(7.5);
  config.set_dropout(0.25);
  config.set_rslora(true);
  config.add_target("layers.1.mlp.up_proj");
  config.add_target("o_proj");
  const auto adapter = Trained(config);
  EXPECT_FALSE(adapter->score_head().defined());
  EXPECT_THAT(std::string(adapter->SetScoreHead(at::zeros({2, 64})).message()),
              HasSubstr("a score head is [2, 64], expected [1, 64]"));
  ASSERT_TRUE(adapter->SetScoreHead(at::randn({1, 64}, at::kDouble)).ok());
  EXPECT_EQ(adapter->NamedTensors().back().first, "score.weight");
  ASSERT_TRUE(adapter->Save(folder_.Join("adapter"), "base").ok());

  const Json json = Json::parse(*ReadFile(folder_.Join("adapter/adapter_config.json")));
  EXPECT_EQ(json["lora_dropout"], 0.25);
  EXPECT_EQ(json["use_rslora"], true);
  EXPECT_EQ(json["target_modules"], Json::array({"layers.1.mlp.up_proj", "o_proj"}));
  EXPECT_EQ(json["modules_to_save"], Json::array({"score"}));
  EXPECT_EQ(json["task_type"], "SEQ_CLS");

  proto::AdapterManifest manifest;
  const std::string bytes = adapter->Pack(at::kDouble, &manifest);
  const auto loaded = Adapter::Load(folder_.Join("adapter"), model_->spec(), at::kDouble, at::kCPU);
  const auto sent = Adapter::Unpack(manifest, bytes, model_->spec(), at::kDouble, at::kCPU);
  for (const auto& copy : {loaded, sent}) {
    ASSERT_TRUE(copy.ok()) << copy.status();
    EXPECT_EQ((*copy)->config().SerializeAsString(), config.SerializeAsString());
    const auto a = adapter->NamedTensors(), b = (*copy)->NamedTensors();
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) {
      EXPECT_EQ(a[i].first, b[i].first);
      EXPECT_TRUE(at::equal(a[i].second, b[i].second)) << a[i].first;
    }
    EXPECT_TRUE(at::equal((*copy)->score_head(), adapter->score_head()));
  }
}

TEST_F(AdapterTest, AllWeightsAreThoseOfTheBaseUntilTheyAreTrained) {
  for (const char* kind : {"llama", "qwen2"}) {
    ASSERT_TRUE(wideberth::testing::WriteTinyModel(kind, folder_.Join(kind)).ok());
    proto::ModelConfig config;
    config.set_path(folder_.Join(kind));
    model_ = *CausalLm::Load(config);
    const auto adapter = Adapter::AllWeights(model_->spec(), model_->weights(), at::kFloat);
    const bool tied = model_->spec().tied_embeddings;
    EXPECT_EQ(adapter->NamedTensors().size(), tied ? 26u : 30u) << kind;
    TokenTree tree;
    tree.Add({5, 6, 7, 8, 9, 10, 11, 12});
    const Tensor base = model_->Hidden(tree, {}), same = Hidden(*adapter);
    EXPECT_TRUE(at::equal(same, base)) << kind;
    EXPECT_TRUE(at::equal(model_->HeadOf(adapter.get()), model_->head()));
    EXPECT_NE(model_->HeadOf(adapter.get()).data_ptr(), model_->head().data_ptr());
    for (const auto& [name, tensor] : adapter->NamedTensors()) {
      Tensor values = tensor;
      const Tensor before = tensor.clone();
      values.mul_(1.01);
      const bool seen = name != "lm_head.weight";
      EXPECT_EQ(at::equal(Hidden(*adapter), same), !seen) << kind << " " << name;
      values.copy_(before);
    }
  }
}

// The float32 kernels against autograd in float64, and layers that are computed twice.
TEST_F(AdapterTest, GradientsOfAllWeightsAreTheSameHoweverTheyAreComputed) {
  proto::ModelConfig config;
  config.set_path(folder_.Join("model"));
  const auto narrow = *CausalLm::Load(config);
  const auto gradients = [](const CausalLm& model, bool checkpoint_layers) {
    const auto adapter = Adapter::AllWeights(model.spec(), model.weights(), model.dtype());
    for (Tensor& tensor : adapter->Parameters()) tensor.requires_grad_(true);
    TokenTree tree;
    const int root = tree.Add({5, 6, 7, 8, 9, 10, 11, 12});
    tree.Add({20, 21, 22}, root);
    tree.Add({30, 31, 32, 33, 34, 35}, root);
    ForwardOptions options;
    options.adapter = adapter.get();
    options.checkpoint_layers = checkpoint_layers;
    const Tensor hidden = model.Hidden(tree, options);
    hidden.mul(at::sin(at::arange(hidden.numel(), hidden.options()).view_as(hidden)))
        .sum()
        .backward();
    std::vector<Tensor> found;
    for (const auto& [name, tensor] : adapter->NamedTensors()) {
      EXPECT_EQ(tensor.grad().defined(), name != "lm_head.weight") << name;
      found.push_back(tensor.grad().defined() ? tensor.grad() : at::zeros_like(tensor));
    }
    return found;
  };
  const std::vector<Tensor> exact = gradients(*model_, false), twice = gradients(*model_, true),
                            fused = gradients(*narrow, false);
  for (size_t i = 0; i < exact.size(); ++i) {
    EXPECT_TRUE(at::equal(exact[i], twice[i])) << i;
    EXPECT_LE((fused[i] - exact[i]).norm().item<double>(), 1e-5 * exact[i].norm().item<double>())
        << i;
  }
}

TEST_F(AdapterTest, FilesAndTheWireKeepAllWeights) {
  const auto adapter = Adapter::AllWeights(model_->spec(), model_->weights(), at::kDouble);
  for (const bool score_head : {false, true}) {
    if (score_head) {
      ASSERT_TRUE(adapter->SetScoreHead(at::randn({1, 64}, at::kDouble)).ok());
    }
    const auto tensors = adapter->NamedTensors();
    EXPECT_EQ(tensors.front().first, "model.embed_tokens.weight");
    EXPECT_EQ(tensors.size(), 30u) << "a score head stands in place of the lm_head";
    ASSERT_TRUE(adapter->Save(folder_.Join("adapter"), "base").ok());
    const Json json = Json::parse(*ReadFile(folder_.Join("adapter/adapter_config.json")));
    EXPECT_EQ(json["target_modules"], Json::array());
    EXPECT_EQ(json["modules_to_save"].back(), score_head ? "score" : "lm_head");
    proto::AdapterManifest manifest;
    const std::string bytes = adapter->Pack(at::kDouble, &manifest);
    const auto loaded =
        Adapter::Load(folder_.Join("adapter"), model_->spec(), at::kDouble, at::kCPU);
    const auto sent = Adapter::Unpack(manifest, bytes, model_->spec(), at::kDouble, at::kCPU);
    for (const auto& copy : {loaded, sent}) {
      ASSERT_TRUE(copy.ok()) << copy.status();
      ASSERT_NE((*copy)->weights(), nullptr);
      const auto found = (*copy)->NamedTensors();
      ASSERT_EQ(found.size(), tensors.size());
      for (size_t i = 0; i < found.size(); ++i) {
        EXPECT_EQ(found[i].first, tensors[i].first);
        EXPECT_TRUE(at::equal(found[i].second, tensors[i].second)) << found[i].first;
      }
    }
  }
}

TEST_F(AdapterTest, SettingsThatWouldChangeTheResultAreRefused) {
  proto::LoraConfig config;
  config.set_dropout(1);
  EXPECT_THAT(std::string(Make(config).status().message()),
              HasSubstr("lora.dropout is 1, must be at least 0 and below 1"));
  ASSERT_TRUE((*Make(proto::LoraConfig()))->Save(folder_.Join("adapter"), "base").ok());
  const std::string file = folder_.Join("adapter/adapter_config.json");
  const Json written = Json::parse(*ReadFile(file));
  for (const auto& [field, value] :
       std::vector<std::pair<const char*, Json>>{{"use_dora", true},
                                                 {"alpha_pattern", {{"q_proj", 4}}},
                                                 {"layers_to_transform", Json::array({1})},
                                                 {"modules_to_save", Json::array({"lm_head"})},
                                                 {"bias", "all"}}) {
    Json json = written;
    json[field] = value;
    ASSERT_TRUE(WriteFileAtomically(file, json.dump()).ok());
    EXPECT_THAT(
        std::string(Adapter::Load(folder_.Join("adapter"), model_->spec(), at::kDouble, at::kCPU)
                        .status()
                        .message()),
        HasSubstr(absl::StrCat("adapter_config.json: ", field, " is ", value.dump(),
                               ", which is not supported")));
  }
}

TEST(DropoutMask, KeepsTheRateAndTheMean) {
  for (const double p : {0.05, 0.3, 0.9}) {
    const int64_t rows = 400, columns = 577;  // No multiple of a block.
    const Tensor mask = DropoutMask(rows, columns, {p, 11, 4}, at::TensorOptions(at::kDouble));
    const Tensor dropped = (mask == 0).to(at::kDouble);
    EXPECT_TRUE(at::logical_or(mask == 0, mask == 1 / (1 - p)).all().item<bool>());
    const double deviation = std::sqrt(p * (1 - p));
    EXPECT_NEAR(dropped.mean().item<double>(), p, 5 * deviation / std::sqrt(rows * columns * 1.0));
    // No row and no column is treated otherwise: 6 deviations at most anywhere.
    EXPECT_LT((dropped.mean(0) - p).abs().max().item<double>(), 6 * deviation / std::sqrt(rows));
    EXPECT_LT((dropped.mean(1) - p).abs().max().item<double>(), 6 * deviation / std::sqrt(columns));
    // Neighbours, and the same place of another stream or seed, are independent.
    const Tensor centred = dropped - p;
    const double bound = 5 * deviation * deviation / std::sqrt(rows * columns * 1.0);
    EXPECT_NEAR((centred.narrow(1, 0, columns - 1) * centred.narrow(1, 1, columns - 1))
                    .mean()
                    .item<double>(),
                0, bound);
    for (const Dropout& other : {Dropout{p, 11, 5}, Dropout{p, 12, 4}}) {
      const Tensor others =
          (DropoutMask(rows, columns, other, at::TensorOptions(at::kDouble)) == 0).to(at::kDouble);
      EXPECT_NEAR((centred * (others - p)).mean().item<double>(), 0, bound);
    }
    EXPECT_TRUE(at::equal(mask, DropoutMask(rows, columns, {p, 11, 4}, mask.options())));
  }
}

TEST(LoraLinear, IsItsFormulaAndSoAreItsGradients) {
  const auto options = at::TensorOptions(at::kDouble);
  for (const double p : {0.0, 0.4}) {
    for (const bool bias : {false, true}) {
      std::vector<Tensor> inputs = {at::randn({6, 10}, options), at::randn({3, 10}, options),
                                    at::randn({8, 3}, options)};
      for (Tensor& input : inputs) input.requires_grad_(true);
      const Tensor weight = at::randn({8, 10}, options),
                   shift = bias ? at::randn({8}, options) : Tensor(),
                   upstream = at::randn({6, 8}, options);
      const Dropout dropout{p, 3, 1};
      const Tensor found = LoraLinear(inputs[0], weight, shift, inputs[1], inputs[2], 1.7, dropout);
      (found * upstream).sum().backward();
      std::vector<Tensor> gradients;
      for (Tensor& input : inputs) {
        gradients.push_back(input.grad().clone());
        input.mutable_grad().zero_();
      }
      const Tensor mask = p > 0 ? DropoutMask(6, 10, dropout, options) : at::ones({6, 10}, options);
      Tensor expected = at::mm(inputs[0], weight.t()) +
                        1.7 * at::mm(at::mm(inputs[0] * mask, inputs[1].t()), inputs[2].t());
      if (bias) expected = expected + shift;
      (expected * upstream).sum().backward();
      EXPECT_LT((found - expected).abs().max().item<double>(), 1e-12);
      for (size_t i = 0; i < inputs.size(); ++i)
        EXPECT_LT((gradients[i] - inputs[i].grad()).abs().max().item<double>(), 1e-12) << i;
    }
  }
}

TEST_F(AdapterTest, DropoutIsOfTheTrainingPassAloneAndRepeatable) {
  proto::LoraConfig config;
  config.set_rank(4);
  const auto without = Trained(config);
  config.set_dropout(0.5);
  const auto with = Trained(config);
  EXPECT_TRUE(at::equal(Hidden(*with), Hidden(*without)));
  EXPECT_TRUE(at::equal(Hidden(*without, 1), Hidden(*without)));
  EXPECT_TRUE(at::equal(Hidden(*with, 1), Hidden(*with, 1)));
  EXPECT_GT((Hidden(*with, 1) - Hidden(*with)).abs().max().item<double>(), 1e-3);
  EXPECT_GT((Hidden(*with, 1) - Hidden(*with, 2)).abs().max().item<double>(), 1e-3);
}

}  // namespace
}  // namespace wideberth::model
