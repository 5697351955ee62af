// SPDX-License-Identifier: Apache-2.0
// A configuration file: parsing, validation with the place of a fault, and writing it again.
#include "base/status.h"
#include "base/text_proto.h"
#include "learner/validate_config.h"
#include "tests/fuzz/fuzz.h"

namespace wideberth::fuzz {
namespace {

constexpr char kRun[] = R"(name: "good"
policy { model { path: "models/tiny" dtype: BFLOAT16 } lora { rank: 4 target: "q_proj" } }
prompts { path: "p.jsonl" num_held_out: 4 }
scorer {
  name: "safety"  # a guard
  model { path: "models/tiny" device: "cuda:0" }
  template: "{prompt} {completion}" positive: "unsafe" negative: "safe"
}
scorer { name: "helpful" model { path: "m" } output: LOG_ODDS timeout: 3.5 }
reward { guard: "safety" utility: "helpful" }
learner { max_steps: 3 group_size: 4 learning_rate: 1e-5 }
evaluation { num_prompts: 4 }
)";
constexpr char kSupervised[] = R"(policy: { model: < path: 'a' 'b' > all_weights: true }
data { path: ["rows.jsonl#lines=1-3", "x"] batch_size: 0x10 }
learner { task: SFT, deterministic: true; world_size: 2 }
cluster { placement { role: ACTOR } }
)";

}  // namespace

std::vector<std::string> Seeds() { return {kRun, kSupervised}; }

bool TryOne(absl::string_view input) {
  static const Folder folder;
  const std::string path = folder.Write("run.txtpb", input);
  proto::RunConfig config;
  const absl::Status parsed = MergeTextProtoFile(path, &config);
  ExpectNames(parsed, path);
  if (!parsed.ok()) return false;
  const absl::Status valid = learner::ValidateRunConfig(config, {path, path});
  WB_CHECK(valid.ok() || !valid.message().empty(), "an error without a sentence");
  WB_CHECK(learner::ValidateRunConfig(config).code() == valid.code(),
           "validation depends on the files");
  proto::RunConfig again;
  WB_CHECK(MergeTextProto(TextProto(config), "written", &again).ok(),
           "a configuration that was written cannot be read");
  WB_CHECK(TextProto(again) == TextProto(config), "a configuration that was written has changed");
  return valid.ok();
}

}  // namespace wideberth::fuzz
