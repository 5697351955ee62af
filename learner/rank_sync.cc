// SPDX-License-Identifier: Apache-2.0
#include "learner/rank_sync.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace wideberth::learner {

absl::Status AllReduceSum(transport::Collective& ranks, absl::string_view operation,
                          const at::Tensor& flat) {
  if (ranks.world_size() == 1) return absl::OkStatus();
  TORCH_CHECK(flat.is_contiguous() && flat.dim() == 1, "a buffer to sum is not flat");
  TORCH_CHECK(flat.scalar_type() == at::kFloat || flat.scalar_type() == at::kDouble,
              "a buffer to sum is ", flat.scalar_type());
  const at::NoGradGuard no_grad;
  const bool in_place = flat.is_cpu() || ranks.on_device();
  const at::Tensor buffer = in_place ? flat : flat.cpu();
  transport::FlatBuffer numbers;
  numbers.data = buffer.data_ptr();
  numbers.num_values = buffer.numel();
  numbers.dtype = buffer.scalar_type() == at::kDouble ? proto::FLOAT64 : proto::FLOAT32;
  WB_RETURN_IF_ERROR(ranks.AllReduceSum(operation, numbers));
  if (!in_place) flat.copy_(buffer);
  return absl::OkStatus();
}

absl::StatusOr<at::Tensor> AllGatherValues(transport::Collective& ranks,
                                           absl::string_view operation, const at::Tensor& mine) {
  const at::Tensor values = mine.detach().to(at::kCPU, at::kDouble).contiguous();
  WB_ASSIGN_OR_RETURN(
      const std::vector<std::string> all,
      ranks.AllGather(operation, std::string(static_cast<const char*>(values.data_ptr()),
                                             values.numel() * sizeof(double))));
  std::string joined;
  for (const std::string& one : all) joined += one;
  at::Tensor result =
      at::empty({static_cast<int64_t>(joined.size() / sizeof(double))}, at::kDouble);
  std::copy(joined.begin(), joined.end(), static_cast<char*>(result.data_ptr()));
  return result;
}

absl::StatusOr<std::vector<proto::RankFindings>> AllGatherFindings(
    transport::Collective& ranks, absl::string_view operation, const proto::RankFindings& mine) {
  if (ranks.world_size() == 1) return std::vector<proto::RankFindings>{mine};
  WB_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                      ranks.AllGather(operation, mine.SerializeAsString()));
  std::vector<proto::RankFindings> findings(all.size());
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (!findings[rank].ParseFromString(all[rank])) {
      return absl::DataLossError(
          absl::StrCat(operation, ": what rank ", rank, " sent is no RankFindings"));
    }
  }
  return findings;
}

absl::Status ShareState(transport::Collective& ranks, TrainedAdapter& adapter, AdamW& optimizer) {
  if (ranks.world_size() == 1) return absl::OkStatus();
  const at::NoGradGuard no_grad;
  WB_ASSIGN_OR_RETURN(
      const std::vector<std::string> counts,
      ranks.AllGather("optimiser step count at the start", absl::StrCat(optimizer.num_steps())));
  int64_t num_steps = 0;
  if (!absl::SimpleAtoi(counts[0], &num_steps))
    return absl::DataLossError(absl::StrCat("rank 0's step count is \"", counts[0], "\""));
  std::vector<at::Tensor> tensors = adapter.master().Parameters();
  const auto state = optimizer.NamedState();
  for (const auto& [name, tensor] : state) tensors.push_back(tensor);
  std::vector<at::Tensor> rows;
  for (const at::Tensor& tensor : tensors) rows.push_back(tensor.detach().reshape({-1}));
  // As whole numbers of bytes' worth: -0 + 0 would be 0, and rank 0's own must stay as they are.
  const at::Tensor mine = at::cat(rows).contiguous();
  at::Tensor sum = ranks.rank() == 0 ? mine.clone() : at::zeros_like(mine);
  WB_RETURN_IF_ERROR(AllReduceSum(ranks, "adapter and optimiser at the start", sum));
  int64_t offset = 0;
  for (at::Tensor& tensor : tensors) {
    if (ranks.rank() != 0) tensor.copy_(sum.narrow(0, offset, tensor.numel()).view(tensor.sizes()));
    offset += tensor.numel();
  }
  adapter.Changed();
  return optimizer.Restore(optimizer.NamedState(), num_steps);
}

}  // namespace wideberth::learner
