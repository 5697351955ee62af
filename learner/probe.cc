// SPDX-License-Identifier: Apache-2.0
#include "learner/probe.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/catch_torch.h"
#include "model/logprobs.h"

namespace wideberth::learner {
namespace {

constexpr int64_t kPassTokens = 4096;  // Of one forward pass.
constexpr size_t kKeptMeans = 64;
// How many times better another policy explains a group that is refused for it.
constexpr double kBetter = 4;

}  // namespace

absl::Status Probe::Remember(const transport::AdapterBlob& blob) {
  std::shared_ptr<model::Adapter> adapter;
  WB_RETURN_IF_ERROR(model::CatchTorch("a version to probe with", [&]() -> absl::Status {
    // As an actor reads it.
    WB_ASSIGN_OR_RETURN(adapter, model::Adapter::Unpack(blob.manifest, blob.bytes, model_.spec(),
                                                        model_.dtype(), model_.device()));
    return absl::OkStatus();
  }));
  versions_[blob.manifest.version()] = std::move(adapter);
  while (versions_.size() > options_.num_versions) versions_.erase(versions_.begin());
  return absl::OkStatus();
}

// Another completion for every group, the same one whenever it is looked at.
bool Probe::Choose(const AcceptedGroup& group, Sample* sample) {
  const proto::SubmitGroupRequest& request = group.request;
  const int n = request.completion_size();
  if (n == 0 || request.prompt_token_id().empty()) return false;
  const proto::Completion& completion =
      request.completion(static_cast<int>(request.group_id() % static_cast<uint64_t>(n)));
  int num_tokens = completion.token_id_size();
  sample->version = request.policy_version();
  sample->adapter_off = request.adapter_fingerprint().empty();
  if (!completion.segment().empty()) {
    // Later tokens saw keys and values of the versions before them, which no pass gives again.
    num_tokens = std::min(num_tokens, completion.segment(0).num_tokens());
    sample->version = completion.segment(0).policy_version();
  }
  sample->prompt.assign(request.prompt_token_id().begin(), request.prompt_token_id().end());
  sample->tokens.assign(completion.token_id().begin(), completion.token_id().begin() + num_tokens);
  sample->logprobs.assign(completion.logprob().begin(), completion.logprob().begin() + num_tokens);
  return num_tokens > 0;
}

std::vector<Probe::Difference> Probe::Compare(const std::vector<const Sample*>& samples,
                                              const model::Adapter* adapter) const {
  const c10::InferenceMode inference;
  model::GroupTree trees;
  for (const Sample* sample : samples) model::AddGroup(sample->prompt, {sample->tokens}, &trees);
  model::ForwardOptions forward;
  forward.adapter = adapter;
  const at::Tensor logprobs =
      model::LogProbsOfTokens(model_.Hidden(trees.tree, forward), model_.HeadOf(adapter),
                              trees.rows, trees.targets,
                              options_.temperature > 0 ? options_.temperature : 1.0)
          .logprob.to(at::kCPU, at::kDouble)
          .contiguous();
  const double* ours = logprobs.data_ptr<double>();
  std::vector<Difference> found;
  for (const Sample* sample : samples) {
    Difference& difference = found.emplace_back();
    for (size_t i = 0; i < sample->tokens.size(); ++i) {
      const double d = std::abs(*ours++ - static_cast<double>(sample->logprobs[i]));
      difference.mean += d / static_cast<double>(sample->tokens.size());
      if (d <= difference.largest || std::isnan(difference.largest)) continue;
      difference.largest = d;
      difference.token = i;
    }
  }
  return found;
}

// Several times what has been seen between sampler and learner, 5e-6 on average in float32.
Probe::Arithmetic Probe::ArithmeticOf(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble:
      return {1e-9, 1e-6};
    case at::kFloat:
      return {2e-5, 2e-4};
    default:
      return {1e-2, 5e-2};
  }
}

double Probe::UsualMean() const {
  if (means_.size() < 8) return 0;
  std::vector<double> sorted(means_.begin(), means_.end());
  std::nth_element(sorted.begin(), sorted.begin() + sorted.size() / 2, sorted.end());
  return sorted[sorted.size() / 2];
}

// The policy that explains the sample much better than the one it claims; empty: none that is here.
std::string Probe::OtherPolicy(const Sample& sample, double mean) const {
  const auto explains = [&](const model::Adapter* adapter) {
    return Compare({&sample}, adapter)[0].mean * kBetter < mean;
  };
  if (!sample.adapter_off && explains(nullptr)) return "the base without an adapter";
  for (const auto& [version, adapter] : versions_) {
    if ((sample.adapter_off || version != sample.version) && explains(adapter.get()))
      return absl::StrCat("version ", version);
  }
  return "";
}

absl::Status Probe::Judge(const AcceptedGroup& group, const Sample& sample,
                          const Difference& found) {
  const bool within = found.largest <= options_.max_difference && found.mean <= arithmetic_.limit;
  const double usual = UsualMean();
  std::string other;
  // While nothing is known of what is usual, and wherever it is unusual.
  if (found.mean > arithmetic_.noise && (!within || usual == 0 || found.mean > kBetter * usual))
    other = OtherPolicy(sample, found.mean);
  if (within && other.empty()) {
    means_.push_back(found.mean);
    if (means_.size() > kKeptMeans) means_.pop_front();
    return absl::OkStatus();
  }
  const std::string claimed =
      sample.adapter_off ? "the base" : absl::StrCat("version ", sample.version);
  return absl::DataLossError(absl::StrCat(
      group.member, " sampled group ", group.request.group_id(), " with another policy than ",
      claimed, ", which it claims: its log-probs differ by ", found.mean, " on average and ",
      found.largest, " at token ", found.token, ", expected at most ", arithmetic_.limit, " and ",
      options_.max_difference, " (learner.max_logprob_difference)",
      other.empty() ? "" : absl::StrCat("; they are those of ", other)));
}

absl::StatusOr<std::vector<absl::Status>> Probe::Check(const std::vector<AcceptedGroup>& groups) {
  std::vector<absl::Status> verdicts(groups.size());
  std::map<std::pair<bool, uint64_t>, std::vector<Sample>> by_policy;
  for (size_t i = 0; i < groups.size(); ++i) {
    Sample sample;
    sample.group = i;
    if (!Choose(groups[i], &sample)) continue;
    if (!sample.adapter_off && !versions_.contains(sample.version)) continue;
    by_policy[{sample.adapter_off, sample.adapter_off ? 0 : sample.version}].push_back(
        std::move(sample));
  }
  WB_RETURN_IF_ERROR(model::CatchTorch("probing groups", [&]() -> absl::Status {
    for (const auto& [policy, samples] : by_policy) {
      const model::Adapter* const adapter =
          policy.first ? nullptr : versions_.at(policy.second).get();
      for (size_t first = 0; first < samples.size();) {
        std::vector<const Sample*> pass;
        size_t num_tokens = 0;
        for (; first < samples.size() && (pass.empty() || num_tokens < kPassTokens); ++first) {
          pass.push_back(&samples[first]);
          num_tokens += samples[first].prompt.size() + samples[first].tokens.size();
        }
        const std::vector<Difference> found = Compare(pass, adapter);
        for (size_t k = 0; k < pass.size(); ++k) {
          ++num_checked_;
          if (options_.max_difference > 0)
            verdicts[pass[k]->group] = Judge(groups[pass[k]->group], *pass[k], found[k]);
        }
      }
    }
    return absl::OkStatus();
  }));
  return verdicts;
}

}  // namespace wideberth::learner
