// SPDX-License-Identifier: Apache-2.0
// A merged folder computes what base and adapter compute together, and others can load it.
#include "launch/merge.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "model/causal_lm.h"
#include "model/safetensors.h"
#include "scorer/adapted_lm.h"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::launch {
namespace {

using ::at::Tensor;
using ::testing::HasSubstr;
using Json = nlohmann::json;

const std::vector<int32_t> kIds = {5, 6, 7, 8, 9, 10, 11, 12, 200, 319};

std::unique_ptr<model::CausalLm> LoadOrDie(const std::string& folder,
                                           proto::DType dtype = proto::FLOAT32) {
  proto::ModelConfig config;
  config.set_path(folder);
  config.set_dtype(dtype);
  auto model = model::CausalLm::Load(config);
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

Tensor Hidden(const model::CausalLm& model, const model::Adapter* adapter) {
  model::TokenTree tree;
  tree.Add(kIds);
  model::ForwardOptions options;
  options.adapter = adapter;
  return model.Hidden(tree, options);
}

Tensor Logits(const model::CausalLm& model, const model::Adapter* adapter = nullptr) {
  return at::mm(Hidden(model, adapter), model.HeadOf(adapter).t());
}

class MergeTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(testing::WriteTinyModel(GetParam(), dir_.Join("base")).ok());
    base_ = LoadOrDie(dir_.Join("base"));
  }
  void WriteLora() {
    ASSERT_TRUE(testing::WriteTinyAdapter(GetParam(), 4, 8, {"q_proj", "v_proj", "down_proj"},
                                          dir_.Join("adapter"))
                    .ok());
  }
  // Every tensor is another than the base's.
  std::shared_ptr<model::Adapter> AllWeights() {
    auto adapter = model::Adapter::AllWeights(base_->spec(), base_->weights(), at::kFloat);
    for (const auto& [name, tensor] : adapter->NamedTensors()) {
      Tensor values = tensor;
      values.mul_(at::cos(at::arange(values.numel(), at::kFloat)).view_as(values).mul(0.1).add(1));
    }
    return adapter;
  }
  absl::Status MergeInto(const std::string& out,
                         absl::optional<proto::DType> dtype = absl::nullopt) {
    return MergeAdapter(dir_.Join("base"), dir_.Join("adapter"), dir_.Join(out), dtype);
  }
  std::shared_ptr<model::Adapter> Trained(at::ScalarType type = at::kFloat) {
    auto adapter = model::Adapter::Load(dir_.Join("adapter"), base_->spec(), type, at::kCPU);
    EXPECT_TRUE(adapter.ok()) << adapter.status();
    return *std::move(adapter);
  }
  // transformers loads `folder` without a missing or an unexpected tensor and computes `expect`.
  void ExpectTransformersAgree(const std::string& folder, const Json& expect) {
    const char* const python = std::getenv("WIDEBERTH_PYTHON");
    if (python == nullptr) return;  // Said by the test of its own below.
    ASSERT_TRUE(WriteFileAtomically(dir_.Join("expect.json"), expect.dump()).ok());
    const std::string command =
        absl::StrCat(python, " tests/golden/check_model_folder.py --model ", dir_.Join(folder),
                     " --expect ", dir_.Join("expect.json"));
    EXPECT_EQ(std::system(command.c_str()), 0);
  }
  static Json NextLogProbs(const Tensor& logits) {
    const Tensor logprobs = at::log_softmax(logits.to(at::kDouble), 1);
    Json values = Json::array();
    for (size_t i = 0; i + 1 < kIds.size(); ++i)
      values.push_back(logprobs[static_cast<int64_t>(i)][kIds[i + 1]].item<double>());
    return values;
  }

  testing::TempDir dir_;
  std::unique_ptr<model::CausalLm> base_;
};

TEST_P(MergeTest, LoraIsFoldedIn) {
  WriteLora();
  ASSERT_TRUE(MergeInto("out/").ok());
  const auto merged = LoadOrDie(dir_.Join("out"));
  const Tensor expected = Logits(*base_, Trained().get()), found = Logits(*merged);
  EXPECT_LT((found - expected).abs().max().item<double>(),
            1e-5 * expected.abs().max().item<double>());
  EXPECT_GT((found - Logits(*base_)).abs().max().item<double>(), 0.1);
  EXPECT_EQ(*ReadFile(dir_.Join("out/tokenizer.json")),
            *ReadFile(dir_.Join("base/tokenizer.json")));
  EXPECT_EQ(merged->spec().eos_token_ids, base_->spec().eos_token_ids);
  ExpectTransformersAgree("out", {{"ids", kIds}, {"next_logprobs", NextLogProbs(expected)}});
}

TEST_P(MergeTest, WholeWeightsTakeTheBasesPlace) {
  const auto adapter = AllWeights();
  ASSERT_TRUE(adapter->Save(dir_.Join("adapter"), "base").ok());
  ASSERT_TRUE(MergeInto("out").ok());
  const Tensor expected = Logits(*base_, adapter.get());
  EXPECT_TRUE(at::equal(Logits(*LoadOrDie(dir_.Join("out"))), expected));
  ExpectTransformersAgree("out", {{"ids", kIds}, {"next_logprobs", NextLogProbs(expected)}});
}

TEST_P(MergeTest, WithAScoreHeadItIsAClassifier) {
  for (const bool whole : {false, true}) {
    SCOPED_TRACE(whole);
    const std::string out = absl::StrCat("out", whole);
    if (!whole) WriteLora();
    auto adapter = whole ? AllWeights() : Trained();
    const int64_t hidden = base_->spec().hidden;
    ASSERT_TRUE(
        adapter->SetScoreHead(at::sin(at::arange(hidden, at::kFloat)).view({1, hidden})).ok());
    ASSERT_TRUE(adapter->Save(dir_.Join("adapter"), "base").ok());
    ASSERT_TRUE(MergeInto(out).ok());
    const auto merged = LoadOrDie(dir_.Join(out));
    EXPECT_TRUE(merged->spec().sequence_classification);
    const Tensor expected =
        at::mm(Hidden(*base_, adapter.get()), adapter->score_head().t()).squeeze(1);
    const Tensor found = at::mm(Hidden(*merged, nullptr), merged->head().t()).squeeze(1);
    EXPECT_LT((found - expected).abs().max().item<double>(), 1e-4);
    const auto files = model::WeightFiles::OpenFolder(dir_.Join(out));
    EXPECT_EQ((*files)->tensors().count("lm_head.weight"), 0u);
    ExpectTransformersAgree(out, {{"ids", kIds}, {"score", expected[-1].item<double>()}});
  }
}

TEST_P(MergeTest, DtypesAreTheBasesOrTheOneAskedFor) {
  testing::TinyModelOptions options;
  options.bfloat16 = true;
  ASSERT_TRUE(testing::WriteTinyModel(GetParam(), dir_.Join("base"), options).ok());
  base_ = LoadOrDie(dir_.Join("base"), proto::FLOAT64);
  WriteLora();
  const auto adapter = Trained(at::kDouble);
  const auto dtype_of = [&](const std::string& out, const std::string& name) {
    return (*model::WeightFiles::OpenFolder(dir_.Join(out)))->tensors().at(name).dtype;
  };
  const std::string q_proj = "model.layers.1.self_attn.q_proj.weight";
  ASSERT_TRUE(MergeInto("same").ok());
  EXPECT_EQ(dtype_of("same", q_proj), "BF16");
  ASSERT_TRUE(MergeInto("wide", proto::FLOAT64).ok());
  EXPECT_EQ(dtype_of("wide", q_proj), "F64");
  // Nothing of the product is lost on the way, and one rounding at its end.
  const auto wide = LoadOrDie(dir_.Join("wide"), proto::FLOAT64);
  const model::Adapter::Pair& pair = *adapter->Find(1, model::Projection::kQ);
  const Tensor exact =
      base_->weights().layers[1].linears[0].weight + at::mm(pair.b, pair.a) * adapter->scaling();
  EXPECT_LT((wide->weights().layers[1].linears[0].weight - exact).abs().max().item<double>(),
            1e-15);
  const auto same = LoadOrDie(dir_.Join("same"), proto::BFLOAT16);
  EXPECT_TRUE(at::equal(same->weights().layers[1].linears[0].weight, exact.to(at::kBFloat16)));
}

TEST_P(MergeTest, AFolderWithAnythingInItIsLeftAlone) {
  WriteLora();
  ASSERT_TRUE(MakeDirectories(dir_.Join("out")).ok());
  ASSERT_TRUE(MergeInto("out").ok()) << "it was empty";
  const std::string config = *ReadFile(dir_.Join("out/config.json"));
  const absl::Status again = MergeInto("out");
  EXPECT_EQ(again.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(again.message()), HasSubstr("is there already, --out must be"));
  EXPECT_EQ(*ReadFile(dir_.Join("out/config.json")), config);
  // An adapter of another model: nothing is left behind.
  const char* const other = std::string(GetParam()) == "llama" ? "qwen2" : "llama";
  ASSERT_TRUE(testing::WriteTinyAdapter(other, 4, 8, {"q_proj"}, dir_.Join("adapter")).ok());
  EXPECT_THAT(std::string(MergeInto("none").message()), HasSubstr("expected ["));
  EXPECT_FALSE(std::filesystem::exists(dir_.Join("none")));
  EXPECT_FALSE(std::filesystem::exists(dir_.Join("none.partial")));
}

TEST_P(MergeTest, AGuardKeepsItsCalibration) {
  WriteLora();
  ASSERT_TRUE(
      WriteFileAtomically(dir_.Join("adapter/calibration.json"), "{\"temperature\": 2.5}").ok());
  ASSERT_TRUE(MergeInto("out").ok());
  proto::ScorerConfig scorer;
  scorer.set_name("g");
  scorer.mutable_model()->set_path(dir_.Join("out"));
  const auto guard = scorer::LoadAdaptedLm(scorer);
  ASSERT_TRUE(guard.ok()) << guard.status();
  EXPECT_EQ(guard->calibration.temperature, 2.5);
  EXPECT_NE(guard->fingerprint, guard->lm->fingerprint()) << "scores depend on it";
  ASSERT_TRUE(std::filesystem::remove(dir_.Join("out/calibration.json")));
  const auto plain = scorer::LoadAdaptedLm(scorer);
  EXPECT_EQ(plain->calibration.temperature, 1);
  EXPECT_EQ(plain->fingerprint, plain->lm->fingerprint());
}

INSTANTIATE_TEST_SUITE_P(Tiny, MergeTest, ::testing::Values("llama", "qwen2"));

TEST(MergeWithTransformers, IsChecked) {
  if (std::getenv("WIDEBERTH_PYTHON") == nullptr)
    GTEST_SKIP() << "WIDEBERTH_PYTHON does not name a Python with transformers: its loading of "
                    "merged folders is not checked";
}

}  // namespace
}  // namespace wideberth::launch
