// SPDX-License-Identifier: Apache-2.0
#include "transport/learner_service.h"

#include <optional>
#include <utility>

#include "base/status.h"
#include "proto/wire.grpc.pb.h"
#include "transport/adapter_stream.h"
#include "transport/call_gate.h"
#include "transport/message_limits.h"
#include "transport/ranks_service.h"
#include "transport/rpc.h"

namespace wideberth::transport {
namespace {

class LearnerCalls final : public proto::Learner::CallbackService {
 public:
  explicit LearnerCalls(LearnerHandler* handler) : handler_(handler) {}

  grpc::ServerUnaryReactor* Register(grpc::CallbackServerContext* context,
                                     const proto::RegisterRequest* request,
                                     proto::RegisterResponse* response) override {
    return Answer(context, *request, response, [&]() -> absl::StatusOr<proto::RegisterResponse> {
      WB_RETURN_IF_ERROR(CheckRole(*context->auth_context(), *request));
      return handler_->Register(*request);
    });
  }
  grpc::ServerUnaryReactor* Heartbeat(grpc::CallbackServerContext* context,
                                      const proto::HeartbeatRequest* request,
                                      proto::HeartbeatResponse* response) override {
    return Answer(context, *request, response, [&] { return handler_->Heartbeat(*request); });
  }
  grpc::ServerUnaryReactor* LeasePrompts(grpc::CallbackServerContext* context,
                                         const proto::LeasePromptsRequest* request,
                                         proto::LeasePromptsResponse* response) override {
    return Answer(context, *request, response, [&] { return handler_->LeasePrompts(*request); });
  }
  grpc::ServerUnaryReactor* SubmitGroup(grpc::CallbackServerContext* context,
                                        const proto::SubmitGroupRequest* request,
                                        proto::SubmitGroupResponse* response) override {
    return Answer(context, *request, response, [&] { return handler_->SubmitGroup(*request); });
  }
  grpc::ServerUnaryReactor* AcknowledgeAdapter(
      grpc::CallbackServerContext* context, const proto::AcknowledgeAdapterRequest* request,
      proto::AcknowledgeAdapterResponse* response) override {
    return Answer(context, *request, response,
                  [&] { return handler_->AcknowledgeAdapter(*request); });
  }

 private:
  // A certificate is for one role; nobody registers as another.
  static absl::Status CheckRole(const grpc::AuthContext& caller,
                                const proto::RegisterRequest& request) {
    const std::optional<proto::Role> role = CallerRole(caller);
    if (!role.has_value() || *role == request.role()) return absl::OkStatus();
    return absl::PermissionDeniedError(
        absl::StrCat("Register: ", request.name(), " on ", request.host(), " registers as ",
                     RoleName(request.role()), ", its certificate is of role ", RoleName(*role)));
  }

  template <typename Request, typename Response, typename Function>
  grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const Request& request,
                                   Response* response, Function call) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    absl::StatusOr<Response> answer = NoThrow([&]() -> absl::StatusOr<Response> {
      WB_RETURN_IF_ERROR(CheckMessage(request));
      return call();
    });
    if (answer.ok()) *response = *std::move(answer);
    reactor->Finish(ToGrpc(answer.status()));
    return reactor;
  }

  LearnerHandler* const handler_;
};

class GrpcLearnerServer final : public LearnerServer {
 public:
  GrpcLearnerServer(LearnerHandler* handler, RankHub* ranks)
      : calls_(handler),
        adapter_calls_(MakeAdaptersService(handler)),
        rank_calls_(ranks == nullptr ? nullptr : MakeRanksService(ranks)) {}
  ~GrpcLearnerServer() override { Shutdown(absl::ZeroDuration()); }

  absl::Status Listen(absl::string_view address, const Credentials& own) {
    std::vector<grpc::Service*> services = {&calls_, adapter_calls_.get()};
    if (rank_calls_ != nullptr) services.push_back(rank_calls_.get());
    WB_ASSIGN_OR_RETURN(listening_,
                        transport::Listen(address, services, own, kMaxLearnerCallBytes));
    return absl::OkStatus();
  }
  std::string address() const override { return listening_.address; }
  void Shutdown(absl::Duration grace) override { listening_.Shutdown(grace); }

 private:
  LearnerCalls calls_;
  const std::unique_ptr<grpc::Service> adapter_calls_;
  const std::unique_ptr<grpc::Service> rank_calls_;
  ListeningServer listening_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LearnerServer>> LearnerServer::Start(absl::string_view address,
                                                                    LearnerHandler* handler,
                                                                    RankHub* ranks,
                                                                    const Credentials& own) {
  auto server = std::make_unique<GrpcLearnerServer>(handler, ranks);
  WB_RETURN_IF_ERROR(server->Listen(address, own));
  return server;
}

}  // namespace wideberth::transport
