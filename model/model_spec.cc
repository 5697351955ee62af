// SPDX-License-Identifier: Apache-2.0
#include "model/model_spec.h"

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status.h"

namespace wideberth::model {
namespace {

using Json = nlohmann::json;
constexpr int64_t kMostTokens = 1 << 24;

// One JSON object of one file, read field by field; the first problem is kept.
class Fields {
 public:
  Fields(const Json& json, std::string file) : json_(json), file_(std::move(file)) {}

  template <typename T>
  void Read(const char* field, T* value, bool required, absl::string_view expected) {
    if (!status_.ok()) return;
    const auto it = json_.find(field);
    if (it == json_.end() || it->is_null()) {
      if (required)
        status_ = absl::InvalidArgumentError(
            absl::StrCat(file_, ": field \"", field, "\" is missing, expected ", expected));
      return;
    }
    try {
      *value = it->get<T>();
    } catch (const Json::exception&) {
      status_ = absl::InvalidArgumentError(
          absl::StrCat(file_, ": field \"", field, "\" is ", it->dump(), ", expected ", expected));
    }
  }
  // Up to `most`, so that products of counts stay numbers.
  void Count(const char* field, int64_t* value, bool required = true, int64_t most = kMostTokens) {
    Json found;
    Read(field, &found, required, "a positive integer");
    if (!status_.ok() || found.is_null()) return;
    const int64_t number = WholeNumber(found).value_or(0);
    if (number > 0 && number <= most) {
      *value = number;
      return;
    }
    status_ =
        absl::InvalidArgumentError(absl::StrCat(file_, ": field \"", field, "\" is ", found.dump(),
                                                ", expected a positive integer up to ", most));
  }
  void Require(bool condition, absl::string_view sentence) {
    if (status_.ok() && !condition)
      status_ = absl::InvalidArgumentError(absl::StrCat(file_, ": ", sentence));
  }
  const absl::Status& status() const { return status_; }

 private:
  const Json& json_;
  const std::string file_;
  absl::Status status_;
};

absl::StatusOr<Json> ReadJsonObject(const std::string& path) {
  WB_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  WB_ASSIGN_OR_RETURN(Json json, ParseJson(text, path));
  if (!json.is_object())
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is not a JSON object (", text.size(), " bytes)"));
  return json;
}

// One id or a list of them; none where the field is absent or null.
absl::StatusOr<std::vector<int32_t>> TokenIds(const Json& json, const std::string& file,
                                              const char* field) {
  std::vector<int32_t> ids;
  const auto it = json.find(field);
  if (it == json.end() || it->is_null()) return ids;
  for (const Json& id : it->is_array() ? *it : Json::array({*it})) {
    const int64_t number = WholeNumber(id).value_or(-1);
    if (number < 0 || number > kMostTokens) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": field \"", field, "\" has ",
                                                     id.dump(), ", expected a token id from 0 to ",
                                                     kMostTokens));
    }
    ids.push_back(static_cast<int32_t>(number));
  }
  return ids;
}

absl::Status ReadRotary(const Json& json, const std::string& file, ModelSpec* spec) {
  Fields top(json, file);
  top.Read("rope_theta", &spec->rope_theta, false, "a number");
  WB_RETURN_IF_ERROR(top.status());
  // transformers 5 writes "rope_parameters", earlier versions "rope_theta" and "rope_scaling".
  for (const char* field : {"rope_parameters", "rope_scaling"}) {
    const auto it = json.find(field);
    if (it == json.end() || it->is_null()) continue;
    if (!it->is_object())
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": field \"", field, "\" is not an object"));
    Fields fields(*it, absl::StrCat(file, ": ", field));
    fields.Read("rope_theta", &spec->rope_theta, false, "a number");
    std::string type = "default";
    fields.Read("type", &type, false, "a text");
    fields.Read("rope_type", &type, false, "a text");
    fields.Require(
        type == "default" || type == "llama3",
        absl::StrCat("rope_type is \"", type, "\", supported are \"default\" and \"llama3\""));
    if (type == "llama3") {
      Llama3RopeScaling scaling;
      fields.Read("factor", &scaling.factor, true, "a number");
      fields.Read("low_freq_factor", &scaling.low_freq_factor, true, "a number");
      fields.Read("high_freq_factor", &scaling.high_freq_factor, true, "a number");
      fields.Count("original_max_position_embeddings", &scaling.original_max_positions, true,
                   int64_t{1} << 31);
      fields.Require(
          scaling.factor >= 1 && scaling.high_freq_factor > scaling.low_freq_factor,
          "llama3 rotary scaling needs factor >= 1 and high_freq_factor > low_freq_factor");
      spec->rope_scaling = scaling;
    }
    WB_RETURN_IF_ERROR(fields.status());
    break;
  }
  return absl::OkStatus();
}

absl::Status ReadArchitecture(const Json& json, const std::string& file, ModelSpec* spec) {
  const auto it = json.find("architectures");
  if (it == json.end() || !it->is_array() || it->size() != 1 || !(*it)[0].is_string()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": field \"architectures\" is missing, expected one name"));
  }
  spec->architecture = (*it)[0].get<std::string>();
  const bool llama = absl::StartsWith(spec->architecture, "LlamaFor"),
             qwen2 = absl::StartsWith(spec->architecture, "Qwen2For");
  const bool causal = absl::EndsWith(spec->architecture, "ForCausalLM");
  spec->sequence_classification = absl::EndsWith(spec->architecture, "ForSequenceClassification");
  spec->qkv_bias = qwen2;
  if ((!llama && !qwen2) || (!causal && !spec->sequence_classification)) {
    return absl::InvalidArgumentError(absl::StrCat(
        file, ": architecture \"", spec->architecture, "\" is not supported; supported are ",
        "LlamaForCausalLM, Qwen2ForCausalLM and their ForSequenceClassification forms"));
  }
  return absl::OkStatus();
}

// A classifier's label count stands in num_labels or, more often, in the length of id2label;
// transformers' default is two.
int64_t NumLabels(const Json& json) {
  if (const auto it = json.find("num_labels"); it != json.end() && it->is_number_integer())
    return WholeNumber(*it).value_or(0);
  if (const auto it = json.find("id2label"); it != json.end() && it->is_object())
    return static_cast<int64_t>(it->size());
  return 2;
}

}  // namespace

absl::StatusOr<ModelSpec> ReadModelSpec(absl::string_view folder) {
  ModelSpec spec;
  spec.folder = std::string(folder);
  const std::string file = absl::StrCat(folder, "/config.json");
  WB_ASSIGN_OR_RETURN(const Json json, ReadJsonObject(file));
  WB_RETURN_IF_ERROR(ReadArchitecture(json, file, &spec));
  Fields fields(json, file);
  fields.Count("hidden_size", &spec.hidden);
  fields.Count("num_hidden_layers", &spec.num_layers, true, 10'000);
  fields.Count("num_attention_heads", &spec.num_heads);
  spec.num_kv_heads = spec.num_heads;
  fields.Count("num_key_value_heads", &spec.num_kv_heads, false);
  spec.head_dim = spec.num_heads > 0 ? spec.hidden / spec.num_heads : 0;
  fields.Count("head_dim", &spec.head_dim, false);
  fields.Count("intermediate_size", &spec.ffn);
  fields.Count("vocab_size", &spec.vocab);
  fields.Count("max_position_embeddings", &spec.max_positions, true, int64_t{1} << 31);
  fields.Read("rms_norm_eps", &spec.norm_epsilon, false, "a number");
  fields.Read("tie_word_embeddings", &spec.tied_embeddings, false, "true or false");
  std::string activation = "silu";
  fields.Read("hidden_act", &activation, false, "a text");
  fields.Require(activation == "silu",
                 absl::StrCat("hidden_act is \"", activation, "\", supported is \"silu\""));
  bool attention_bias = false, mlp_bias = false, sliding = false;
  fields.Read("attention_bias", &attention_bias, false, "true or false");
  fields.Read("mlp_bias", &mlp_bias, false, "true or false");
  fields.Read("use_sliding_window", &sliding, false, "true or false");
  fields.Require(!(attention_bias && !spec.qkv_bias) && !mlp_bias,
                 "attention_bias or mlp_bias is true, which is not supported");
  fields.Require(!sliding, "use_sliding_window is true, which is not supported");
  fields.Require(spec.num_kv_heads > 0 && spec.num_heads % spec.num_kv_heads == 0,
                 absl::StrCat("num_attention_heads ", spec.num_heads,
                              " is no multiple of num_key_value_heads ", spec.num_kv_heads));
  fields.Require(spec.head_dim > 0 && spec.head_dim % 2 == 0,
                 absl::StrCat("head_dim is ", spec.head_dim,
                              " (where it is absent: hidden_size over num_attention_heads), "
                              "expected a positive even number"));
  fields.Require(spec.num_heads * spec.head_dim <= kMostTokens,
                 absl::StrCat("num_attention_heads ", spec.num_heads, " times head_dim ",
                              spec.head_dim, " is more than ", kMostTokens));
  fields.Require(!spec.sequence_classification || NumLabels(json) == 1,
                 absl::StrCat("a reward model needs one label, found ", NumLabels(json)));
  WB_RETURN_IF_ERROR(fields.status());
  WB_RETURN_IF_ERROR(ReadRotary(json, file, &spec));
  WB_ASSIGN_OR_RETURN(spec.eos_token_ids, TokenIds(json, file, "eos_token_id"));
  WB_ASSIGN_OR_RETURN(const std::vector<int32_t> bos, TokenIds(json, file, "bos_token_id"));
  if (!bos.empty()) spec.bos_token_id = bos[0];

  const std::string generation = absl::StrCat(folder, "/generation_config.json");
  const absl::StatusOr<Json> generation_json = ReadJsonObject(generation);
  if (generation_json.ok()) {
    WB_ASSIGN_OR_RETURN(const std::vector<int32_t> eos,
                        TokenIds(*generation_json, generation, "eos_token_id"));
    if (!eos.empty()) spec.eos_token_ids = eos;
  } else if (!absl::IsNotFound(generation_json.status())) {
    return generation_json.status();
  }
  return spec;
}

absl::string_view ProjectionName(Projection projection) {
  constexpr const char* kNames[] = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                    "gate_proj", "up_proj", "down_proj"};
  return kNames[static_cast<int>(projection)];
}

absl::string_view ProjectionModule(Projection projection) {
  constexpr const char* kModules[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                      "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                      "mlp.down_proj"};
  return kModules[static_cast<int>(projection)];
}

int64_t ProjectionInputs(const ModelSpec& spec, Projection projection) {
  if (projection == Projection::kO) return spec.num_heads * spec.head_dim;
  return projection == Projection::kDown ? spec.ffn : spec.hidden;
}

int64_t ProjectionOutputs(const ModelSpec& spec, Projection projection) {
  switch (projection) {
    case Projection::kQ:
      return spec.num_heads * spec.head_dim;
    case Projection::kK:
    case Projection::kV:
      return spec.num_kv_heads * spec.head_dim;
    case Projection::kGate:
    case Projection::kUp:
      return spec.ffn;
    default:
      return spec.hidden;
  }
}

}  // namespace wideberth::model
