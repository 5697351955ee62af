// SPDX-License-Identifier: Apache-2.0
#include "scorer/adapted_lm.h"

#include <ATen/ATen.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/status.h"
#include "model/catch_torch.h"

namespace wideberth::scorer {
namespace {

absl::Status AddAdapter(const proto::ScorerConfig& config, AdaptedLm* model) {
  const std::string& folder = config.adapter();
  WB_RETURN_IF_ERROR(model::CatchTorch(absl::StrCat("adapter ", folder), [&]() -> absl::Status {
    WB_ASSIGN_OR_RETURN(
        model->adapter,
        model::Adapter::Load(folder, model->lm->spec(), model->lm->dtype(), model->lm->device()));
    return absl::OkStatus();
  }));
  std::string description = model->lm->fingerprint();
  for (const char* name : {"adapter_config.json", "adapter_model.safetensors"}) {
    WB_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(absl::StrCat(folder, "/", name)));
    absl::StrAppend(&description, "\n", Fingerprint(bytes));
  }
  if (config.kind() == proto::ScorerConfig::VERDICT) {
    WB_ASSIGN_OR_RETURN(model->calibration, LoadCalibration(folder));
    absl::StrAppend(&description, "\n", Fingerprint(model->calibration.text));
  }
  model->fingerprint = Fingerprint(description);
  return absl::OkStatus();
}

// Of a guard that was merged into a model folder.
absl::Status AddCalibration(const proto::ScorerConfig& config, AdaptedLm* model) {
  if (config.kind() != proto::ScorerConfig::VERDICT) return absl::OkStatus();
  WB_ASSIGN_OR_RETURN(model->calibration, LoadCalibration(config.model().path()));
  if (!model->calibration.text.empty()) {
    model->fingerprint =
        Fingerprint(absl::StrCat(model->fingerprint, "\n", Fingerprint(model->calibration.text)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<AdaptedLm> LoadAdaptedLm(const proto::ScorerConfig& config) {
  const std::string who = absl::StrCat("scorer \"", config.name(), "\"");
  AdaptedLm model;
  absl::StatusOr<std::unique_ptr<model::CausalLm>> lm = model::CausalLm::Load(config.model());
  WB_RETURN_IF_ERROR(Annotate(lm.status(), who));
  model.lm = *std::move(lm);
  model.fingerprint = model.lm->fingerprint();
  WB_RETURN_IF_ERROR(Annotate(
      config.adapter().empty() ? AddCalibration(config, &model) : AddAdapter(config, &model), who));
  return model;
}

model::KvPrefix Prefill(const AdaptedLm& model, const std::vector<int32_t>& tokens) {
  model::TokenTree tree;
  tree.Add(tokens);
  std::vector<model::KvPrefix> kv;
  model::ForwardOptions options;
  options.adapter = model.adapter.get();
  options.root_kv = &kv;
  model.lm->Hidden(tree, options);
  return std::move(kv.at(0));
}

}  // namespace wideberth::scorer
