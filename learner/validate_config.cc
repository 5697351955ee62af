// SPDX-License-Identifier: Apache-2.0
#include "learner/validate_config.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/device.h"
#include "base/file.h"
#include "base/status.h"
#include "base/text_proto.h"
#include "learner/rewards.h"
#include "learner/validate_data.h"
#include "learner/validate_loss.h"

namespace wideberth::learner {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::TextFormat;

// The first violation; later checks are skipped. Sentences begin with the field's path, which is
// also how its line is found.
class Checker {
 public:
  template <typename T>
  Checker& Require(bool satisfied, absl::string_view field, T found, absl::string_view expected) {
    if (status_.ok() && !satisfied) {
      status_ =
          absl::InvalidArgumentError(absl::StrCat(field, " is ", found, ", must be ", expected));
    }
    return *this;
  }
  Checker& Present(bool present, absl::string_view field, absl::string_view meaning) {
    if (status_.ok() && !present)
      status_ = absl::InvalidArgumentError(absl::StrCat(field, " is not set, must be ", meaning));
    return *this;
  }
  Checker& AtLeast(int64_t value, int64_t least, absl::string_view field) {
    return Require(value >= least, field, value, absl::StrCat("at least ", least));
  }
  Checker& Positive(double value, absl::string_view field) {
    return Require(std::isfinite(value) && value > 0, field, value, "a positive number");
  }
  Checker& NotNegative(double value, absl::string_view field) {
    return Require(std::isfinite(value) && value >= 0, field, value, "a number of at least 0");
  }
  Checker& Within(double value, double low, double high, absl::string_view field) {
    return Require(value >= low && value <= high, field, value,
                   absl::StrCat("between ", low, " and ", high));
  }
  Checker& Also(const absl::Status& status) {
    if (status_.ok()) status_ = status;
    return *this;
  }
  const absl::Status& status() const { return status_; }

 private:
  absl::Status status_;
};

bool KnownDevice(absl::string_view device) { return device == "cpu" || GpuOf(device).has_value(); }

void CheckModel(const proto::ModelConfig& model, const std::string& field, Checker* check) {
  check->Present(!model.path().empty(), field + ".path", "a Hugging Face folder")
      .Require(KnownDevice(model.device()), field + ".device",
               absl::StrCat("\"", model.device(), "\""), "\"cpu\" or \"cuda:N\"")
      .AtLeast(model.num_threads(), 0, field + ".num_threads");
}

void CheckPolicy(const proto::PolicyConfig& policy, Checker* check) {
  CheckModel(policy.model(), "policy.model", check);
  check->AtLeast(policy.lora().rank(), 1, "policy.lora.rank")
      .Positive(policy.lora().alpha(), "policy.lora.alpha")
      .Require(policy.lora().dropout() >= 0 && policy.lora().dropout() < 1, "policy.lora.dropout",
               policy.lora().dropout(), "at least 0 and below 1");
  if (policy.has_adapter())
    check->Present(!policy.adapter().empty(), "policy.adapter", "a PEFT folder, or left out");
  const std::set<std::string> targets = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                         "gate_proj", "up_proj", "down_proj"};
  std::set<std::string> seen;
  for (const std::string& target : policy.lora().target()) {
    // Which layers there are is known once the model is.
    check->Require(targets.contains(target.substr(target.rfind('.') + 1)), "policy.lora.target",
                   absl::StrCat("\"", target, "\""),
                   absl::StrCat("one of ", absl::StrJoin(targets, ", "),
                                " or a module of that name such as \"layers.3.mlp.up_proj\""));
    check->Require(seen.insert(target).second, "policy.lora.target",
                   absl::StrCat("\"", target, "\" twice"), "each projection once");
  }
}

void CheckAllWeights(const proto::RunConfig& config, Checker* check) {
  const proto::PolicyConfig& policy = config.policy();
  if (!policy.all_weights()) return;
  const proto::Task task = config.learner().task();
  check
      ->Require(task == proto::SFT || task == proto::REWARD || task == proto::GUARD,
                "policy.all_weights", "true",
                absl::StrCat("false for learner.task ", proto::Task_Name(task),
                             ", which trains LoRA only"))
      .Require(!policy.has_adapter(), "policy.all_weights", "true",
               "false with policy.adapter; `wideberth merge` makes a model folder of that adapter "
               "to start from");
}

void CheckGeneration(const proto::GenerationConfig& generation, Checker* check) {
  check->AtLeast(generation.max_new_tokens(), 1, "generation.max_new_tokens")
      .NotNegative(generation.temperature(), "generation.temperature")
      .AtLeast(generation.top_k(), 0, "generation.top_k")
      .Require(generation.top_p() > 0 && generation.top_p() <= 1, "generation.top_p",
               generation.top_p(), "above 0 and at most 1")
      .Require(generation.min_p() >= 0 && generation.min_p() < 1, "generation.min_p",
               generation.min_p(), "at least 0 and below 1")
      .Positive(generation.repetition_penalty(), "generation.repetition_penalty");
  for (int32_t id : generation.stop_token_id()) check->AtLeast(id, 0, "generation.stop_token_id");
}

void CheckLearner(const proto::LearnerConfig& learner, Checker* check) {
  int port = -1;
  const std::pair<absl::string_view, absl::string_view> host_port = {
      absl::string_view(learner.address()).substr(0, learner.address().rfind(':')),
      learner.address().rfind(':') == std::string::npos
          ? ""
          : absl::string_view(learner.address()).substr(learner.address().rfind(':') + 1)};
  check
      ->Require(!host_port.first.empty() && absl::SimpleAtoi(host_port.second, &port) &&
                    port >= 0 && port <= 65535,
                "learner.address", absl::StrCat("\"", learner.address(), "\""),
                "host:port with a port from 0 to 65535")
      .AtLeast(learner.world_size(), 1, "learner.world_size")
      .Require(learner.world_size() == 1 || learner.task() == proto::RL, "learner.world_size",
               learner.world_size(), "1 where learner.task is not RL")
      .Positive(learner.rank_timeout(), "learner.rank_timeout")
      .AtLeast(learner.max_steps(), 1, "learner.max_steps")
      .AtLeast(learner.groups_per_step(), 1, "learner.groups_per_step")
      .AtLeast(learner.group_size(), 2, "learner.group_size")
      .AtLeast(learner.max_staleness(), 0, "learner.max_staleness")
      .Require(!learner.deterministic() || learner.max_staleness() == 0, "learner.max_staleness",
               learner.max_staleness(),
               "0 where learner.deterministic is set: asynchronous runs depend on who was quicker")
      .Also(ValidateLossConfig(learner))
      .Also(ValidateRatioLevel(learner))
      .NotNegative(learner.learning_rate(), "learner.learning_rate")
      .Require(learner.adam_beta1() >= 0 && learner.adam_beta1() < 1, "learner.adam_beta1",
               learner.adam_beta1(), "at least 0 and below 1")
      .Require(learner.adam_beta2() >= 0 && learner.adam_beta2() < 1, "learner.adam_beta2",
               learner.adam_beta2(), "at least 0 and below 1")
      .Positive(learner.adam_epsilon(), "learner.adam_epsilon")
      .NotNegative(learner.weight_decay(), "learner.weight_decay")
      .NotNegative(learner.max_grad_norm(), "learner.max_grad_norm")
      .AtLeast(learner.warmup_steps(), 0, "learner.warmup_steps")
      .Within(learner.warmup_ratio(), 0, 1, "learner.warmup_ratio")
      .Within(learner.min_lr_rate(), 0, 1, "learner.min_lr_rate")
      .AtLeast(learner.checkpoint_every(), 0, "learner.checkpoint_every")
      .AtLeast(learner.keep_last(), 1, "learner.keep_last")
      .AtLeast(learner.max_skipped_steps(), 1, "learner.max_skipped_steps")
      .Positive(learner.lease_timeout(), "learner.lease_timeout")
      .Positive(learner.member_timeout(), "learner.member_timeout")
      .AtLeast(learner.adapter_fan_out(), 0, "learner.adapter_fan_out")
      .Positive(learner.step_timeout(), "learner.step_timeout")
      .NotNegative(learner.max_logprob_difference(), "learner.max_logprob_difference")
      .Within(learner.health_port(), -1, 65535, "learner.health_port");
}

void CheckScorers(const proto::RunConfig& config, Checker* check) {
  check->Present(config.scorer_size() > 0, "scorer", "at least one scoring model");
  std::set<std::string> names;
  for (int i = 0; i < config.scorer_size(); ++i) {
    const proto::ScorerConfig& scorer = config.scorer(i);
    const std::string field = absl::StrCat("scorer[", i, "]");
    check->Present(!scorer.name().empty(), field + ".name", "a name of its own");
    check->Require(std::all_of(scorer.name().begin(), scorer.name().end(),
                               [](char c) {
                                 return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
                                        c == '_' || c == '-';
                               }),
                   field + ".name", absl::StrCat("\"", scorer.name(), "\""),
                   "letters, digits, _ and - only (it names processes and files)");
    check->Require(names.insert(scorer.name()).second, field + ".name",
                   absl::StrCat("\"", scorer.name(), "\" again"),
                   "different for every scorer (replicas of one model are scorer.replicas)");
    if (scorer.kind() != proto::ScorerConfig::ORACLE &&
        scorer.kind() != proto::ScorerConfig::HTTP_JUDGE)
      CheckModel(scorer.model(), field + ".model", check);
    check->AtLeast(scorer.replicas(), 1, field + ".replicas")
        .AtLeast(scorer.max_batch_tokens(), 1, field + ".max_batch_tokens")
        .AtLeast(scorer.max_batch_wait_ms(), 0, field + ".max_batch_wait_ms")
        .AtLeast(scorer.queue_items(), 1, field + ".queue_items")
        .AtLeast(scorer.cache_items(), 0, field + ".cache_items")
        .Positive(scorer.timeout(), field + ".timeout")
        .AtLeast(scorer.generative().max_new_tokens(), 1, field + ".generative.max_new_tokens")
        .AtLeast(scorer.generative().num_samples(), 1, field + ".generative.num_samples")
        .NotNegative(scorer.generative().temperature(), field + ".generative.temperature");
  }
}

void CheckPlacement(const proto::RunConfig& config, Checker* check) {
  for (int i = 0; i < config.cluster().placement_size(); ++i) {
    const proto::Placement& placement = config.cluster().placement(i);
    const std::string field = absl::StrCat("cluster.placement[", i, "]");
    bool known = placement.role() == "learner" || placement.role() == "actor";
    for (const proto::ScorerConfig& scorer : config.scorer())
      known |= placement.role() == absl::StrCat("scorer:", scorer.name());
    check
        ->Require(known, field + ".role", absl::StrCat("\"", placement.role(), "\""),
                  "learner, actor or scorer:<name of a scorer>")
        .AtLeast(placement.node(), 0, field + ".node")
        .AtLeast(placement.count(), 1, field + ".count");
  }
}

void CheckRest(const proto::RunConfig& config, Checker* check) {
  check
      ->Require(!config.name().empty() && config.name().find('/') == std::string::npos, "name",
                absl::StrCat("\"", config.name(), "\""), "a name without /")
      .AtLeast(config.prompts().num_held_out(), 0, "prompts.num_held_out")
      .AtLeast(config.actor().replicas(), 1, "actor.replicas")
      .AtLeast(config.actor().num_threads(), 0, "actor.num_threads")
      .AtLeast(config.actor().groups_per_lease(), 1, "actor.groups_per_lease")
      .Require(!config.actor().has_device() || KnownDevice(config.actor().device()), "actor.device",
               absl::StrCat("\"", config.actor().device(), "\""), "\"cpu\" or \"cuda:N\"")
      .AtLeast(config.evaluation().num_prompts(), 0, "evaluation.num_prompts")
      .Require(
          config.evaluation().num_prompts() <= config.prompts().num_held_out() ||
              (config.learner().task() == proto::EVALUATE &&
               (config.prompts().num_held_out() == 0 || config.evaluation().path_size() > 0)),
          "evaluation.num_prompts", config.evaluation().num_prompts(),
          absl::StrCat("at most prompts.num_held_out, which is ", config.prompts().num_held_out()))
      .AtLeast(config.evaluation().num_completions(), 1, "evaluation.num_completions")
      .AtLeast(config.evaluation().num_examples(), 0, "evaluation.num_examples")
      .AtLeast(config.supervisor().max_restarts(), 0, "supervisor.max_restarts")
      .Positive(config.supervisor().restart_backoff(), "supervisor.restart_backoff")
      .Positive(config.supervisor().drain_timeout(), "supervisor.drain_timeout")
      .AtLeast(config.cluster().gpus_per_node(), 0, "cluster.gpus_per_node")
      .AtLeast(config.cluster().cpus_per_process(), 1, "cluster.cpus_per_process")
      .Within(config.cluster().learner_port(), 1, 65535, "cluster.learner_port");
}

class Silent final : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int, int, const std::string&) override {}
};

// "scorer[2].model.path", with files that are appended to each other: `*index` becomes the index
// within this file.
int LineOf(const TextFormat::ParseInfoTree& root, const proto::RunConfig& parsed,
           absl::string_view field, int scorers_before, int placements_before) {
  const TextFormat::ParseInfoTree* tree = &root;
  const google::protobuf::Descriptor* type = parsed.GetDescriptor();
  int line = -1;
  for (absl::string_view segment : absl::StrSplit(field, '.')) {
    if (tree == nullptr || type == nullptr) return -1;
    const std::vector<absl::string_view> name_index =
        absl::StrSplit(segment, absl::ByAnyChar("[]"));
    const FieldDescriptor* descriptor = type->FindFieldByName(std::string(name_index[0]));
    if (descriptor == nullptr) return -1;
    int index = -1;
    if (name_index.size() > 1 && absl::SimpleAtoi(name_index[1], &index)) {
      index -= name_index[0] == "scorer" ? scorers_before : placements_before;
      if (index < 0) return -1;
    } else if (descriptor->is_repeated()) {
      index = 0;
    }
    line = tree->GetLocation(descriptor, index).line;
    type = descriptor->message_type();
    if (type != nullptr) tree = tree->GetTreeForNested(descriptor, index);
  }
  return line;
}

// "file:line" of the last file that sets `field`; empty where none does.
std::string Locate(absl::string_view field, const std::vector<std::string>& files) {
  std::string found;
  int scorers_before = 0, placements_before = 0;
  for (const std::string& file : files) {
    const absl::StatusOr<std::string> text = ReadFile(file);
    if (!text.ok()) continue;
    proto::RunConfig parsed;
    TextFormat::ParseInfoTree tree;
    TextFormat::Parser parser;
    Silent silent;
    parser.RecordErrorsTo(&silent);
    parser.WriteLocationsTo(&tree);
    if (!parser.ParseFromString(*text, &parsed)) continue;
    const int line = LineOf(tree, parsed, field, scorers_before, placements_before);
    if (line >= 0) found = absl::StrCat(file, ":", line + 1);
    scorers_before += parsed.scorer_size();
    placements_before += parsed.cluster().placement_size();
  }
  return found;
}

// Fields of the schema that nothing acts on yet: a run that would ignore them is refused.
void CheckServed(const proto::RunConfig& config, Checker* check) {
  const auto refuse = [&](bool asked, const std::string& field, const std::string& found,
                          const std::string& expected) {
    check->Require(!asked, field, found, absl::StrCat(expected, " (not supported yet)"));
  };
  const proto::LearnerConfig& learner = config.learner();
  const bool rl = learner.task() == proto::RL;
  refuse(rl && config.has_data(), "data", "set", "left out");
}

absl::Status CheckAll(const proto::RunConfig& config) {
  Checker check;
  CheckServed(config, &check);
  CheckPolicy(config.policy(), &check);
  CheckAllWeights(config, &check);
  CheckGeneration(config.generation(), &check);
  CheckLearner(config.learner(), &check);
  const bool evaluates = config.learner().task() == proto::EVALUATE;
  const bool scored = evaluates || config.learner().task() == proto::RL;
  // The others need no scorer but a guard's own.
  if (scored || config.scorer_size() > 0) CheckScorers(config, &check);
  if (evaluates) check.Also(ValidateEvaluation(config));
  if (scored) {
    check.Present(config.prompts().path_size() > 0, "prompts.path", "a JSON lines file");
    check.Also(
        ValidateRewardConfig(config.reward(), {config.scorer().begin(), config.scorer().end()}));
  } else {
    check.Also(ValidateTaskOnData(config));
  }
  CheckPlacement(config, &check);
  CheckRest(config, &check);
  return check.status();
}

}  // namespace

absl::Status ValidateRunConfig(const proto::RunConfig& config,
                               const std::vector<std::string>& files) {
  const absl::Status status = CheckAll(config);
  if (status.ok() || files.empty()) return status;
  // Where the files alone would pass, or fail for another reason, an override is to blame and no
  // line of theirs.
  proto::RunConfig from_files;
  for (const std::string& file : files) (void)MergeTextProtoFile(file, &from_files);
  if (CheckAll(from_files) != status) return status;
  const absl::string_view message = status.message();
  const std::string where = Locate(message.substr(0, message.find(' ')), files);
  return where.empty() ? status : absl::InvalidArgumentError(absl::StrCat(where, ": ", message));
}

}  // namespace wideberth::learner
