// SPDX-License-Identifier: Apache-2.0
// LoRA weights of one policy version: y = W x + s B A x, kept apart from W. Made by the learner,
// sent over the weight wire, applied by CausalLm in actor and learner alike; without an adapter the
// model is the reference policy. Where all weights are trained it carries a whole set of them
// instead of pairs. Of a trained reward model it carries the score head too. Files are PEFT's.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "model/lm_weights.h"
#include "model/model_spec.h"
#include "proto/config.pb.h"
#include "proto/wire.pb.h"

namespace wideberth::model {

class Adapter {
 public:
  struct Pair {
    at::Tensor a;  // [rank, in]
    at::Tensor b;  // [out, rank]
  };

  // PEFT's initialisation: A uniform in +-1/sqrt(in) (Kaiming, a = sqrt 5) from `seed`, B zero.
  // InvalidArgument for a bad rank or an unknown target. Tensors get the dtype and device given;
  // none requires a gradient yet.
  static absl::StatusOr<std::shared_ptr<Adapter>> Initialize(const ModelSpec& spec,
                                                             const proto::LoraConfig& config,
                                                             uint64_t seed, at::ScalarType dtype,
                                                             at::Device device);
  // No pairs, but a copy of every weight of `base` in the dtype given (PEFT's modules_to_save),
  // through which CausalLm then runs. Throws.
  static std::shared_ptr<Adapter> AllWeights(const ModelSpec& spec, const LmWeights& base,
                                             at::ScalarType dtype);
  // The same tensors without gradients, copied into another dtype. Throws.
  std::shared_ptr<Adapter> CopyAs(at::ScalarType dtype) const;

  // adapter_config.json + adapter_model.safetensors. Errors name file, tensor, found and expected
  // shape.
  static absl::StatusOr<std::shared_ptr<Adapter>> Load(absl::string_view folder,
                                                       const ModelSpec& spec, at::ScalarType dtype,
                                                       at::Device device);
  // Writes both files into `folder` (made if absent), each complete or absent. Loadable by PEFT.
  absl::Status Save(absl::string_view folder, absl::string_view base_model_path) const;

  // The weight wire's form: tensors in NamedTensors order in one buffer of `dtype`. Fills
  // everything of the manifest but run_id, version and base_fingerprint.
  std::string Pack(at::ScalarType dtype, proto::AdapterManifest* manifest) const;
  // InvalidArgument where names, shapes, sizes or rank do not fit the model.
  static absl::StatusOr<std::shared_ptr<Adapter>> Unpack(const proto::AdapterManifest& manifest,
                                                         absl::string_view bytes,
                                                         const ModelSpec& spec,
                                                         at::ScalarType dtype, at::Device device);

  // Null where the adapter is one of LoRA pairs.
  const LmWeights* weights() const { return weights_.has_value() ? &*weights_ : nullptr; }
  // Null where the projection is not a target, and with weights().
  const Pair* Find(int64_t layer, Projection projection) const;
  // s: alpha / r, or alpha / sqrt(r) with rslora.
  double scaling() const;
  const proto::LoraConfig& config() const { return config_; }
  // [1, H], which stands in place of CausalLm::head(); undefined where there is none. PEFT's
  // modules_to_save ["score"].
  const at::Tensor& score_head() const { return score_head_; }
  // InvalidArgument for another shape. Takes the place of an lm_head among weights().
  absl::Status SetScoreHead(at::Tensor head);
  // PEFT names without "base_model.model.", e.g. "model.layers.0.self_attn.q_proj.lora_A.weight";
  // layer-major, then projection, A before B; or LmWeights::Places; "score.weight" last.
  std::vector<std::pair<std::string, at::Tensor>> NamedTensors() const;
  std::vector<at::Tensor> Parameters() const;
  std::vector<at::Tensor> LayerParameters(int64_t layer) const;

 private:
  using Slot = std::pair<std::string, at::Tensor*>;
  Adapter(proto::LoraConfig config, const ModelSpec& spec)
      : config_(std::move(config)), hidden_(spec.hidden), layers_(spec.num_layers) {}
  static absl::StatusOr<std::shared_ptr<Adapter>> Shaped(const ModelSpec& spec,
                                                         const proto::LoraConfig& config,
                                                         bool all_weights);
  std::vector<Slot> Slots();

  proto::LoraConfig config_;
  int64_t hidden_;
  at::Tensor score_head_;
  absl::optional<LmWeights> weights_;
  std::vector<std::array<Pair, kNumProjections>> layers_;
};

}  // namespace wideberth::model
