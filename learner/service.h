// SPDX-License-Identifier: Apache-2.0
// The learner's side of the wires: what members ask, tell and hand in. Stands between the RPC
// server and lease table, members, journal and pool; every call parses, locks shortly, writes the
// journal where a group is accepted, and returns.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "learner/group_pool.h"
#include "learner/journal.h"
#include "learner/lease_table.h"
#include "learner/members.h"
#include "learner/relay_tree.h"
#include "learner/screening.h"
#include "transport/adapter_shelf.h"
#include "transport/learner_service.h"
#include "transport/weight_broadcast.h"

namespace wideberth::learner {

// Thread-safe. Everything it is given outlives it.
class LearnerService final : public transport::LearnerHandler {
 public:
  struct Parts {
    const proto::RunConfig* config = nullptr;
    std::string run_id;
    int64_t vocab = 0;
    const Clock* clock = nullptr;
    LeaseTable* leases = nullptr;
    Members* members = nullptr;
    Journal* journal = nullptr;
    GroupPool* pool = nullptr;
    transport::AdapterShelf* shelf = nullptr;
    transport::BroadcastCarrier* broadcast = nullptr;  // Null: every version goes by stream.
    LeaseTable::PromptOf prompt_of;
    // The policy's tokenizer; thread-safe.
    std::function<absl::StatusOr<std::vector<int32_t>>(const proto::Prompt&)> encode;
    std::function<std::string(const std::vector<int32_t>&)> decode;
  };
  explicit LearnerService(Parts parts)
      : parts_(std::move(parts)), relays_(parts_.config->learner().adapter_fan_out()) {}

  absl::StatusOr<proto::RegisterResponse> Register(const proto::RegisterRequest& request) override;
  absl::StatusOr<proto::HeartbeatResponse> Heartbeat(
      const proto::HeartbeatRequest& request) override;
  absl::StatusOr<proto::LeasePromptsResponse> LeasePrompts(
      const proto::LeasePromptsRequest& request) override;
  // DataLoss, with the reason, for an actor that is distrusted (Refuse).
  // ACCEPTED is answered only after the group is durable. A journal that cannot be written ends the
  // run: the pool fails with its sentence.
  absl::StatusOr<proto::SubmitGroupResponse> SubmitGroup(
      const proto::SubmitGroupRequest& request) override;
  absl::StatusOr<proto::AcknowledgeAdapterResponse> AcknowledgeAdapter(
      const proto::AcknowledgeAdapterRequest& request) override;
  absl::StatusOr<std::shared_ptr<const transport::AdapterBlob>> NewestAdapter(
      const proto::FetchAdapterRequest& request) override;
  transport::AdapterShelf* shelf() override { return parts_.shelf; }
  bool ComesByBroadcast(const proto::FetchAdapterRequest& request,
                        const transport::AdapterBlob& blob) override {
    return parts_.broadcast != nullptr &&
           parts_.broadcast->Carries(request.weight_generation(), blob);
  }

  // Puts a version on the shelf; from now on groups sampled with it are accepted.
  absl::Status Publish(std::shared_ptr<const transport::AdapterBlob> blob);
  // A version that an earlier process of this run published: groups sampled with it are ours.
  void NoteVersion(uint64_t version, const std::string& fingerprint);
  // Whether the group was sampled with a version of this run as it is known now.
  bool Published(const proto::SubmitGroupRequest& request, Phase phase) const {
    return ForeignPolicy(request, phase).empty();
  }
  // An accepted group turns out to be another policy's: it is leased again, and nothing more is
  // taken from this incarnation of its actor, which is told why when it asks for leases.
  absl::Status Refuse(const AcceptedGroup& group, const absl::Status& why);
  // From now on every answer says that the run ends.
  void Drain() { draining_ = true; }
  // Takes back the leases of members that fell silent.
  void ReapLost();

  // Missing scores of all groups handed in so far, by status.
  MissingScores missing_scores() const;
  // From publication of `version` until the last acknowledgement so far; empty before the first.
  absl::optional<absl::Duration> SyncLatency(uint64_t version) const;

 private:
  struct Version {
    std::string fingerprint;
    absl::Time published_at;
    absl::optional<absl::Time> last_acknowledged;
  };
  // Who passes versions on to the member; left unset where the learner does.
  void NameRelay(const proto::HeartbeatRequest& request, proto::HeartbeatResponse* response);
  void ReturnLeases(const std::string& member_id, const std::string& name, absl::string_view why);
  // The sentence that refuses the group; empty: version and fingerprint are ours.
  std::string ForeignPolicy(const proto::SubmitGroupRequest& request, Phase phase) const;
  std::string ForeignSegment(const proto::SubmitGroupRequest& request) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The same for prompt ids and texts: empty where they are those of the policy's tokenizer.
  std::string ForeignTokens(const proto::SubmitGroupRequest& request, Phase phase) const;
  void Distrust(const std::string& member_id, const std::string& why);
  absl::StatusOr<proto::SubmitGroupResponse> Store(const proto::SubmitGroupRequest& request,
                                                   Phase phase, int attempt);

  const Parts parts_;
  std::atomic<bool> draining_{false};
  Mutex relays_mutex_;
  RelayTree relays_ ABSL_GUARDED_BY(relays_mutex_);
  uint64_t relays_as_of_ ABSL_GUARDED_BY(relays_mutex_) = 0;
  mutable Mutex mutex_;
  std::map<uint64_t, Version> versions_ ABSL_GUARDED_BY(mutex_);
  MissingScores missing_ ABSL_GUARDED_BY(mutex_){};
};

}  // namespace wideberth::learner
