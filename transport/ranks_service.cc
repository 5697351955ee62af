// SPDX-License-Identifier: Apache-2.0
#include "transport/ranks_service.h"

#include <functional>
#include <utility>

#include "base/mutex.h"
#include "base/status.h"
#include "proto/ranks.grpc.pb.h"
#include "transport/message_limits.h"

namespace wideberth::transport {
namespace {

// A call that is answered later, once: by the hub or, when the caller goes away, by itself. The
// hub's answer may come after that and then does nothing. Deletes itself.
template <typename Response>
class HeldCall final : public grpc::ServerUnaryReactor {
 public:
  HeldCall(Response* response, std::function<void()> gone)
      : response_(response), gone_(std::move(gone)), link_(std::make_shared<Link>()) {
    link_->call = this;
  }

  RankHub::Answer<Response> answer() {
    return [link = link_](absl::StatusOr<Response> result) {
      MutexLock lock(link->mutex);
      if (link->call == nullptr) return;
      HeldCall* const call = std::exchange(link->call, nullptr);
      if (result.ok()) *call->response_ = *std::move(result);
      call->Finish(ToGrpc(result.status()));
    };
  }

  void OnCancel() override {
    MutexLock lock(link_->mutex);
    if (link_->call == nullptr) return;
    link_->call = nullptr;
    if (gone_ != nullptr) gone_();
    Finish(grpc::Status::CANCELLED);
  }
  void OnDone() override { delete this; }

 private:
  struct Link {
    Mutex mutex;
    HeldCall* call ABSL_GUARDED_BY(mutex) = nullptr;
  };
  Response* const response_;
  const std::function<void()> gone_;
  const std::shared_ptr<Link> link_;
};

class RankCalls final : public proto::Ranks::CallbackService {
 public:
  explicit RankCalls(RankHub* hub) : hub_(hub) {}

  grpc::ServerUnaryReactor* JoinRank(grpc::CallbackServerContext* context,
                                     const proto::JoinRankRequest* request,
                                     proto::JoinRankResponse* response) override {
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    absl::StatusOr<proto::JoinRankResponse> answer =
        NoThrow([&]() -> absl::StatusOr<proto::JoinRankResponse> {
          WB_RETURN_IF_ERROR(CheckMessage(*request));
          return hub_->Join(*request);
        });
    if (answer.ok()) *response = *std::move(answer);
    reactor->Finish(ToGrpc(answer.status()));
    return reactor;
  }
  grpc::ServerUnaryReactor* LeaveRank(grpc::CallbackServerContext* context,
                                      const proto::LeaveRankRequest* request,
                                      proto::LeaveRankResponse*) override {
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    reactor->Finish(ToGrpc(NoThrow([&]() -> absl::Status {
      WB_RETURN_IF_ERROR(CheckMessage(*request));
      return hub_->Leave(*request);
    })));
    return reactor;
  }
  grpc::ServerUnaryReactor* Attend(grpc::CallbackServerContext*,
                                   const proto::AttendRequest* request,
                                   proto::AttendResponse* response) override {
    auto* const call = new HeldCall<proto::AttendResponse>(
        response, [hub = hub_, rank = request->rank()] { hub->HungUp(rank); });
    return Hold(call, *request, [&] { hub_->Attend(*request, call->answer()); });
  }
  grpc::ServerUnaryReactor* FetchStep(grpc::CallbackServerContext*,
                                      const proto::FetchStepRequest* request,
                                      proto::FetchStepResponse* response) override {
    auto* const call = new HeldCall<proto::FetchStepResponse>(response, nullptr);
    return Hold(call, *request, [&] { hub_->FetchStep(*request, call->answer()); });
  }
  grpc::ServerUnaryReactor* Combine(grpc::CallbackServerContext*,
                                    const proto::CombineRequest* request,
                                    proto::CombineResponse* response) override {
    auto* const call = new HeldCall<proto::CombineResponse>(response, nullptr);
    return Hold(call, *request, [&] { hub_->Contribute(*request, call->answer()); });
  }

 private:
  template <typename Call, typename Request, typename Function>
  static Call* Hold(Call* call, const Request& request, Function give_to_hub) {
    if (const absl::Status checked = CheckMessage(request); !checked.ok()) {
      call->answer()(checked);
    } else {
      give_to_hub();
    }
    return call;
  }

  RankHub* const hub_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeRanksService(RankHub* hub) {
  return std::make_unique<RankCalls>(hub);
}

}  // namespace wideberth::transport
