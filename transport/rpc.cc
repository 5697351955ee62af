// SPDX-License-Identifier: Apache-2.0
#include "transport/rpc.h"

#include <grpc/support/log.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "transport/call_gate.h"

namespace wideberth::transport {
namespace {

constexpr int kUnlimited = -1;
constexpr int kKeepaliveMs = 10'000;
constexpr int kKeepaliveTimeoutMs = 5'000;
constexpr int kConnectTimeoutMs = 5'000;
// Longer texts do not fit the trailing headers.
constexpr size_t kMaxMessageBytes = 2048;

// The library's own complaints go where ours go, so that a role's log file has them.
void LogOfLibrary(gpr_log_func_args* args) {
  static auto* const pace = new LogPace;
  if (args->severity < GPR_LOG_SEVERITY_ERROR || !pace->Due()) return;
  WB_LOG(WARNING) << "rpc library: " << args->message;
}

void InitializeOnce() {
  static std::once_flag once;
  std::call_once(once, [] { gpr_set_log_function(LogOfLibrary); });
}

}  // namespace

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address, const Credentials& own,
                                           proto::Role peer, size_t max_receive_bytes) {
  InitializeOnce();
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(static_cast<int>(max_receive_bytes));
  arguments.SetMaxSendMessageSize(kUnlimited);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // A restarted peer is found again within a moment, not within the library's two minutes.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // In spite of its name what one attempt may take, the greeting included.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectTimeoutMs);
  // Roles talk inside one cluster; a proxy of the environment is for the outside.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  const auto credentials = MakeChannelCredentials(own, peer, &arguments);
  return grpc::CreateCustomChannel(address, credentials, arguments);
}

absl::StatusOr<ListeningServer> Listen(absl::string_view address,
                                       const std::vector<grpc::Service*>& services,
                                       const Credentials& own, size_t max_receive_bytes) {
  InitializeOnce();
  std::string host;
  int port = 0;
  WB_RETURN_IF_ERROR(SplitAddress(address, &host, &port));
  WB_RETURN_IF_ERROR(CheckMayListen(host, own));
  int bound_port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(std::string(address), MakeServerCredentials(own), &bound_port);
  for (grpc::Service* const service : services) builder.RegisterService(service);
  builder.SetMaxReceiveMessageSize(static_cast<int>(max_receive_bytes));
  builder.SetMaxSendMessageSize(kUnlimited);
  // With shared ports a second learner would take half of the first one's calls instead of failing.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             kKeepaliveMs / 4);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  ListeningServer listening;
  // Asked before as well, since the library only logs its reason, at length.
  std::string reason = port == 0 ? "" : WhyNotListening(host, port);
  if (reason.empty()) {
    listening.server = builder.BuildAndStart();
    if (listening.server == nullptr || bound_port == 0) reason = WhyNotListening(host, port);
    if ((listening.server == nullptr || bound_port == 0) && reason.empty())
      reason = "the RPC server did not start";
  }
  if (!reason.empty())
    return absl::UnavailableError(absl::StrCat("cannot listen on ", address, ": ", reason));
  listening.address = PublicAddress(host, bound_port);
  return listening;
}

void ListeningServer::Shutdown(absl::Duration grace) const {
  if (server == nullptr) return;
  server->Shutdown(absl::ToChronoTime(absl::Now() + grace));
  server->Wait();
}

std::string PublicAddress(absl::string_view listen_host, int port) {
  std::string host(listen_host);
  if (host.empty() || host == "0.0.0.0" || host == "::") {
    char name[256] = "localhost";
    gethostname(name, sizeof(name) - 1);
    const char* const given = std::getenv("WIDEBERTH_HOST");
    host = given != nullptr && *given != '\0' ? given : name;
  }
  if (absl::StrContains(host, ':')) return absl::StrCat("[", host, "]:", port);
  return absl::StrCat(host, ":", port);
}

absl::Status SplitAddress(absl::string_view address, std::string* host, int* port) {
  const size_t colon = address.rfind(':');
  absl::string_view name = colon == absl::string_view::npos ? "" : address.substr(0, colon);
  const bool bracketed = absl::ConsumePrefix(&name, "[") && absl::ConsumeSuffix(&name, "]");
  if (colon == absl::string_view::npos || (!bracketed && absl::StrContains(name, ':')) ||
      name.empty() || !absl::SimpleAtoi(address.substr(colon + 1), port) || *port < 0 ||
      *port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("address is \"", address,
                     "\", must be host:port with a port of 0 to 65535, e.g. 127.0.0.1:47701"));
  }
  *host = std::string(name);
  return absl::OkStatus();
}

std::string WhyNotListening(const std::string& host, int port) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
      error != 0) {
    return absl::AsciiStrToLower(gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(found, freeaddrinfo);
  const int fd = socket(found->ai_family, found->ai_socktype, 0);
  if (fd < 0) return absl::AsciiStrToLower(std::strerror(errno));
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  std::string reason;
  if (bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 1) != 0) {
    reason = absl::AsciiStrToLower(std::strerror(errno));
  }
  close(fd);
  return reason;
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()),
                      std::string(status.message().substr(0, kMaxMessageBytes)));
}

std::string WhyUnreachable(const std::string& host, int port, const Credentials& own) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
      error != 0) {
    return absl::StrCat("host name ", host, " is not known (",
                        absl::AsciiStrToLower(gai_strerror(error)), ")");
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(found, freeaddrinfo);
  if (!own.tls() && !IsLoopback(host)) {
    return "it is not this machine, and other machines are connected to with certificates only "
           "(WIDEBERTH_CERTS is not set)";
  }
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (fd < 0) return absl::AsciiStrToLower(std::strerror(errno));
  connect(fd, found->ai_addr, found->ai_addrlen);
  pollfd connected = {fd, POLLOUT, 0};
  const bool accepts =
      poll(&connected, 1, 1000) == 1 && (connected.revents & (POLLERR | POLLHUP)) == 0;
  close(fd);
  if (!accepts) return "nothing accepts connections there";
  return own.tls() ? "something accepts connections there, but TLS fails: it has other "
                     "certificates, certificates of another role, or none"
                   : "something accepts connections there, but not in plaintext (WIDEBERTH_CERTS "
                     "is not set here)";
}

bool LogPace::Due() {
  const absl::Time now = absl::Now();
  MutexLock lock(mutex_);
  if (now - last_ < absl::Seconds(1)) return false;
  last_ = now;
  return true;
}

void CallsUnderWay::Cancel() {
  MutexLock lock(mutex_);
  cancelled_ = true;
  for (grpc::ClientContext* context : running_) context->TryCancel();
  cancelled_changed_.SignalAll();
}

bool CallsUnderWay::cancelled() const {
  MutexLock lock(mutex_);
  return cancelled_;
}

bool CallsUnderWay::Begin(grpc::ClientContext* context) {
  MutexLock lock(mutex_);
  if (!cancelled_) running_.insert(context);
  return !cancelled_;
}

bool CallsUnderWay::End(grpc::ClientContext* context) {
  MutexLock lock(mutex_);
  running_.erase(context);
  return cancelled_;
}

bool CallsUnderWay::Pause(absl::Duration delay) {
  const absl::Time until = absl::Now() + delay;
  MutexLock lock(mutex_);
  while (!cancelled_ && absl::Now() < until)
    cancelled_changed_.WaitFor(mutex_, until - absl::Now());
  return !cancelled_;
}

}  // namespace wideberth::transport
