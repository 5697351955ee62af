// SPDX-License-Identifier: Apache-2.0
#include "learner/trained_adapter.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "model/catch_torch.h"

namespace wideberth::learner {
namespace {

void CopyInto(const model::Adapter& from, const model::Adapter& to) {
  const at::NoGradGuard no_grad;
  const std::vector<at::Tensor> values = from.Parameters();
  const std::vector<at::Tensor> places = to.Parameters();
  for (size_t i = 0; i < places.size(); ++i) places[i].copy_(values[i]);
}

std::vector<std::string> ShapesOf(const model::Adapter& adapter) {
  std::vector<std::string> shapes;
  for (const auto& [name, tensor] : adapter.NamedTensors()) {
    if (tensor.is_same(adapter.score_head())) continue;
    shapes.push_back(absl::StrCat(name, " [", absl::StrJoin(tensor.sizes(), ", "), "]"));
  }
  return shapes;
}

// In the base's dtype: `adapter` itself where it has that, else a copy.
absl::StatusOr<std::shared_ptr<model::Adapter>> InBaseType(
    const model::CausalLm& model, std::shared_ptr<model::Adapter> adapter) {
  if (model.dtype() == MasterType(model)) return adapter;
  return model::CatchTorch("narrowing an adapter", [&] { return adapter->CopyAs(model.dtype()); });
}

}  // namespace

at::ScalarType MasterType(const model::CausalLm& model) {
  return model.dtype() == at::kDouble ? at::kDouble : at::kFloat;
}

absl::Status CheckSameShape(absl::string_view path, const model::Adapter& found,
                            const model::Adapter& wanted) {
  if (found.weights() != nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat(path,
                     ": holds all weights of a model, expected LoRA pairs; `wideberth merge` "
                     "makes a model folder of it"));
  }
  const proto::LoraConfig& have = found.config();
  const proto::LoraConfig& want = wanted.config();
  if (have.rank() != want.rank()) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": is of LoRA rank ", have.rank(),
                                                      ", policy.lora.rank is ", want.rank()));
  }
  if (have.alpha() != want.alpha()) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": has alpha ", have.alpha(), ", policy.lora.alpha is ", want.alpha()));
  }
  if (have.rslora() != want.rslora()) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": is ", have.rslora() ? "" : "not ",
                                                      "scaled by rslora, policy.lora.rslora is ",
                                                      want.rslora() ? "true" : "false"));
  }
  const std::vector<std::string> has = ShapesOf(found), expects = ShapesOf(wanted);
  if (has == expects) return absl::OkStatus();
  size_t i = 0;
  while (i < has.size() && i < expects.size() && has[i] == expects[i]) ++i;
  return absl::FailedPreconditionError(absl::StrCat(
      path, ": is of another set of targets, with ", has.size(), " tensors (",
      i < has.size() ? has[i] : "nothing", " at place ", i, "), policy.lora.target expects ",
      expects.size(), " (", i < expects.size() ? expects[i] : "nothing", " there)"));
}

absl::StatusOr<StartingPoint> MakeStartingPoint(const model::CausalLm& model,
                                                const proto::PolicyConfig& policy, uint64_t seed) {
  StartingPoint start;
  if (policy.all_weights()) {
    WB_ASSIGN_OR_RETURN(start.adapter, model::CatchTorch("copying the model's weights", [&] {
                          return model::Adapter::AllWeights(model.spec(), model.weights(),
                                                            MasterType(model));
                        }));
    return start;
  }
  WB_ASSIGN_OR_RETURN(start.adapter, model::Adapter::Initialize(model.spec(), policy.lora(), seed,
                                                                MasterType(model), model.device()));
  if (!policy.has_adapter()) return start;
  WB_ASSIGN_OR_RETURN(
      const std::shared_ptr<model::Adapter> trained,
      model::Adapter::Load(policy.adapter(), model.spec(), MasterType(model), model.device()));
  WB_RETURN_IF_ERROR(CheckSameShape(policy.adapter(), *trained, *start.adapter));
  if (trained->score_head().defined())
    WB_RETURN_IF_ERROR(start.adapter->SetScoreHead(at::empty_like(trained->score_head())));
  WB_ASSIGN_OR_RETURN(start.reference, InBaseType(model, trained));
  return model::CatchTorch(policy.adapter(), [&] {
    CopyInto(*trained, *start.adapter);
    proto::AdapterManifest manifest;
    (void)trained->Pack(MasterType(model), &manifest);
    start.fingerprint = manifest.fingerprint();
    return start;
  });
}

absl::Status HasAScoreHead(const proto::RunConfig& config) {
  return absl::FailedPreconditionError(
      absl::StrCat(config.policy().adapter(), ": has a score head, which learner.task ",
                   proto::Task_Name(config.learner().task()), " does not train"));
}

uint64_t DropoutSeed(uint64_t seed, int64_t update, int64_t pass) {
  uint64_t x = seed;
  for (const uint64_t next : {static_cast<uint64_t>(update), static_cast<uint64_t>(pass)}) {
    x = (x + 0x9E3779B97F4A7C15u) ^ (next * 0xD1B54A32D192ED03u);
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    x ^= x >> 31;
  }
  return x;
}

absl::StatusOr<TrainedAdapter> TrainedAdapter::Create(const model::CausalLm& model,
                                                      std::shared_ptr<model::Adapter> master) {
  const at::ScalarType wanted = MasterType(model);
  for (const auto& [name, tensor] : master->NamedTensors()) {
    if (tensor.scalar_type() == wanted && tensor.device() == model.device()) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "adapter tensor ", name, " is ", c10::toString(tensor.scalar_type()), " on ",
        tensor.device().str(), ", expected ", c10::toString(wanted), " on ", model.device().str()));
  }
  WB_ASSIGN_OR_RETURN(std::shared_ptr<model::Adapter> working, InBaseType(model, master));
  if (working != master) {
    for (at::Tensor& tensor : working->Parameters()) tensor.set_requires_grad(true);
  }
  return TrainedAdapter(std::move(master), std::move(working));
}

void TrainedAdapter::Changed() {
  if (working_ != master_) CopyInto(*master_, *working_);
}

void TrainedAdapter::Backward(const at::Tensor& loss) {
  loss.backward();
  if (working_ == master_) return;
  const std::vector<at::Tensor> masters = master_->Parameters();
  const std::vector<at::Tensor> copies = working_->Parameters();
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < masters.size(); ++i) {
    const at::Tensor& gradient = copies[i].grad();
    if (!gradient.defined()) continue;
    masters[i].mutable_grad().add_(gradient);
    copies[i].mutable_grad().reset();
  }
}

absl::Status TrainedAdapter::Overwrite(const model::Adapter& other) {
  return model::CatchTorch("taking over an adapter", [&] {
    CopyInto(other, *master_);
    Changed();
  });
}

}  // namespace wideberth::learner
