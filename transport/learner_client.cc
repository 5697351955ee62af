// SPDX-License-Identifier: Apache-2.0
#include "transport/learner_client.h"

#include <algorithm>
#include <functional>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "base/status.h"
#include "proto/wire.grpc.pb.h"
#include "transport/adapter_fetch.h"
#include "transport/message_limits.h"
#include "transport/rpc.h"

namespace wideberth::transport {
namespace {

// So many streams in a row without a new good byte, and the fault is not the connection's.
constexpr int kMaxFruitlessStreams = 3;

class GrpcLearnerClient final : public LearnerClient {
 public:
  GrpcLearnerClient(absl::string_view address, const Options& options)
      : peer_(absl::StrCat("learner rank 0 at ", address)),
        options_(options),
        channel_(
            MakeChannel(std::string(address), options.own, proto::LEARNER, kMaxLearnerAnswerBytes)),
        stub_(proto::Learner::NewStub(channel_)),
        adapters_(proto::Adapters::NewStub(channel_)) {}

  bool WaitForConnected(absl::Time deadline) {
    return channel_->WaitForConnected(absl::ToChronoTime(deadline));
  }

  absl::StatusOr<proto::RegisterResponse> Register(const proto::RegisterRequest& request) override {
    return Unary<proto::RegisterResponse>("Register", request, &proto::Learner::Stub::Register);
  }
  absl::StatusOr<proto::HeartbeatResponse> Heartbeat(
      const proto::HeartbeatRequest& request) override {
    return Unary<proto::HeartbeatResponse>("Heartbeat", request, &proto::Learner::Stub::Heartbeat,
                                           options_.heartbeat_timeout);
  }
  absl::StatusOr<proto::LeasePromptsResponse> LeasePrompts(
      const proto::LeasePromptsRequest& request) override {
    return Unary<proto::LeasePromptsResponse>("LeasePrompts", request,
                                              &proto::Learner::Stub::LeasePrompts);
  }
  absl::StatusOr<proto::SubmitGroupResponse> SubmitGroup(
      const proto::SubmitGroupRequest& request) override {
    return Unary<proto::SubmitGroupResponse>("SubmitGroup", request,
                                             &proto::Learner::Stub::SubmitGroup);
  }
  absl::StatusOr<proto::AcknowledgeAdapterResponse> AcknowledgeAdapter(
      const proto::AcknowledgeAdapterRequest& request) override {
    return Unary<proto::AcknowledgeAdapterResponse>("AcknowledgeAdapter", request,
                                                    &proto::Learner::Stub::AcknowledgeAdapter);
  }

  absl::StatusOr<std::shared_ptr<const AdapterBlob>> FetchAdapter(
      const proto::FetchAdapterRequest& request) override {
    BlobAssembly assembly;
    int num_fruitless = 0;
    std::shared_ptr<const AdapterBlob> blob;
    const auto stream = [&](grpc::ClientContext* context) -> absl::Status {
      const uint64_t before = assembly.num_bytes();
      auto fetched = FetchStream(
          adapters_.get(), context, request,
          [](const proto::AdapterManifest&) { return absl::OkStatus(); }, &assembly);
      if (fetched.ok()) {
        blob = *std::move(fetched);
        return absl::OkStatus();
      }
      num_fruitless = assembly.num_bytes() > before ? 0 : num_fruitless + 1;
      const bool goes_on =
          absl::IsDeadlineExceeded(fetched.status()) ||
          (absl::IsDataLoss(fetched.status()) && num_fruitless < kMaxFruitlessStreams);
      return goes_on ? absl::UnavailableError(fetched.status().message()) : fetched.status();
    };
    WB_RETURN_IF_ERROR(
        Retry("FetchAdapter", options_.fetch_timeout, options_.stream_timeout, stream));
    return blob;
  }

  void Cancel() override { calls_.Cancel(); }

 private:
  template <typename Response, typename Request>
  absl::StatusOr<Response> Unary(absl::string_view call, const Request& request,
                                 grpc::Status (proto::Learner::Stub::*method)(grpc::ClientContext*,
                                                                              const Request&,
                                                                              Response*)) {
    return Unary<Response>(call, request, method, options_.call_timeout);
  }
  template <typename Response, typename Request>
  absl::StatusOr<Response> Unary(absl::string_view call, const Request& request,
                                 grpc::Status (proto::Learner::Stub::*method)(grpc::ClientContext*,
                                                                              const Request&,
                                                                              Response*),
                                 absl::Duration timeout) {
    if (request.ByteSizeLong() > kMaxLearnerCallBytes) {
      return absl::InvalidArgumentError(absl::StrCat(call, " to the ", peer_, " has ",
                                                     request.ByteSizeLong(), " bytes, at most ",
                                                     kMaxLearnerCallBytes, " are taken"));
    }
    Response response;
    WB_RETURN_IF_ERROR(
        Retry(call, timeout, absl::InfiniteDuration(), [&](grpc::ClientContext* context) {
          response.Clear();
          return FromGrpc((stub_.get()->*method)(context, request, &response));
        }));
    WB_RETURN_IF_ERROR(Annotate(CheckMessage(response), peer_));
    return response;
  }

  // Attempts, each at most `attempt_timeout`, until one succeeds, fails for another reason than the
  // connection, or the time is over.
  absl::Status Retry(absl::string_view call, absl::Duration timeout, absl::Duration attempt_timeout,
                     const std::function<absl::Status(grpc::ClientContext*)>& attempt) {
    const absl::Time deadline = absl::Now() + timeout;
    Backoff backoff(options_.first_backoff, options_.max_backoff);
    absl::Status unreachable;  // Why the latest attempt that reached nobody did not.
    while (true) {
      grpc::ClientContext context;
      context.set_deadline(absl::ToChronoTime(std::min(deadline, absl::Now() + attempt_timeout)));
      if (!calls_.Begin(&context)) return Cancelled(call);
      const absl::Status status = attempt(&context);
      const bool cancelled = calls_.End(&context);
      if (status.ok()) return status;
      if (cancelled) return Cancelled(call);
      if (absl::IsDeadlineExceeded(status) && unreachable.ok()) {
        return absl::DeadlineExceededError(absl::StrCat(peer_, " did not answer ", call, " within ",
                                                        absl::FormatDuration(timeout)));
      }
      if (absl::IsUnavailable(status)) {
        unreachable = status;
      } else if (!absl::IsDeadlineExceeded(status)) {
        return status;
      }
      const absl::Duration delay = backoff.Next();
      if (absl::IsDeadlineExceeded(status) || absl::Now() + delay >= deadline) {
        return absl::UnavailableError(absl::StrCat(peer_, " could not be reached for ", call,
                                                   " within ", absl::FormatDuration(timeout), ": ",
                                                   unreachable.message()));
      }
      if (!calls_.Pause(delay)) return Cancelled(call);
    }
  }

  absl::Status Cancelled(absl::string_view call) const {
    return absl::CancelledError(absl::StrCat(call, " to the ", peer_, " was cancelled here"));
  }

  const std::string peer_;  // For messages.
  const Options options_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<proto::Learner::Stub> stub_;
  const std::unique_ptr<proto::Adapters::Stub> adapters_;
  CallsUnderWay calls_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LearnerClient>> LearnerClient::Connect(absl::string_view address,
                                                                      absl::Duration timeout,
                                                                      const Options& options) {
  std::string host;
  int port = 0;
  WB_RETURN_IF_ERROR(Annotate(SplitAddress(address, &host, &port), "learner"));
  auto client = std::make_unique<GrpcLearnerClient>(address, options);
  if (!client->WaitForConnected(absl::Now() + timeout)) {
    return absl::UnavailableError(
        absl::StrCat("learner rank 0 at ", address, " could not be reached within ",
                     absl::FormatDuration(timeout), ": ", WhyUnreachable(host, port, options.own)));
  }
  return client;
}

absl::StatusOr<std::unique_ptr<LearnerClient>> LearnerClient::Connect(absl::string_view address,
                                                                      absl::Duration timeout) {
  return Connect(address, timeout, Options());
}

}  // namespace wideberth::transport
