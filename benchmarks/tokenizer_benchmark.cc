// SPDX-License-Identifier: Apache-2.0
// Tokens per second of one thread: encoding and decoding of English documents, one long text and
// random Unicode; loading. Run by tokenizer_peer.py, which times the `tokenizers` package on the
// same texts. Shared data: $WIDEBERTH_SHARED or ../shared.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/tokenizer.h"
#include "tests/model/random_text.h"

namespace {

using wideberth::model::Tokenizer;

std::string DataDir() {
  const char* shared = std::getenv("WIDEBERTH_SHARED");
  return absl::StrCat(shared == nullptr ? "../shared" : shared, "/data/");
}

const std::vector<std::string>& Documents() {
  static const auto* const documents = [] {
    auto* texts = new std::vector<std::string>;
    std::ifstream file(DataDir() + "alpaca-2000-with-outputs/alpaca_data.json");
    for (const nlohmann::json& row : nlohmann::json::parse(file)) {
      texts->push_back(absl::StrCat(row["instruction"].get<std::string>(), "\n",
                                    row["input"].get<std::string>(), "\n",
                                    row["output"].get<std::string>()));
    }
    return texts;
  }();
  return *documents;
}

const std::vector<std::string>& LongText() {
  static const auto* const text = new std::vector<std::string>{absl::StrJoin(Documents(), "\n")};
  return *text;
}

const std::vector<std::string>& RandomUnicode() {
  static const auto* const texts = [] {
    auto* result = new std::vector<std::string>;
    for (uint64_t i = 0; i < 2000; ++i) result->push_back(wideberth::testing::RandomUnicode(i));
    return result;
  }();
  return *texts;
}

void Report(benchmark::State& state, int64_t num_tokens, int64_t num_bytes) {
  state.counters["tokens_per_second"] =
      benchmark::Counter(static_cast<double>(num_tokens), benchmark::Counter::kIsRate);
  state.SetBytesProcessed(num_bytes);
}

void Encode(benchmark::State& state, const Tokenizer& tokenizer,
            const std::vector<std::string>& texts) {
  int64_t num_tokens = 0, num_bytes = 0;
  for (auto _ : state) {
    for (const std::string& text : texts) {
      const std::vector<int32_t> ids = tokenizer.Encode(text);
      num_tokens += static_cast<int64_t>(ids.size());
      num_bytes += static_cast<int64_t>(text.size());
    }
  }
  Report(state, num_tokens, num_bytes);
}

void Decode(benchmark::State& state, const Tokenizer& tokenizer,
            const std::vector<std::string>& texts) {
  std::vector<std::vector<int32_t>> encoded;
  for (const std::string& text : texts) encoded.push_back(tokenizer.Encode(text));
  int64_t num_tokens = 0, num_bytes = 0;
  for (auto _ : state) {
    for (const std::vector<int32_t>& ids : encoded) {
      num_bytes += static_cast<int64_t>(tokenizer.Decode(ids).size());
      num_tokens += static_cast<int64_t>(ids.size());
    }
  }
  Report(state, num_tokens, num_bytes);
}

void Load(benchmark::State& state, const std::string& path) {
  for (auto _ : state) benchmark::DoNotOptimize(Tokenizer::FromFile(path));
}

}  // namespace

int main(int argc, char** argv) {
  for (const char* name : {"tok-qwen2", "tok-llama3", "tok-llama-spm"}) {
    const std::string path = absl::StrCat(DataDir(), name, "/tokenizer.json");
    auto tokenizer = Tokenizer::FromFile(path);
    if (!tokenizer.ok()) {
      std::fprintf(stderr, "%s\n", std::string(tokenizer.status().message()).c_str());
      return 1;
    }
    const Tokenizer* shared = tokenizer->release();  // Lives as long as the registered benchmarks.
    for (const auto& [texts_name, texts] :
         {std::pair("documents", &Documents()), std::pair("long", &LongText()),
          std::pair("unicode", &RandomUnicode())}) {
      const auto* all = texts;
      benchmark::RegisterBenchmark(absl::StrCat(name, "/encode/", texts_name).c_str(),
                                   [=](benchmark::State& state) { Encode(state, *shared, *all); })
          ->Unit(benchmark::kMillisecond);
    }
    benchmark::RegisterBenchmark(
        absl::StrCat(name, "/decode/documents").c_str(),
        [=](benchmark::State& state) { Decode(state, *shared, Documents()); })
        ->Unit(benchmark::kMillisecond);
    benchmark::RegisterBenchmark(absl::StrCat(name, "/load").c_str(), [=](benchmark::State& state) {
      Load(state, path);
    })->Unit(benchmark::kMillisecond);
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
