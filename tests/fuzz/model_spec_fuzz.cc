// SPDX-License-Identifier: Apache-2.0
// config.json and generation_config.json, divided by a zero byte, and what is derived from them.
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/model_spec.h"
#include "model/peft_config.h"
#include "tests/fuzz/fuzz.h"

namespace wideberth::fuzz {
namespace {

constexpr char kLlama[] =
    R"({"architectures":["LlamaForCausalLM"],"hidden_size":8,"num_hidden_layers":2,)"
    R"("num_attention_heads":2,"num_key_value_heads":1,"head_dim":4,"intermediate_size":16,)"
    R"("vocab_size":320,"max_position_embeddings":512,"rms_norm_eps":1e-5,"hidden_act":"silu",)"
    R"("tie_word_embeddings":true,"attention_bias":false,"mlp_bias":null,"bos_token_id":1,)"
    R"("eos_token_id":[2,3],"rope_theta":10000.0,"rope_scaling":{"rope_type":"llama3","factor":8.0,)"
    R"("low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":256}})";
constexpr char kQwen2[] =
    R"({"architectures":["Qwen2ForSequenceClassification"],"hidden_size":8,"num_hidden_layers":1,)"
    R"("num_attention_heads":4,"intermediate_size":16,"vocab_size":9,"max_position_embeddings":64,)"
    R"("id2label":{"0":"LABEL_0"},"use_sliding_window":false,"rope_parameters":)"
    R"({"rope_type":"default","rope_theta":1000000}})";

}  // namespace

std::vector<std::string> Seeds() {
  return {Joined({kLlama, R"({"eos_token_id":[4,5],"temperature":0.6})"}), Joined({kQwen2, ""}),
          absl::StrCat(R"({"architectures":["LlamaForCausalLM"],"hidden_size":)", DeepJson(), "}")};
}

bool TryOne(absl::string_view input) {
  static const Folder folder;
  const std::vector<absl::string_view> parts = Parts(input, 2);
  folder.Write("config.json", parts[0]);
  if (parts[1].empty()) {
    folder.Remove("generation_config.json");
  } else {
    folder.Write("generation_config.json", parts[1]);
  }
  const absl::StatusOr<model::ModelSpec> spec = model::ReadModelSpec(folder.path());
  ExpectNames(spec.status(), folder.path());
  if (!spec.ok()) return false;
  for (int p = 0; p < model::kNumProjections; ++p) {
    const auto projection = static_cast<model::Projection>(p);
    int64_t num_weights = 0;
    WB_CHECK(!__builtin_mul_overflow(model::ProjectionInputs(*spec, projection),
                                     model::ProjectionOutputs(*spec, projection), &num_weights) &&
                 num_weights > 0,
             "a projection without a size");
  }
  for (int32_t id : spec->eos_token_ids) WB_CHECK(id >= 0, "a token that cannot be");
  WB_CHECK(spec->bos_token_id.value_or(0) >= 0, "a token that cannot be");
  proto::LoraConfig lora;
  lora.add_target("q_proj");
  WB_CHECK(model::TargetModules(*spec, lora).ok(), "no target");
  return true;
}

}  // namespace wideberth::fuzz
