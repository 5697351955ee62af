// SPDX-License-Identifier: Apache-2.0
// Parity of the forward pass with transformers and PEFT (tests/golden), and what must hold whatever
// the numbers are.
#include "model/causal_lm.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "model/generate.h"
#include "model/logprobs.h"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::model {
namespace {

using ::at::Tensor;
using ::testing::HasSubstr;
using ::wideberth::testing::GoldenPath;
using ::wideberth::testing::TempDir;
using ::wideberth::testing::WriteTinyModel;
using Json = nlohmann::json;
using Ids = std::vector<int32_t>;

Json Golden(const std::string& name) { return Json::parse(*ReadFile(GoldenPath(name))); }

std::unique_ptr<CausalLm> LoadOrDie(const std::string& path, proto::DType dtype = proto::FLOAT32) {
  proto::ModelConfig config;
  config.set_path(path);
  config.set_dtype(dtype);
  auto model = CausalLm::Load(config);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : nullptr;
}

Tensor AllLogits(const CausalLm& model, const Ids& ids, const Adapter* adapter = nullptr) {
  TokenTree tree;
  tree.Add(ids);
  ForwardOptions options;
  options.adapter = adapter;
  return at::mm(model.Hidden(tree, options), model.head().t());
}

TokenLogProbs NextLogProbs(const CausalLm& model, const Ids& ids,
                           const Adapter* adapter = nullptr) {
  TokenTree tree;
  tree.Add(ids);
  ForwardOptions options;
  options.adapter = adapter;
  std::vector<int64_t> rows, targets;
  for (size_t i = 0; i + 1 < ids.size(); ++i) {
    rows.push_back(static_cast<int64_t>(i));
    targets.push_back(ids[i + 1]);
  }
  return LogProbsOfTokens(model.Hidden(tree, options), model.head(), rows, targets, 1.0);
}

Tensor AsTensor(const Json& numbers) {
  return at::tensor(numbers.get<std::vector<double>>(), at::kDouble);
}

double LargestDifference(const Tensor& a, const Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

Ids Greedy(const CausalLm& model, const Ids& prompt, int n, int others = 0) {
  GenerateOptions options;
  options.sampling.set_temperature(0);
  options.sampling.set_max_new_tokens(n);
  std::vector<PromptGroup> groups(1, PromptGroup{0, prompt, 1});
  for (int i = 0; i < others; ++i)
    groups.push_back(
        {static_cast<uint64_t>(i + 1), Ids(prompt.begin(), prompt.begin() + 1 + i), 2});
  auto result = Generate(model, groups, options);
  EXPECT_TRUE(result.ok()) << result.status();
  return (*result)[0][0].tokens;
}

class TinyParity : public ::testing::TestWithParam<std::string> {};

TEST_P(TinyParity, LogitsLogProbsAndGreedyIdsAreThoseOfTransformers) {
  const Json golden = Golden("tiny_logits_" + GetParam() + ".json");
  TempDir folder;
  for (const bool new_style : {false, true}) {
    wideberth::testing::TinyModelOptions options;
    options.new_style_config = new_style;
    options.sharded = new_style;
    ASSERT_TRUE(WriteTinyModel(GetParam(), folder.Join(new_style ? "new" : "old"), options).ok());
    const auto model = LoadOrDie(folder.Join(new_style ? "new" : "old"));
    for (const Json& sequence : golden["sequences"]) {
      const Ids ids = sequence["ids"];
      const Tensor logits = AllLogits(*model, ids);
      for (size_t i = 0; i < sequence["positions"].size(); ++i) {
        const Tensor expected = AsTensor(sequence["logits"][i]);
        const double range = (expected.max() - expected.min()).item<double>();
        const double difference =
            LargestDifference(logits[sequence["positions"][i].get<int64_t>()], expected) / range;
        EXPECT_LT(difference, 2e-5) << "position " << sequence["positions"][i];
      }
      EXPECT_LT(
          LargestDifference(NextLogProbs(*model, ids).logprob, AsTensor(sequence["next_logprobs"])),
          1e-4);
      EXPECT_EQ(Greedy(*model, ids, 64), sequence["greedy_ids"].get<Ids>());
      EXPECT_EQ(Greedy(*model, ids, 64, 3), sequence["greedy_ids"].get<Ids>())
          << "in a batch with others";
    }
  }
}

TEST_P(TinyParity, Bfloat16StaysAsCloseToFloat32AsTransformersDoes) {
  const Json golden = Golden("tiny_logits_" + GetParam() + ".json");
  TempDir folder;
  ASSERT_TRUE(WriteTinyModel(GetParam(), folder.path(), {}).ok());
  const auto exact = LoadOrDie(folder.path()), rounded = LoadOrDie(folder.path(), proto::BFLOAT16);
  for (const Json& sequence : golden["sequences"]) {
    const Tensor difference =
        AllLogits(*rounded, sequence["ids"]).to(at::kFloat) - AllLogits(*exact, sequence["ids"]);
    EXPECT_LT(difference.square().mean().sqrt().item<double>(),
              2 * sequence["bfloat16"]["rms_logit_difference"].get<double>());
    EXPECT_GT(difference.abs().max().item<double>(), 1e-4) << "bfloat16 was not used";
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, TinyParity, ::testing::Values("llama", "llama3_rope", "qwen2"),
                         [](const auto& info) { return info.param; });

void CheckRealModel(const std::string& folder, const Json& golden) {
  const auto model = LoadOrDie(folder);
  ASSERT_NE(model, nullptr);
  const std::vector<int64_t> columns = golden["vocab_ids"];
  for (const Json& prompt : golden["prompts"]) {
    const Ids ids = prompt["prompt_ids"], greedy = prompt["greedy_ids"];
    EXPECT_EQ(Greedy(*model, ids, 64), greedy);
    Ids all = ids;
    all.insert(all.end(), greedy.begin(), greedy.end());
    const Tensor logits = AllLogits(*model, all);
    const double range =
        prompt["last_logit_max"].get<double>() - prompt["last_logit_min"].get<double>();
    double largest = 0;
    for (size_t i = 0; i < prompt["positions"].size(); ++i) {
      const Tensor row =
          logits[prompt["positions"][i].get<int64_t>()].index_select(0, at::tensor(columns));
      largest = std::max(largest, LargestDifference(row, AsTensor(prompt["logits"][i])));
    }
    EXPECT_LT(largest / range, 2e-4);
    std::cout << "largest logit difference to transformers: " << largest << " of a range of "
              << range << "\n";
    const Tensor next =
        NextLogProbs(*model, all).logprob.narrow(0, static_cast<int64_t>(ids.size()) - 1, 64);
    EXPECT_LT(LargestDifference(next, AsTensor(prompt["greedy_logprobs"])), 1e-4);
  }
}

TEST(RealModelParity, SmolLm2) {
  if (wideberth::testing::SmolLm2Dir().empty())
    GTEST_SKIP() << "SmolLM2 is not here: run launch/get_smollm2.sh";
  CheckRealModel(wideberth::testing::SmolLm2Dir(), Golden("smollm2.json"));
}

TEST(RealModelParity, Stories260K) {
  if (wideberth::testing::SharedDir().empty()) GTEST_SKIP() << "the shared data is not at hand";
  CheckRealModel(wideberth::testing::SharedDir() + "/data/model-stories260k/hf",
                 Golden("stories260k.json"));
}

// adapter_config.json as PEFT saved it, tensors by the formula under the names PEFT saved.
void WriteGoldenAdapter(const Json& golden, const std::string& folder) {
  ASSERT_TRUE(MakeDirectories(folder).ok());
  ASSERT_TRUE(
      WriteFileAtomically(folder + "/adapter_config.json", golden["adapter_config"].dump()).ok());
  std::vector<wideberth::testing::TinyTensor> tensors;
  for (const auto& [name, shape] : golden["adapter_tensors"].items()) {
    tensors.push_back({name, shape.get<std::vector<int64_t>>(), {}});
    tensors.back().data =
        wideberth::testing::TinyUniform(name, tensors.back().shape[0] * tensors.back().shape[1]);
    for (float& value : tensors.back().data) value *= 0.25f;
  }
  ASSERT_TRUE(
      wideberth::testing::WriteSafetensors(tensors, folder + "/adapter_model.safetensors").ok());
}

class LoraParity : public ::testing::TestWithParam<std::string> {};

TEST_P(LoraParity, ForwardAndGradientsAreThoseOfPeft) {
  const Json golden = Golden(GetParam());
  TempDir folder;
  ASSERT_TRUE(WriteTinyModel(golden["kind"].get<std::string>(), folder.Join("model"), {}).ok());
  WriteGoldenAdapter(golden, folder.Join("adapter"));
  for (const bool exact : {false, true}) {
    const auto model = LoadOrDie(folder.Join("model"), exact ? proto::FLOAT64 : proto::FLOAT32);
    const auto adapter =
        Adapter::Load(folder.Join("adapter"), model->spec(), model->dtype(), at::kCPU);
    ASSERT_TRUE(adapter.ok()) << adapter.status();
    for (Tensor& parameter : (*adapter)->Parameters()) parameter.requires_grad_(true);
    const Ids ids = golden["ids"];
    const double tolerance = exact ? 1e-6 : 1e-4;
    EXPECT_LT(LargestDifference(NextLogProbs(*model, ids).logprob,
                                AsTensor(golden["base_next_logprobs"])),
              1e-4);
    const Tensor logprobs = NextLogProbs(*model, ids, adapter->get()).logprob;
    EXPECT_LT(
        LargestDifference(logprobs.detach(),
                          AsTensor(golden[exact ? "next_logprobs_float64" : "next_logprobs"])),
        tolerance);
    const Tensor loss = -logprobs.mean();
    EXPECT_NEAR(loss.item<double>(), golden[exact ? "loss_float64" : "loss"].get<double>(),
                tolerance);
    loss.backward();
    int compared = 0;
    for (const auto& [name, tensor] : (*adapter)->NamedTensors()) {
      const std::string peft = "base_model.model." + name;
      ASSERT_TRUE(golden["gradient_norms"].contains(peft)) << peft;
      const double norm = golden["gradient_norms"][peft].get<double>();
      EXPECT_NEAR(tensor.grad().norm().item<double>(), norm, (exact ? 1e-5 : 1e-3) * norm) << peft;
      if (!golden["gradients"].contains(peft)) continue;
      EXPECT_LT(LargestDifference(tensor.grad().flatten(), AsTensor(golden["gradients"][peft])),
                (exact ? 1e-5 : 1e-3) * norm)
          << peft;
      ++compared;
    }
    EXPECT_EQ(compared, static_cast<int>(golden["gradients"].size()));
  }
}

INSTANTIATE_TEST_SUITE_P(Adapters, LoraParity,
                         ::testing::Values("lora_llama_all.json", "lora_llama_qv.json",
                                           "lora_llama_rslora.json", "lora_llama_modules.json",
                                           "lora_qwen2_all.json"),
                         [](const auto& info) {
                           return info.param.substr(0, info.param.find('.'));
                         });

class TreeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(WriteTinyModel("llama", folder_.path(), {}).ok());
    model_ = LoadOrDie(folder_.path(), proto::FLOAT64);
  }
  TempDir folder_;
  std::unique_ptr<CausalLm> model_;
};

TEST_F(TreeTest, SharedBeginningsGiveTheHiddenStatesOfSeparateSequences) {
  TokenTree tree;
  const int a = tree.Add({5, 6, 7, 8}), b = tree.Add({9, 10, 11}, a), c = tree.Add({12}, a),
            d = tree.Add({13, 14}, b), e = tree.Add({20, 21, 22, 23, 24});
  const std::map<int, Ids> paths = {{a, {5, 6, 7, 8}},
                                    {b, {5, 6, 7, 8, 9, 10, 11}},
                                    {c, {5, 6, 7, 8, 12}},
                                    {d, {5, 6, 7, 8, 9, 10, 11, 13, 14}},
                                    {e, {20, 21, 22, 23, 24}}};
  const Tensor packed = model_->Hidden(tree, {});
  for (const auto& [node, path] : paths) {
    TokenTree alone;
    alone.Add(path);
    const Tensor expected = model_->Hidden(alone, {}).narrow(
        0, static_cast<int64_t>(path.size() - tree.nodes[node].tokens.size()),
        static_cast<int64_t>(tree.nodes[node].tokens.size()));
    const Tensor found = packed.narrow(0, tree.nodes[node].first_row,
                                       static_cast<int64_t>(tree.nodes[node].tokens.size()));
    EXPECT_LT(LargestDifference(found, expected), 1e-12) << "node " << node;
  }
}

TEST_F(TreeTest, SiblingsMayEndInAnyOrderOfLength) {
  for (const std::vector<size_t>& lengths :
       {std::vector<size_t>{3, 2}, {2, 3}, {2, 2}, {4, 1, 2}, {1, 4}}) {
    TokenTree tree;
    const int root = tree.Add({5, 6});
    for (size_t length : lengths) tree.Add(Ids(length, 9), root);
    const Tensor packed = model_->Hidden(tree, {});
    ASSERT_EQ(packed.size(0), tree.num_tokens);
    for (size_t i = 0; i < lengths.size(); ++i) {
      TokenTree alone;
      Ids path = {5, 6};
      path.resize(2 + lengths[i], 9);
      alone.Add(path);
      EXPECT_LT(LargestDifference(packed[tree.LastRow(static_cast<int>(i) + 1)],
                                  model_->Hidden(alone, {})[static_cast<int64_t>(path.size()) - 1]),
                1e-12);
    }
  }
}

TEST_F(TreeTest, AKeptPrefixGivesTheSameAsTheWholeSequence) {
  TokenTree head;
  head.Add({5, 6, 7});
  std::vector<KvPrefix> kept;
  ForwardOptions keep;
  keep.root_kv = &kept;
  model_->Hidden(head, keep);
  ASSERT_EQ(kept.size(), 1u);
  TokenTree rest;
  const int first = rest.Add({8, 9}), second = rest.Add({10, 11, 12}),
            third = rest.Add({13}, second);
  ForwardOptions after;
  after.prefix = &kept[0];
  const Tensor hidden = model_->Hidden(rest, after);
  const std::map<int, Ids> paths = {{first, {5, 6, 7, 8, 9}},
                                    {second, {5, 6, 7, 10, 11, 12}},
                                    {third, {5, 6, 7, 10, 11, 12, 13}}};
  for (const auto& [node, path] : paths) {
    TokenTree alone;
    alone.Add(path);
    EXPECT_LT(LargestDifference(hidden[rest.LastRow(node)],
                                model_->Hidden(alone, {})[static_cast<int64_t>(path.size()) - 1]),
              1e-12);
  }
}

TEST_F(TreeTest, GroupGradientsAreThoseOfSeparateSequences) {
  proto::LoraConfig lora;
  lora.set_rank(4);
  const auto adapter = *Adapter::Initialize(model_->spec(), lora, 1, at::kDouble, at::kCPU);
  for (Tensor& parameter : adapter->Parameters()) {
    parameter.add_(0.01);
    parameter.requires_grad_(true);
  }
  const Ids prompt = {4, 9, 33, 7, 250};
  const std::vector<Ids> completions = {{8, 9, 10}, {11}, {12, 13, 14, 15, 16, 17}};
  ForwardOptions options;
  options.adapter = adapter.get();
  const GroupTree group = MakeGroupTree(prompt, completions);
  Tensor together = LogProbsOfTokens(model_->Hidden(group.tree, options), model_->head(),
                                     group.rows, group.targets, 0.7)
                        .logprob;
  const Tensor weights = at::arange(1, together.size(0) + 1, at::kDouble);
  (together * weights).sum().backward();
  std::vector<Tensor> packed;
  for (Tensor& parameter : adapter->Parameters()) {
    packed.push_back(parameter.grad().clone());
    parameter.mutable_grad().zero_();
  }
  int64_t at = 0;
  for (const Ids& completion : completions) {
    const GroupTree alone = MakeGroupTree(prompt, {completion});
    const Tensor logprobs = LogProbsOfTokens(model_->Hidden(alone.tree, options), model_->head(),
                                             alone.rows, alone.targets, 0.7)
                                .logprob;
    const auto n = static_cast<int64_t>(completion.size());
    EXPECT_LT(LargestDifference(logprobs.detach(), together.detach().narrow(0, at, n)), 1e-11);
    (logprobs * weights.narrow(0, at, n)).sum().backward();
    at += n;
  }
  const std::vector<Tensor> parameters = adapter->Parameters();
  for (size_t i = 0; i < parameters.size(); ++i)
    EXPECT_LT(LargestDifference(packed[i], parameters[i].grad()), 1e-9);
}

TEST_F(TreeTest, LogProbsAndTheirGradientEqualThoseOfWholeLogits) {
  const Tensor hidden =
      at::randn({6, model_->spec().hidden}, at::TensorOptions(at::kDouble)).requires_grad_(true);
  const std::vector<int64_t> rows = {5, 0, 3, 3}, targets = {1, 2, 3, 300};
  const TokenLogProbs chunked = LogProbsOfTokens(hidden, model_->head(), rows, targets, 1.3);
  const Tensor weights = at::arange(1, 5, at::kDouble);
  (chunked.logprob * weights).sum().backward();
  const Tensor gradient = hidden.grad().clone();
  hidden.mutable_grad().zero_();
  const Tensor whole = at::log_softmax(
      at::mm(hidden.index_select(0, at::tensor(rows)), model_->head().t()) / 1.3, 1);
  const Tensor expected = whole.gather(1, at::tensor(targets).unsqueeze(1)).squeeze(1);
  (expected * weights).sum().backward();
  EXPECT_LT(LargestDifference(chunked.logprob.detach(), expected.detach()), 1e-12);
  EXPECT_LT(LargestDifference(gradient, hidden.grad()), 1e-12);
  EXPECT_LT(LargestDifference(chunked.entropy, -(whole.exp() * whole).sum(1).detach()), 1e-12);
}

TEST(LogProbs, GradientOfATrainedHeadIsThatOfWholeLogits) {
  const auto options = at::TensorOptions(at::kDouble);
  at::manual_seed(1);
  // 31 rows of logits fill a chunk.
  const Tensor hidden = at::randn({90, 4}, options).requires_grad_(true);
  const Tensor head = at::randn({200000, 4}, options).requires_grad_(true);
  std::vector<int64_t> rows, targets;
  for (int64_t i = 0; i < 70; ++i) {
    rows.push_back((i * 7) % 90);
    targets.push_back((i % 60) * 3000);
  }
  const Tensor weights = at::randn({70}, options);
  (LogProbsOfTokens(hidden, head, rows, targets, 1.3).logprob * weights).sum().backward();
  const Tensor of_hidden = hidden.grad().clone(), of_head = head.grad().clone();
  hidden.mutable_grad().zero_();
  head.mutable_grad().zero_();
  const Tensor whole =
      at::log_softmax(at::mm(hidden.index_select(0, at::tensor(rows)), head.t()) / 1.3, 1);
  (whole.gather(1, at::tensor(targets).unsqueeze(1)).squeeze(1) * weights).sum().backward();
  EXPECT_LT(LargestDifference(of_hidden, hidden.grad()), 1e-12);
  EXPECT_LT(LargestDifference(of_head, head.grad()), 1e-12);
}

TEST_F(TreeTest, AFreshAdapterLeavesTheModelExactlyAsItIs) {
  const auto adapter =
      *Adapter::Initialize(model_->spec(), proto::LoraConfig(), 3, at::kDouble, at::kCPU);
  EXPECT_TRUE(
      at::equal(AllLogits(*model_, {1, 2, 3, 4}, adapter.get()), AllLogits(*model_, {1, 2, 3, 4})));
}

TEST(LoadErrors, AreOneSentenceWithFileFieldFoundAndExpected) {
  TempDir folder;
  auto message = [&](absl::string_view kind,
                     const std::function<void(const std::string&)>& damage) {
    const std::string path = folder.Join(absl::StrCat(kind, "-", rand()));
    EXPECT_TRUE(WriteTinyModel(kind, path, {}).ok());
    damage(path);
    proto::ModelConfig config;
    config.set_path(path);
    const auto model = CausalLm::Load(config);
    EXPECT_FALSE(model.ok());
    return std::string(model.status().message());
  };
  auto edit_config = [](const char* field, Json value) {
    return [=](const std::string& path) {
      Json json = Json::parse(*ReadFile(path + "/config.json"));
      if (value.is_null())
        json.erase(field);
      else
        json[field] = value;
      EXPECT_TRUE(WriteFileAtomically(path + "/config.json", json.dump()).ok());
    };
  };
  EXPECT_THAT(message("llama", edit_config("hidden_size", nullptr)),
              HasSubstr("config.json: field \"hidden_size\" is missing"));
  EXPECT_THAT(message("llama", edit_config("hidden_size", "big")),
              HasSubstr("field \"hidden_size\" is \"big\", expected a positive integer"));
  EXPECT_THAT(message("llama", edit_config("hidden_size", 64.5)),
              HasSubstr("field \"hidden_size\" is 64.5, expected a positive integer"));
  EXPECT_THAT(message("llama", edit_config("num_hidden_layers", int64_t{1} << 50)),
              HasSubstr("field \"num_hidden_layers\" is 1125899906842624, expected a positive "
                        "integer up to 10000"));
  EXPECT_THAT(message("llama", edit_config("head_dim", 1 << 24)),
              HasSubstr("times head_dim 16777216 is more than 16777216"));
  EXPECT_THAT(message("llama",
                      [&](const std::string& path) {  // Heads that get nothing each.
                        edit_config("head_dim", nullptr)(path);
                        edit_config("num_key_value_heads", nullptr)(path);
                        edit_config("num_attention_heads", 128)(path);
                      }),
              HasSubstr("head_dim is 0 (where it is absent: hidden_size over "
                        "num_attention_heads), expected a positive even number"));
  EXPECT_THAT(message("llama", edit_config("eos_token_id", {1, -2})),
              HasSubstr("field \"eos_token_id\" has -2, expected a token id from 0 to 16777216"));
  EXPECT_THAT(message("llama", edit_config("vocab_size", 321)),
              HasSubstr("\"model.embed_tokens.weight\" has shape [320, 64], expected [321, 64]"));
  EXPECT_THAT(message("llama", edit_config("num_hidden_layers", 4)),
              HasSubstr("\"model.layers.3.input_layernorm.weight\" is missing"));
  EXPECT_THAT(message("llama", edit_config("num_hidden_layers", 2)),
              HasSubstr("tensor(s) that a LlamaForCausalLM of this config.json does not have"));
  EXPECT_THAT(message("llama", edit_config("architectures", Json::array({"GPT9ForCausalLM"}))),
              HasSubstr("supported are LlamaForCausalLM"));
  EXPECT_THAT(message("llama", edit_config("hidden_act", "gelu")),
              HasSubstr("hidden_act is \"gelu\""));
  EXPECT_THAT(message("llama",
                      [](const std::string& path) {
                        const std::string file = path + "/model.safetensors",
                                          bytes = *ReadFile(file);
                        EXPECT_TRUE(WriteFileAtomically(
                                        file, absl::string_view(bytes).substr(0, bytes.size() / 2))
                                        .ok());
                      }),
              HasSubstr("is the file truncated?"));
  proto::ModelConfig config;
  config.set_path(folder.Join("nowhere"));
  EXPECT_THAT(std::string(CausalLm::Load(config).status().message()),
              HasSubstr("nowhere/config.json: cannot open"));
  EXPECT_TRUE(WriteTinyModel("llama", folder.Join("x"), {}).ok());
  config.set_path(folder.Join("x"));
  config.set_device("tpu");
  EXPECT_THAT(std::string(CausalLm::Load(config).status().message()),
              HasSubstr("device is \"tpu\", expected \"cpu\" or \"cuda:N\""));
}

}  // namespace
}  // namespace wideberth::model
