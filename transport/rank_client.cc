// SPDX-License-Identifier: Apache-2.0
#include "transport/rank_client.h"

#include <unistd.h>

#include <algorithm>
#include <functional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/mutex.h"
#include "base/status.h"
#include "proto/ranks.grpc.pb.h"
#include "transport/message_limits.h"
#include "transport/rpc.h"

namespace wideberth::transport {
namespace {

// Longer than rank 0 holds a call that has nothing to say.
constexpr absl::Duration kHold = absl::Seconds(3);
constexpr absl::Duration kFirstBackoff = absl::Milliseconds(50);
constexpr absl::Duration kMaxBackoff = absl::Milliseconds(500);

class GrpcRankClient final : public RankClient {
 public:
  GrpcRankClient(absl::string_view address, const Options& options)
      : address_(address),
        options_(options),
        channel_(MakeChannel(address_, options.own, proto::LEARNER, kMaxRankAnswerBytes)),
        stub_(proto::Ranks::NewStub(channel_)),
        rank_timeout_(options.rank_timeout) {}

  ~GrpcRankClient() override { Cancel(); }

  bool WaitForConnected(absl::Time deadline) {
    return channel_->WaitForConnected(absl::ToChronoTime(deadline));
  }

  absl::StatusOr<proto::JoinRankResponse> Join(proto::JoinRankRequest request) override {
    request.set_rank(options_.rank);
    request.set_host(OwnHost());
    request.set_pid(::getpid());
    WB_ASSIGN_OR_RETURN(const auto joined,
                        (Call<proto::JoinRankRequest, proto::JoinRankResponse>(
                            "JoinRank", std::move(request), &proto::Ranks::Stub::JoinRank)));
    MutexLock lock(mutex_);
    run_id_ = joined.run_id();
    rank_timeout_ = absl::Seconds(joined.config().learner().rank_timeout());
    if (!attendance_.joinable() && !calls_.cancelled())
      attendance_ = std::jthread([this] { AttendUntilCancelled(); });
    return joined;
  }

  absl::StatusOr<proto::FetchStepResponse> FetchStep(int64_t done_step) override {
    while (true) {
      proto::FetchStepRequest request;
      request.set_rank(options_.rank);
      request.set_done_step(done_step);
      WB_ASSIGN_OR_RETURN(auto response,
                          (Call<proto::FetchStepRequest, proto::FetchStepResponse>(
                              "FetchStep", request, &proto::Ranks::Stub::FetchStep)));
      if (response.ended() || response.has_work()) return response;
    }
  }

  absl::StatusOr<proto::CombineResponse> Combine(const proto::CombineRequest& part) override {
    proto::CombineRequest request = part;
    return Call<proto::CombineRequest, proto::CombineResponse>(
        absl::StrCat("the ", part.operation()), std::move(request), &proto::Ranks::Stub::Combine);
  }

  void Leave(absl::string_view reason) override {
    proto::LeaveRankRequest request;
    request.set_rank(options_.rank);
    request.set_reason(std::string(reason));
    {
      MutexLock lock(mutex_);
      if (run_id_.empty()) return;  // Rank 0 does not know this rank.
      request.set_run_id(run_id_);
    }
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(2)));
    proto::LeaveRankResponse response;
    // Where it does not arrive, rank 0 notices the silence.
    (void)stub_->LeaveRank(&context, request, &response);
  }

  void Note(absl::string_view state, uint64_t step) override {
    MutexLock lock(mutex_);
    state_ = std::string(state);
    step_ = step;
  }

  void Cancel() override { calls_.Cancel(); }

 private:
  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(absl::string_view what, Request request,
                                grpc::Status (proto::Ranks::Stub::*method)(grpc::ClientContext*,
                                                                           const Request&,
                                                                           Response*)) {
    absl::Duration patience;
    {
      MutexLock lock(mutex_);
      if constexpr (!std::is_same_v<Request, proto::JoinRankRequest>) request.set_run_id(run_id_);
      // Rank 0 gives up on a missing rank first, and says which it is.
      patience = rank_timeout_ + std::max(kHold, rank_timeout_ / 4);
    }
    const absl::Time began = absl::Now();
    absl::optional<absl::Time> unreachable_since;
    Backoff backoff(kFirstBackoff, kMaxBackoff);
    while (true) {
      Response response;
      grpc::ClientContext context;
      context.set_deadline(absl::ToChronoTime(began + patience));
      if (!calls_.Begin(&context)) return Cancelled(what);
      const absl::Status status = FromGrpc((stub_.get()->*method)(&context, request, &response));
      if (calls_.End(&context)) return Cancelled(what);
      if (status.ok()) return response;
      const absl::Time now = absl::Now();
      if (absl::IsDeadlineExceeded(status)) {
        return absl::DeadlineExceededError(
            absl::StrCat("learner rank 0 at ", address_, " did not answer ", what, " within ",
                         absl::FormatDuration(patience), " (learner.rank_timeout)"));
      }
      if (!absl::IsUnavailable(status)) return status;
      if (!unreachable_since.has_value()) unreachable_since = now;
      if (now - *unreachable_since >= options_.unreachable_timeout) {
        return absl::UnavailableError(absl::StrCat(
            "learner rank 0 at ", address_, " could not be reached for ", what, " within ",
            absl::FormatDuration(options_.unreachable_timeout), ": ", status.message()));
      }
      if (!calls_.Pause(backoff.Next())) return Cancelled(what);
    }
  }

  void AttendUntilCancelled() {
    while (true) {
      proto::AttendRequest request;
      {
        MutexLock lock(mutex_);
        request.set_rank(options_.rank);
        request.set_run_id(run_id_);
        request.set_state(state_);
        request.set_step(step_);
      }
      proto::AttendResponse response;
      grpc::ClientContext context;
      context.set_deadline(absl::ToChronoTime(absl::Now() + kHold * 2));
      if (!calls_.Begin(&context)) return;
      const grpc::Status status = stub_->Attend(&context, request, &response);
      if (calls_.End(&context) || IsRefusal(FromGrpc(status))) return;
      if (!status.ok() && !calls_.Pause(kFirstBackoff)) return;
      // Rank 0 may have failed and answer at once.
      if (status.ok() && !calls_.Pause(absl::Milliseconds(10))) return;
    }
  }

  absl::Status Cancelled(absl::string_view what) const {
    return absl::CancelledError(
        absl::StrCat(what, " with rank 0 at ", address_, " was cancelled here"));
  }

  const std::string address_;
  const Options options_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<proto::Ranks::Stub> stub_;
  CallsUnderWay calls_;
  Mutex mutex_;
  std::string run_id_ ABSL_GUARDED_BY(mutex_);
  absl::Duration rank_timeout_ ABSL_GUARDED_BY(mutex_);
  std::string state_ ABSL_GUARDED_BY(mutex_) = "loading";
  uint64_t step_ ABSL_GUARDED_BY(mutex_) = 0;
  std::jthread attendance_;  // Last: joined before anything it uses goes.
};

}  // namespace

std::string OwnHost() {
  const std::string any = PublicAddress("", 0);
  return any.substr(0, any.rfind(':'));
}

absl::StatusOr<std::unique_ptr<RankClient>> RankClient::Connect(absl::string_view address,
                                                                absl::Duration timeout,
                                                                const Options& options) {
  std::string host;
  int port = 0;
  WB_RETURN_IF_ERROR(Annotate(SplitAddress(address, &host, &port), "learner"));
  auto client = std::make_unique<GrpcRankClient>(address, options);
  if (!client->WaitForConnected(absl::Now() + timeout)) {
    return absl::UnavailableError(
        absl::StrCat("learner rank 0 at ", address, " could not be reached within ",
                     absl::FormatDuration(timeout), ": ", WhyUnreachable(host, port, options.own)));
  }
  return client;
}

}  // namespace wideberth::transport
