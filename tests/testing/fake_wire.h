// SPDX-License-Identifier: Apache-2.0
// The wires without a network: a LearnerClient that calls a LearnerHandler in this process, and a
// ScorerClient that answers from a function. Used by the roles' tests.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "transport/learner_client.h"
#include "transport/learner_service.h"
#include "transport/scorer_client.h"

namespace wideberth::testing {

// A handler whose calls are functions; an unset one answers Unimplemented. Thread-safe when its
// functions are.
class FakeLearner : public transport::LearnerHandler {
 public:
  template <typename Request, typename Response>
  using Call = std::function<absl::StatusOr<Response>(const Request&)>;

  Call<proto::RegisterRequest, proto::RegisterResponse> on_register;
  Call<proto::HeartbeatRequest, proto::HeartbeatResponse> on_heartbeat;
  Call<proto::LeasePromptsRequest, proto::LeasePromptsResponse> on_lease;
  Call<proto::SubmitGroupRequest, proto::SubmitGroupResponse> on_submit;
  Call<proto::AcknowledgeAdapterRequest, proto::AcknowledgeAdapterResponse> on_acknowledge;
  Call<proto::FetchAdapterRequest, std::shared_ptr<const transport::AdapterBlob>> on_fetch;

  absl::StatusOr<proto::RegisterResponse> Register(const proto::RegisterRequest& r) override {
    return Answer(on_register, r);
  }
  absl::StatusOr<proto::HeartbeatResponse> Heartbeat(const proto::HeartbeatRequest& r) override {
    return Answer(on_heartbeat, r);
  }
  absl::StatusOr<proto::LeasePromptsResponse> LeasePrompts(
      const proto::LeasePromptsRequest& r) override {
    return Answer(on_lease, r);
  }
  absl::StatusOr<proto::SubmitGroupResponse> SubmitGroup(
      const proto::SubmitGroupRequest& r) override {
    return Answer(on_submit, r);
  }
  absl::StatusOr<proto::AcknowledgeAdapterResponse> AcknowledgeAdapter(
      const proto::AcknowledgeAdapterRequest& r) override {
    return Answer(on_acknowledge, r);
  }
  absl::StatusOr<std::shared_ptr<const transport::AdapterBlob>> NewestAdapter(
      const proto::FetchAdapterRequest& r) override {
    return Answer(on_fetch, r);
  }

 private:
  template <typename Request, typename Response>
  static absl::StatusOr<Response> Answer(const Call<Request, Response>& call,
                                         const Request& request) {
    if (!call) return absl::UnimplementedError("the test gave no answer for this call");
    return call(request);
  }
};

// Calls the handler directly. `Fail` makes every later call end with that status until it is given
// OK. Thread-safe.
class InMemoryLearnerClient final : public transport::LearnerClient {
 public:
  explicit InMemoryLearnerClient(transport::LearnerHandler* handler) : handler_(handler) {}
  void Fail(absl::Status status) {
    MutexLock lock(mutex_);
    if (!cancelled_) failure_ = std::move(status);
  }

  absl::StatusOr<proto::RegisterResponse> Register(const proto::RegisterRequest& request) override {
    if (absl::Status failure = Failure(); !failure.ok()) return failure;
    return handler_->Register(request);
  }
  absl::StatusOr<proto::HeartbeatResponse> Heartbeat(
      const proto::HeartbeatRequest& request) override {
    if (absl::Status failure = Failure(); !failure.ok()) return failure;
    return handler_->Heartbeat(request);
  }
  absl::StatusOr<proto::LeasePromptsResponse> LeasePrompts(
      const proto::LeasePromptsRequest& request) override {
    if (absl::Status failure = Failure(); !failure.ok()) return failure;
    return handler_->LeasePrompts(request);
  }
  absl::StatusOr<proto::SubmitGroupResponse> SubmitGroup(
      const proto::SubmitGroupRequest& request) override {
    if (absl::Status failure = Failure(); !failure.ok()) return failure;
    return handler_->SubmitGroup(request);
  }
  absl::StatusOr<proto::AcknowledgeAdapterResponse> AcknowledgeAdapter(
      const proto::AcknowledgeAdapterRequest& request) override {
    if (absl::Status failure = Failure(); !failure.ok()) return failure;
    return handler_->AcknowledgeAdapter(request);
  }
  absl::StatusOr<std::shared_ptr<const transport::AdapterBlob>> FetchAdapter(
      const proto::FetchAdapterRequest& request) override {
    if (absl::Status failure = Failure(); !failure.ok()) return failure;
    return handler_->NewestAdapter(request);
  }
  void Cancel() override {
    MutexLock lock(mutex_);
    cancelled_ = true;
    failure_ = absl::CancelledError("the client was cancelled");
  }

 private:
  absl::Status Failure() const {
    MutexLock lock(mutex_);
    return failure_;
  }

  transport::LearnerHandler* const handler_;
  mutable Mutex mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

// Answers each item by a function; remembers the endpoints it was told. Thread-safe when the
// function is.
class FakeScorerClient final : public transport::ScorerClient {
 public:
  using Answer = std::function<proto::Score(const proto::ScoreItem&)>;
  explicit FakeScorerClient(Answer answer) : answer_(std::move(answer)) {}

  std::vector<proto::Score> Score(const std::vector<proto::ScoreItem>& items,
                                  absl::Duration) override {
    std::vector<proto::Score> scores;
    scores.reserve(items.size());
    for (const proto::ScoreItem& item : items) scores.push_back(answer_(item));
    return scores;
  }
  void SetEndpoints(const std::vector<Endpoint>& endpoints) override {
    MutexLock lock(mutex_);
    endpoints_.clear();
    for (const Endpoint& endpoint : endpoints) endpoints_.push_back(endpoint.address);
  }
  void Cancel() override {}
  std::vector<std::string> endpoints() const {
    MutexLock lock(mutex_);
    return endpoints_;
  }

  // A SCORED result under `scorer_name`.
  static proto::Score Scored(absl::string_view scorer_name, double value) {
    proto::Score score;
    score.set_scorer_name(std::string(scorer_name));
    score.set_status(proto::SCORED);
    score.set_value(value);
    return score;
  }

 private:
  const Answer answer_;
  mutable Mutex mutex_;
  std::vector<std::string> endpoints_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace wideberth::testing
