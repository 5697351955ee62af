// SPDX-License-Identifier: Apache-2.0
#include "launch/merge.h"

#include <ATen/ATen.h>

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status.h"
#include "launch/flags.h"
#include "model/adapter.h"
#include "model/catch_torch.h"
#include "model/causal_lm.h"
#include "model/runtime.h"
#include "model/safetensors.h"

namespace wideberth::launch {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr char kScoreHead[] = "score.weight";
constexpr const char* kCopied[] = {"tokenizer.json",
                                   "tokenizer_config.json",
                                   "special_tokens_map.json",
                                   "added_tokens.json",
                                   "vocab.json",
                                   "merges.txt",
                                   "tokenizer.model",
                                   "chat_template.jinja",
                                   "chat_template.json",
                                   "generation_config.json"};

struct Merged {
  std::vector<std::pair<std::string, at::Tensor>> tensors;  // Under their Hugging Face names.
  bool is_classifier = false;
  bool added_score_head = false;
};

// The adapter's whole tensor in the weight's place, the weight with its pair, or the weight itself.
at::Tensor MergedTensor(const std::string& name, const at::Tensor& weight,
                        const std::map<std::string, at::Tensor>& trained, double scaling) {
  if (const auto whole = trained.find(name); whole != trained.end()) return whole->second;
  absl::string_view module = name;
  absl::ConsumeSuffix(&module, ".weight");
  const auto a = trained.find(absl::StrCat(module, ".lora_A.weight"));
  if (a == trained.end()) return weight;
  const at::Tensor& b = trained.at(absl::StrCat(module, ".lora_B.weight"));
  return weight.to(at::kDouble).add(at::mm(b, a->second), scaling);
}

// In the dtypes of `files`, or all in `dtype`.
absl::StatusOr<Merged> MergeTensors(const model::CausalLm& base, const model::WeightFiles& files,
                                    const model::Adapter& adapter,
                                    absl::optional<at::ScalarType> dtype) {
  const auto named = adapter.NamedTensors();
  const std::map<std::string, at::Tensor> trained(named.begin(), named.end());
  Merged merged;
  merged.added_score_head = adapter.score_head().defined();
  merged.is_classifier = merged.added_score_head || base.spec().sequence_classification;
  model::LmWeights weights = base.weights();
  if (merged.is_classifier) weights.lm_head.reset();
  const auto add = [&](const std::string& name, const at::Tensor& weight,
                       const std::string& stored_like) -> absl::Status {
    at::ScalarType type = at::kFloat;
    if (dtype.has_value()) {
      type = *dtype;
    } else {
      WB_ASSIGN_OR_RETURN(type, model::ScalarTypeOf(files.tensors().at(stored_like), stored_like));
    }
    const at::Tensor value = MergedTensor(name, weight, trained, adapter.scaling());
    merged.tensors.emplace_back(name, value.to(type).contiguous());
    return absl::OkStatus();
  };
  for (const auto& [name, tensor] : weights.Places()) WB_RETURN_IF_ERROR(add(name, *tensor, name));
  if (merged.is_classifier) WB_RETURN_IF_ERROR(add(kScoreHead, base.head(), model::kEmbeddingName));
  return merged;
}

std::string WeightsFile(const Merged& merged) {
  std::vector<model::TensorToWrite> tensors;
  for (const auto& [name, tensor] : merged.tensors) {
    tensors.push_back({name, model::StoredName(tensor.scalar_type()), tensor.sizes().vec(),
                       absl::string_view(static_cast<const char*>(tensor.data_ptr()),
                                         static_cast<size_t>(tensor.nbytes()))});
  }
  return model::SerializeSafetensors(tensors, {{"format", "pt"}});
}

absl::StatusOr<std::string> ConfigText(const std::string& file, const Merged& merged,
                                       absl::optional<proto::DType> dtype) {
  WB_ASSIGN_OR_RETURN(const std::string text, ReadFile(file));
  WB_RETURN_IF_ERROR(CheckJsonNesting(text, file));
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError(file + ": is not a JSON object");
  if (merged.added_score_head) {
    for (Json& name : json["architectures"]) {
      name = absl::StrReplaceAll(name.get<std::string>(),
                                 {{"ForCausalLM", "ForSequenceClassification"}});
    }
    json["num_labels"] = 1;
    json.erase("id2label");
    json.erase("label2id");
  }
  if (dtype.has_value()) {
    const std::string name = *dtype == proto::BFLOAT16  ? "bfloat16"
                             : *dtype == proto::FLOAT64 ? "float64"
                                                        : "float32";
    json[json.contains("dtype") ? "dtype" : "torch_dtype"] = name;
  }
  return json.dump(2) + "\n";
}

absl::Status CopyWhereThere(const std::string& from, const std::string& to) {
  const absl::StatusOr<std::string> bytes = ReadFile(from);
  if (absl::IsNotFound(bytes.status())) return absl::OkStatus();
  if (!bytes.ok()) return bytes.status();
  return WriteFileAtomically(to, *bytes);
}

absl::Status CheckFree(const std::string& out) {
  std::error_code error;
  if (!fs::exists(out, error) || (fs::is_directory(out, error) && fs::is_empty(out, error)))
    return absl::OkStatus();
  return absl::AlreadyExistsError(
      absl::StrCat(out, " is there already, --out must be a new or an empty folder"));
}

}  // namespace

absl::Status MergeAdapter(const std::string& model, const std::string& adapter, std::string out,
                          absl::optional<proto::DType> dtype) {
  while (out.size() > 1 && out.back() == '/') out.pop_back();
  WB_RETURN_IF_ERROR(CheckFree(out));
  proto::ModelConfig config;
  config.set_path(model);
  WB_ASSIGN_OR_RETURN(const auto files, model::WeightFiles::OpenFolder(model));
  // A dtype that holds every number of the files; where it is theirs, nothing is copied.
  config.set_dtype(proto::BFLOAT16);
  for (const auto& [name, stored] : files->tensors()) {
    if (stored.dtype == "F64") config.set_dtype(proto::FLOAT64);
    if (stored.dtype != "F64" && stored.dtype != "BF16" && config.dtype() != proto::FLOAT64)
      config.set_dtype(proto::FLOAT32);
  }
  WB_ASSIGN_OR_RETURN(const auto base, model::CausalLm::Load(config));
  WB_ASSIGN_OR_RETURN(const auto trained,
                      model::Adapter::Load(adapter, base->spec(), at::kDouble, at::kCPU));
  absl::optional<at::ScalarType> type;
  if (dtype.has_value()) type = model::ScalarTypeOf(*dtype);
  WB_ASSIGN_OR_RETURN(const Merged merged, model::CatchTorch("merging", [&] {
                        return MergeTensors(*base, *files, *trained, type);
                      }));
  WB_ASSIGN_OR_RETURN(const std::string text, ConfigText(model + "/config.json", merged, dtype));

  const std::string partial = out + ".partial";
  std::error_code error;
  fs::remove_all(partial, error);
  const auto write = [&]() -> absl::Status {
    WB_RETURN_IF_ERROR(MakeDirectories(partial));
    WB_RETURN_IF_ERROR(WriteFileAtomically(partial + "/model.safetensors", WeightsFile(merged)));
    WB_RETURN_IF_ERROR(WriteFileAtomically(partial + "/config.json", text));
    for (const char* name : kCopied) {
      WB_RETURN_IF_ERROR(CopyWhereThere(absl::StrCat(model, "/", name),  //
                                        absl::StrCat(partial, "/", name)));
    }
    WB_RETURN_IF_ERROR(
        CopyWhereThere(adapter + "/calibration.json", partial + "/calibration.json"));
    fs::rename(partial, out, error);  // Takes the place of an empty folder, of no other.
    if (!error) return absl::OkStatus();
    return absl::UnavailableError(
        absl::StrCat(out, ": cannot rename into place: ", error.message()));
  };
  const absl::Status written = write();
  if (!written.ok()) fs::remove_all(partial, error);
  return written;
}

absl::Status Merge(const std::vector<std::string>& arguments) {
  std::string model, adapter, out, dtype;
  FlagTable flags("wideberth merge", "--model=DIR --adapter=DIR --out=DIR",
                  "Makes a Hugging Face model folder of a base and an adapter trained on it: LoRA "
                  "pairs are folded into the\nweights, and what was trained as a whole "
                  "(policy.all_weights, a score head) takes its place.");
  flags.AddRequired("model", &model, "the base, a Hugging Face folder");
  flags.AddRequired("adapter", &adapter, "the adapter folder of a run");
  flags.AddRequired("out", &out, "the folder to make");
  flags.Add("dtype", &dtype, "float32, bfloat16 or float64 (default: as the base is stored)");
  WB_ASSIGN_OR_RETURN(const bool go, flags.Parse(arguments));
  if (!go) return absl::OkStatus();
  absl::optional<proto::DType> wanted;
  if (dtype == "float32") wanted = proto::FLOAT32;
  if (dtype == "bfloat16") wanted = proto::BFLOAT16;
  if (dtype == "float64") wanted = proto::FLOAT64;
  if (!dtype.empty() && !wanted.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--dtype is \"", dtype, "\", expected float32, bfloat16 or float64"));
  }
  model::ConfigureRuntime(/*num_threads=*/1);
  return MergeAdapter(model, adapter, std::move(out), wanted);
}

}  // namespace wideberth::launch
