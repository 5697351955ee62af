// SPDX-License-Identifier: Apache-2.0
#include "transport/health.h"

#include <httplib.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "base/status.h"
#include "transport/health_html.h"
#include "transport/rpc.h"

namespace wideberth::transport {
namespace {

constexpr int kNumThreads = 2;

template <typename T>
nlohmann::json OrNull(const std::optional<T>& value) {
  return value ? nlohmann::json(*value) : nlohmann::json(nullptr);
}

nlohmann::json ToJson(const HealthPage::Options& options, const RoleStatus& status,
                      absl::Duration uptime) {
  nlohmann::json members = nlohmann::json::array();
  for (const MemberRow& member : status.members) {
    members.push_back({{"name", member.name},
                       {"role", member.role},
                       {"state", member.state},
                       {"policy_version", OrNull(member.policy_version)},
                       {"tokens_per_second", member.tokens_per_second},
                       {"num_items", member.num_items},
                       {"heartbeat_age_seconds", member.heartbeat_age},
                       {"last_error", member.last_error},
                       {"health_address", member.health_address}});
  }
  nlohmann::json facts = nlohmann::json::array();
  for (const auto& [key, value] : status.facts) facts.push_back({key, value});
  return {{"role", options.role},
          {"name", options.name},
          {"run", options.run},
          {"state", status.state},
          {"healthy", status.unhealthy_reason.empty()},
          {"unhealthy_reason", status.unhealthy_reason},
          {"policy_version", OrNull(status.policy_version)},
          {"progress", OrNull(status.progress)},
          {"tokens_per_second", OrNull(status.tokens_per_second)},
          {"num_items", OrNull(status.num_items)},
          {"last_error", status.last_error},
          {"uptime_seconds", absl::ToDoubleSeconds(uptime)},
          {"facts", facts},
          {"members", members}};
}

// What every role's status says anyway, as gauges, so that a monitor sees something before a role
// registers its own.
std::string StatusMetrics(const HealthPage::Options& options, const RoleStatus& status,
                          absl::Duration uptime) {
  Metrics metrics;
  const Metrics::Labels self = {{"role", options.role}, {"name", options.name}};
  metrics
      .NewGauge("wideberth_status_healthy", "1 while the process considers itself healthy.", self)
      ->Set(status.unhealthy_reason.empty() ? 1 : 0);
  metrics
      .NewGauge("wideberth_status_uptime_seconds", "Time since the process serves this page.", self)
      ->Set(absl::ToDoubleSeconds(uptime));
  if (status.policy_version) {
    metrics.NewGauge("wideberth_status_policy_version", "Policy version in use.", self)
        ->Set(double(*status.policy_version));
  }
  for (const MemberRow& member : status.members) {
    const Metrics::Labels labels = {{"role", member.role}, {"name", member.name}};
    metrics
        .NewGauge("wideberth_status_member_heartbeat_age_seconds",
                  "Time since the member's last heartbeat.", labels)
        ->Set(member.heartbeat_age);
    if (!member.policy_version) continue;
    metrics
        .NewGauge("wideberth_status_member_policy_version", "Policy version the member uses.",
                  labels)
        ->Set(double(*member.policy_version));
  }
  return metrics.Text();
}

// A server that shows this process's certificate; null where that cannot be.
std::unique_ptr<httplib::Server> MakeTlsServer(const Credentials& own) {
  const auto read = [](const std::string& pem) {
    return std::unique_ptr<BIO, decltype(&BIO_free)>(
        BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), BIO_free);
  };
  const std::unique_ptr<X509, decltype(&X509_free)> certificate(
      PEM_read_bio_X509(read(own.certificate_pem).get(), nullptr, nullptr, nullptr), X509_free);
  const std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> key(
      PEM_read_bio_PrivateKey(read(own.key_pem).get(), nullptr, nullptr, nullptr), EVP_PKEY_free);
  auto server = std::make_unique<httplib::SSLServer>([&](SSL_CTX& context) {
    return SSL_CTX_set_min_proto_version(&context, TLS1_2_VERSION) == 1 &&
           SSL_CTX_use_certificate(&context, certificate.get()) == 1 &&
           SSL_CTX_use_PrivateKey(&context, key.get()) == 1;
  });
  if (!server->is_valid()) return nullptr;
  return server;
}

// "Bearer TOKEN", or "Basic" with the token as the password of any user.
bool ShowsToken(absl::string_view authorization, const std::string& token) {
  if (absl::ConsumePrefix(&authorization, "Bearer ")) return SameToken(authorization, token);
  std::string decoded;
  if (!absl::ConsumePrefix(&authorization, "Basic ") ||
      !absl::Base64Unescape(authorization, &decoded)) {
    return false;
  }
  const size_t colon = decoded.find(':');
  return colon != std::string::npos &&
         SameToken(absl::string_view(decoded).substr(colon + 1), token);
}

class HttpHealthPage final : public HealthPage {
 public:
  explicit HttpHealthPage(Options options) : options_(std::move(options)), start_(absl::Now()) {}
  ~HttpHealthPage() override {
    if (!thread_.joinable()) return;
    server_->stop();
    thread_.join();
  }

  absl::Status Listen() {
    if (options_.port < 0) return absl::OkStatus();
    WB_RETURN_IF_ERROR(Annotate(CheckMayListen(options_.host, options_.own), "health page"));
    const bool guarded = !IsLoopback(options_.host);
    server_ = guarded ? MakeTlsServer(options_.own) : std::make_unique<httplib::Server>();
    if (server_ == nullptr) {
      return absl::FailedPreconditionError(
          "health page: TLS cannot be set up with this certificate and key");
    }
    if (guarded) DemandToken();
    server_->new_task_queue = [] { return new httplib::ThreadPool(kNumThreads); };
    // A browser that keeps its connection would hold one of the few threads.
    server_->set_keep_alive_max_count(1);
    // The library's default shares the port with whoever listens on it already.
    server_->set_socket_options([](socket_t sock) {
      const int on = 1;
      setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    });
    server_->set_read_timeout(5);
    server_->set_write_timeout(5);
    AddPages();
    const int port = options_.port == 0 ? server_->bind_to_any_port(options_.host)
                     : server_->bind_to_port(options_.host, options_.port) ? options_.port
                                                                           : -1;
    if (port <= 0) {
      const std::string reason = WhyNotListening(options_.host, options_.port);
      return absl::UnavailableError(
          absl::StrCat("cannot listen on ", options_.host, ":", options_.port, ": ",
                       reason.empty() ? "the HTTP server did not start" : reason));
    }
    address_ = PublicAddress(options_.host, port);
    url_ = absl::StrCat(guarded ? "https://" : "http://", address_, "/");
    thread_ = std::thread([this] { server_->listen_after_bind(); });
    // `stop` before the loop has begun would be lost, and the thread never joined.
    for (int i = 0; i < 5000 && !server_->is_running(); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return absl::OkStatus();
  }
  std::string address() const override { return address_; }
  std::string url() const override { return url_; }

 private:
  void DemandToken() {
    server_->set_pre_routing_handler(
        [this](const httplib::Request& request, httplib::Response& response) {
          if (ShowsToken(request.get_header_value("Authorization"), options_.own.token))
            return httplib::Server::HandlerResponse::Unhandled;
          response.status = 401;
          response.set_header("WWW-Authenticate", "Basic realm=\"Wideberth\"");
          response.set_content("the run token is wanted: as bearer, or as password of any user\n",
                               "text/plain");
          return httplib::Server::HandlerResponse::Handled;
        });
  }

  void AddPages() {
    server_->Get("/", [](const httplib::Request&, httplib::Response& response) {
      response.set_header("Content-Security-Policy",
                          "default-src 'none'; style-src 'unsafe-inline'; script-src "
                          "'unsafe-inline'; connect-src 'self'; img-src data:");
      response.set_content(kHealthHtml, "text/html; charset=utf-8");
    });
    server_->Get("/healthz", [this](const httplib::Request&, httplib::Response& response) {
      const RoleStatus status = options_.status();
      response.status = status.unhealthy_reason.empty() ? 200 : 503;
      response.set_content(
          status.unhealthy_reason.empty() ? "ok\n" : absl::StrCat(status.unhealthy_reason, "\n"),
          "text/plain");
    });
    server_->Get("/status.json", [this](const httplib::Request&, httplib::Response& response) {
      // An error's text may hold a cut character; it must not take the page down.
      const nlohmann::json json = ToJson(options_, options_.status(), absl::Now() - start_);
      response.set_content(
          json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n",
          "application/json");
    });
    server_->Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
      std::string text = StatusMetrics(options_, options_.status(), absl::Now() - start_);
      if (options_.metrics != nullptr) text += options_.metrics->Text();
      response.set_content(text, "text/plain; version=0.0.4; charset=utf-8");
    });
    server_->set_exception_handler(
        [](const httplib::Request&, httplib::Response& response, std::exception_ptr) {
          response.status = 500;
          response.set_content("the status could not be read\n", "text/plain");
        });
  }

  const Options options_;
  const absl::Time start_;
  std::unique_ptr<httplib::Server> server_;
  std::string address_, url_;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HealthPage>> HealthPage::Start(Options options) {
  auto page = std::make_unique<HttpHealthPage>(std::move(options));
  WB_RETURN_IF_ERROR(page->Listen());
  return page;
}

}  // namespace wideberth::transport
