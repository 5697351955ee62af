// SPDX-License-Identifier: Apache-2.0
// Decoding, scoring and the learner's forward and backward pass of one model folder, counted in
// real tokens a second. benchmarks/compare.py runs it in turn with transformers and PEFT on the
// same folder. The folder comes from the environment variable WIDEBERTH_MODEL;
// WIDEBERTH_DTYPE, WIDEBERTH_DEVICE and WIDEBERTH_THREADS say how it runs.
#include <ATen/ATen.h>
#include <benchmark/benchmark.h>
#include <c10/core/InferenceMode.h>

#include <cstdio>
#include <cstdlib>
#include <memory>

#include "model/causal_lm.h"
#include "model/generate.h"
#include "model/logprobs.h"
#include "model/runtime.h"

namespace wideberth::model {
namespace {

const CausalLm& Model() {
  static const CausalLm* const model = [] {
    const char* folder = std::getenv("WIDEBERTH_MODEL");
    const char* dtype = std::getenv("WIDEBERTH_DTYPE");
    const char* device = std::getenv("WIDEBERTH_DEVICE");
    const char* threads = std::getenv("WIDEBERTH_THREADS");
    ConfigureRuntime(threads == nullptr ? 1 : std::atoi(threads));
    proto::ModelConfig config;
    config.set_path(folder == nullptr ? "" : folder);
    if (dtype != nullptr && std::string(dtype) == "bfloat16") config.set_dtype(proto::BFLOAT16);
    if (device != nullptr) config.set_device(device);
    auto loaded = CausalLm::Load(config);
    if (!loaded.ok()) {
      std::fprintf(stderr, "WIDEBERTH_MODEL: %s\n", loaded.status().ToString().c_str());
      std::exit(2);
    }
    return loaded->release();
  }();
  return *model;
}

// The ids the peers use: (7 i + 3) mod (vocab - 10) + 5.
std::vector<int32_t> Ids(int64_t count, int64_t salt) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i)
    ids.push_back(
        static_cast<int32_t>((7 * (i + 31 * salt) + 3) % (Model().spec().vocab - 10) + 5));
  return ids;
}

// Until a GPU has done what it was given.
void Await(const at::Tensor& last) {
  if (!last.is_cpu()) (void)last.flatten()[0].item();
}

// args: groups, completions per group, prompt tokens, new tokens
void Decode(benchmark::State& state) {
  GenerateOptions options;
  options.sampling.set_max_new_tokens(static_cast<int>(state.range(3)));
  if (state.range(0) * state.range(1) == 1) options.sampling.set_temperature(0);
  std::vector<PromptGroup> groups;
  for (int64_t g = 0; g < state.range(0); ++g)
    groups.push_back(
        {static_cast<uint64_t>(g), Ids(state.range(2), g), static_cast<int>(state.range(1))});
  int64_t tokens = 0;
  for (auto _ : state) {
    auto result = Generate(Model(), groups, options);
    if (!result.ok()) return state.SkipWithError(result.status().ToString().c_str());
    for (const auto& group : *result) {
      for (const Sampled& sampled : group) tokens += static_cast<int64_t>(sampled.tokens.size());
    }
  }
  state.SetItemsProcessed(tokens);
}

// args: items, shared head tokens, tokens of the item
void Score(benchmark::State& state) {
  c10::InferenceMode inference;
  TokenTree head;
  head.Add(Ids(state.range(1), 99));
  std::vector<KvPrefix> kept;
  ForwardOptions keep;
  keep.root_kv = &kept;
  Model().Hidden(head, keep);
  ForwardOptions options;
  options.prefix = &kept[0];
  const auto score = [&] {
    TokenTree tree;
    std::vector<int64_t> last;
    for (int64_t i = 0; i < state.range(0); ++i)
      last.push_back(tree.LastRow(tree.Add(Ids(state.range(2), i))));
    const at::Tensor hidden = Model().Hidden(tree, options).index_select(0, Model().Indices(last));
    at::Tensor logits = at::mm(hidden, Model().head().narrow(0, 0, 2).t());
    Await(logits);
    benchmark::DoNotOptimize(logits);
  };
  score();  // Untimed: the peers are warm as well.
  for (auto _ : state) score();
  state.SetItemsProcessed(state.iterations() * state.range(0) * (state.range(1) + state.range(2)));
}

// args: groups, completions per group, prompt tokens, completion tokens. Forward and backward, LoRA
// rank 16 on all projections.
void LearnerPass(benchmark::State& state) {
  auto adapter = *Adapter::Initialize(Model().spec(), proto::LoraConfig(), 1, Model().dtype(),
                                      Model().device());
  for (at::Tensor& parameter : adapter->Parameters()) parameter.requires_grad_(true);
  ForwardOptions options;
  options.adapter = adapter.get();
  const auto pass = [&] {
    for (int64_t g = 0; g < state.range(0); ++g) {
      std::vector<std::vector<int32_t>> completions;
      for (int64_t c = 0; c < state.range(1); ++c)
        completions.push_back(Ids(state.range(3), 100 + c));
      const GroupTree group = MakeGroupTree(Ids(state.range(2), g), completions);
      const at::Tensor logprob = LogProbsOfTokens(Model().Hidden(group.tree, options),
                                                  Model().head(), group.rows, group.targets, 1.0)
                                     .logprob;
      (-logprob.mean()).backward();
    }
    Await(adapter->Parameters()[0].grad());
  };
  pass();  // Untimed: the peers are warm as well.
  for (auto _ : state) pass();
  state.SetItemsProcessed(state.iterations() * state.range(0) * state.range(1) *
                          (state.range(2) + state.range(3)));
}

BENCHMARK(Decode)
    ->Args({1, 1, 64, 96})
    ->Args({4, 8, 64, 48})
    ->Args({8, 8, 64, 48})
    ->Args({16, 16, 64, 48})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(Score)
    ->Args({32, 64, 64})
    ->Args({128, 256, 128})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(LearnerPass)
    ->Args({1, 8, 64, 48})
    ->Args({4, 16, 128, 96})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
}  // namespace wideberth::model

BENCHMARK_MAIN();
