// SPDX-License-Identifier: Apache-2.0
#include "transport/scorer_service.h"

#include <utility>

#include "base/mutex.h"
#include "base/status.h"
#include "proto/wire.grpc.pb.h"
#include "transport/message_limits.h"
#include "transport/rpc.h"

namespace wideberth::transport {
namespace {

class ScoreCall;

// Joins the handler's `done`, which may come late or from any thread, and the call, which a
// client's cancellation may end first.
class Ending {
 public:
  Ending(ScoreCall* call, proto::ScoreResponse* response) : call_(call), response_(response) {}
  void Finish(absl::StatusOr<proto::ScoreResponse> answer);

 private:
  Mutex mutex_;
  ScoreCall* call_
      ABSL_GUARDED_BY(mutex_);  // Null once finished: the call and its response may be gone.
  proto::ScoreResponse* const response_;
};

class ScoreCall final : public grpc::ServerUnaryReactor {
 public:
  explicit ScoreCall(proto::ScoreResponse* response)
      : ending_(std::make_shared<Ending>(this, response)) {}
  const std::shared_ptr<Ending>& ending() const { return ending_; }
  const std::shared_ptr<std::atomic<bool>>& gone() const { return gone_; }
  void OnCancel() override {
    *gone_ = true;
    ending_->Finish(absl::CancelledError("the call was cancelled"));
  }
  void OnDone() override { delete this; }

 private:
  const std::shared_ptr<Ending> ending_;
  const std::shared_ptr<std::atomic<bool>> gone_ = std::make_shared<std::atomic<bool>>(false);
};

void Ending::Finish(absl::StatusOr<proto::ScoreResponse> answer) {
  ScoreCall* call = nullptr;
  {
    MutexLock lock(mutex_);
    std::swap(call, call_);
  }
  if (call == nullptr) return;
  if (answer.ok()) *response_ = *std::move(answer);
  call->Finish(ToGrpc(answer.status()));
}

class ScorerCalls final : public proto::Scorer::CallbackService {
 public:
  explicit ScorerCalls(ScoreHandler* handler) : handler_(handler) {}

  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext*, const proto::ScoreRequest* request,
                                  proto::ScoreResponse* response) override {
    auto* call = new ScoreCall(response);
    const std::shared_ptr<Ending> ending = call->ending();
    const auto finish = [ending](absl::StatusOr<proto::ScoreResponse> answer) {
      ending->Finish(std::move(answer));
    };
    const absl::Status refused = NoThrow([&, gone = call->gone()]() -> absl::Status {
      WB_RETURN_IF_ERROR(CheckMessage(*request));
      handler_->Score(*request, finish, gone);
      return absl::OkStatus();
    });
    if (!refused.ok()) ending->Finish(refused);
    return call;
  }

 private:
  ScoreHandler* const handler_;
};

class GrpcScorerServer final : public ScorerServer {
 public:
  explicit GrpcScorerServer(ScoreHandler* handler) : calls_(handler) {}
  ~GrpcScorerServer() override { Shutdown(absl::ZeroDuration()); }

  absl::Status Listen(absl::string_view address, const Credentials& own) {
    WB_ASSIGN_OR_RETURN(listening_, transport::Listen(address, {&calls_}, own, kMaxScoreCallBytes));
    return absl::OkStatus();
  }
  std::string address() const override { return listening_.address; }
  void Shutdown(absl::Duration grace) override { listening_.Shutdown(grace); }

 private:
  ScorerCalls calls_;
  ListeningServer listening_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ScorerServer>> ScorerServer::Start(absl::string_view address,
                                                                  ScoreHandler* handler,
                                                                  const Credentials& own) {
  auto server = std::make_unique<GrpcScorerServer>(handler);
  WB_RETURN_IF_ERROR(server->Listen(address, own));
  return server;
}

}  // namespace wideberth::transport
