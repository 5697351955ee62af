// SPDX-License-Identifier: Apache-2.0
#include "learner/trained_adapter.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
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

}  // namespace

at::ScalarType MasterType(const model::CausalLm& model) {
  return model.dtype() == at::kDouble ? at::kDouble : at::kFloat;
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
  std::shared_ptr<model::Adapter> working = master;
  if (model.dtype() != wanted) {
    WB_ASSIGN_OR_RETURN(working,
                        model::Adapter::Initialize(model.spec(), master->config(), /*seed=*/0,
                                                   model.dtype(), model.device()));
    if (master->score_head().defined()) {
      WB_RETURN_IF_ERROR(
          working->SetScoreHead(at::empty_like(master->score_head().detach(), model.dtype())));
    }
  }
  TrainedAdapter trained(std::move(master), std::move(working));
  WB_RETURN_IF_ERROR(model::CatchTorch("preparing to train", [&] {
    trained.Changed();
    if (trained.working_ == trained.master_) return;
    for (at::Tensor& tensor : trained.working_->Parameters()) tensor.set_requires_grad(true);
  }));
  return trained;
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
