// SPDX-License-Identifier: Apache-2.0
// The learner's optimiser step on given completions, one for each line on standard input; answers a
// JSON line with seconds, loss, gradient norm and peak memory. benchmarks/learner_step.py runs it
// in turn with its peers (learner_step_peer.py), which answer the same.
//
// usage: learner_benchmark MODEL ADAPTER DATA float32|bfloat16 CHECKPOINTING(0|1)
#include <ATen/ATen.h>

#include <chrono>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "learner/train_step.h"
#include "model/runtime.h"

namespace wideberth::learner {
namespace {

using nlohmann::json;

// "VmHWM" or "VmRSS" of this process, bytes.
int64_t StatusBytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    int64_t kilobytes = 0;
    if (line.rfind(field + ":", 0) == 0 &&
        absl::SimpleAtoi(std::vector<std::string>(absl::StrSplit(line.substr(field.size() + 1), ' ',
                                                                 absl::SkipWhitespace()))[0],
                         &kilobytes)) {
      return kilobytes * 1024;
    }
  }
  return 0;
}

std::vector<TrainGroup> GroupsOf(const json& data) {
  std::vector<TrainGroup> groups;
  for (const json& given : data["groups"]) {
    TrainGroup& group = groups.emplace_back();
    group.group_id = groups.size();
    group.prompt = given["prompt"].get<std::vector<int32_t>>();
    for (size_t i = 0; i < given["completions"].size(); ++i) {
      TrainCompletion& completion = group.completions.emplace_back();
      completion.index = static_cast<int64_t>(i);
      completion.tokens = given["completions"][i].get<std::vector<int32_t>>();
      completion.sampler_logprobs.assign(completion.tokens.size(), -5.0f);
      completion.reward = given["rewards"][i].get<double>();
    }
  }
  return groups;
}

absl::Status Run(char** arguments) {
  proto::ModelConfig config;
  config.set_path(arguments[1]);
  if (std::string(arguments[4]) == "bfloat16") config.set_dtype(proto::BFLOAT16);
  if (std::string(arguments[4]) == "float64") config.set_dtype(proto::FLOAT64);
  WB_ASSIGN_OR_RETURN(const std::unique_ptr<model::CausalLm> model, model::CausalLm::Load(config));
  WB_ASSIGN_OR_RETURN(
      std::shared_ptr<model::Adapter> adapter,
      model::Adapter::Load(arguments[2], model->spec(),
                           config.dtype() == proto::FLOAT64 ? at::kDouble : at::kFloat,
                           model->device()));
  WB_ASSIGN_OR_RETURN(const std::string text, ReadFile(arguments[3]));
  const json data = json::parse(text);
  Trainer::Options options;
  options.learner.set_beta(data["beta"].get<double>());
  options.learner.set_learning_rate(data["learning_rate"].get<double>());
  options.learner.set_max_logprob_difference(0);
  options.learner.set_activation_checkpointing(std::string(arguments[5]) == "1");
  WB_ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer,
                      Trainer::Create(model.get(), adapter, options));
  const std::vector<TrainGroup> groups = GroupsOf(data);
  // The mark of the peak goes back to what is resident now.
  std::ofstream("/proc/self/clear_refs") << "5";
  const int64_t loaded = StatusBytes("VmRSS");
  std::cout << json{{"ready", true}}.dump() << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    const std::clock_t cpu = std::clock();
    const auto start = std::chrono::steady_clock::now();
    WB_ASSIGN_OR_RETURN(const StepMetrics metrics, trainer->Step(groups));
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::cout << json{{"seconds", seconds.count()},
                      {"cpu_seconds", static_cast<double>(std::clock() - cpu) / CLOCKS_PER_SEC},
                      {"loss", metrics.loss},
                      {"grad_norm", metrics.grad_norm},
                      {"loaded_bytes", loaded},
                      {"peak_bytes", StatusBytes("VmHWM")},
                      {"phases",
                       {{"reference", metrics.reference_seconds},
                        {"forward", metrics.forward_seconds},
                        {"backward", metrics.backward_seconds},
                        {"optimizer", metrics.optimizer_seconds}}}}
                     .dump()
              << std::endl;
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace wideberth::learner

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fprintf(stderr, "usage: %s MODEL ADAPTER DATA float32|bfloat16 0|1\n", argv[0]);
    return 2;
  }
  wideberth::model::ConfigureRuntime(1);
  const absl::Status status = wideberth::learner::Run(argv);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
