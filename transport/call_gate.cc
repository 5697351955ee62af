// SPDX-License-Identifier: Apache-2.0
#include "transport/call_gate.h"

#include <grpcpp/security/auth_metadata_processor.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "transport/rpc.h"

namespace wideberth::transport {
namespace {

constexpr char kTokenKey[] = "wideberth-token";
constexpr char kCallerKey[] = "user-agent";

constexpr proto::Role kAllRoles[] = {proto::LEARNER, proto::ACTOR, proto::SCORER};

// Who may call what. What is not listed nobody may call.
struct Rule {
  absl::string_view path;  // Of a call, or with a '/' at its end of a service.
  std::vector<proto::Role> callers;
};

const std::vector<Rule>& Rules() {
  static const auto* const rules = new std::vector<Rule>{
      {"/wideberth.proto.Learner/Register", {proto::ACTOR, proto::SCORER}},
      {"/wideberth.proto.Learner/Heartbeat", {proto::ACTOR, proto::SCORER}},
      {"/wideberth.proto.Learner/", {proto::ACTOR}},
      {"/wideberth.proto.Adapters/", {proto::ACTOR, proto::LEARNER}},
      {"/wideberth.proto.Ranks/", {proto::LEARNER}},
      {"/wideberth.proto.Scorer/", {proto::ACTOR}},
  };
  return *rules;
}

bool MayCall(proto::Role role, absl::string_view path) {
  for (const Rule& rule : Rules()) {
    const bool covers =
        rule.path.back() == '/' ? absl::StartsWith(path, rule.path) : path == rule.path;
    if (covers) {
      return std::find(rule.callers.begin(), rule.callers.end(), role) != rule.callers.end();
    }
  }
  return false;
}

absl::string_view View(grpc::string_ref text) { return {text.data(), text.size()}; }

absl::string_view ValueOf(const grpc::AuthMetadataProcessor::InputMetadata& metadata,
                          const char* key) {
  const auto found = metadata.find(key);
  return found == metadata.end() ? absl::string_view() : View(found->second);
}

// What a stranger said about itself, fit for a sentence.
std::string Printable(absl::string_view text, size_t max_bytes) {
  std::string printable(text.substr(0, max_bytes));
  for (char& c : printable) {
    if (!absl::ascii_isprint(static_cast<unsigned char>(c))) c = '?';
  }
  return printable;
}

// Thread-safe; called by the library's threads for every call, before the message is read.
class CallGate final : public grpc::AuthMetadataProcessor {
 public:
  explicit CallGate(const Credentials& own) : tls_(own.tls()), token_(own.token) {}

  bool IsBlocking() const override { return false; }

  grpc::Status Process(const InputMetadata& metadata, grpc::AuthContext* context,
                       OutputMetadata* consumed, OutputMetadata*) override {
    const absl::string_view path = ValueOf(metadata, ":path");
    const absl::string_view sent = ValueOf(metadata, kTokenKey);
    // Handlers have no use for it.
    if (!sent.empty()) consumed->insert({kTokenKey, std::string(sent)});
    if (!token_.empty() && !SameToken(sent, token_)) {
      return Refuse(grpc::StatusCode::UNAUTHENTICATED, metadata,
                    sent.empty() ? "without the run token" : "with a wrong run token");
    }
    if (!tls_) return grpc::Status::OK;
    const std::optional<proto::Role> role = CallerRole(*context);
    if (!role.has_value())
      return Refuse(grpc::StatusCode::PERMISSION_DENIED, metadata, "with a certificate of no role");
    if (!MayCall(*role, path)) {
      return Refuse(grpc::StatusCode::PERMISSION_DENIED, metadata,
                    absl::StrCat("with the certificate of role ", RoleName(*role),
                                 ", which may not make it"));
    }
    return grpc::Status::OK;
  }

 private:
  grpc::Status Refuse(grpc::StatusCode code, const InputMetadata& metadata, absl::string_view why) {
    std::string path = Printable(ValueOf(metadata, ":path"), 100);
    std::string caller = Printable(ValueOf(metadata, kCallerKey), 100);
    const std::string sentence =
        absl::StrCat("call ", path.substr(path.rfind('/') + 1),
                     " refused: ", caller.substr(0, caller.find(' ')), " made it ", why);
    if (pace_.Due()) WB_LOG(WARNING) << sentence;
    return grpc::Status(code, sentence);
  }

  const bool tls_;
  const std::string token_;
  LogPace pace_;
};

class TokenPlugin final : public grpc::MetadataCredentialsPlugin {
 public:
  explicit TokenPlugin(std::string token) : token_(std::move(token)) {}
  bool IsBlocking() const override { return false; }
  const char* GetType() const override { return kTokenKey; }
  // The library's traces show this, and not the token.
  grpc::string DebugString() override { return "run token"; }
  grpc::Status GetMetadata(grpc::string_ref, grpc::string_ref, const grpc::AuthContext&,
                           std::multimap<grpc::string, grpc::string>* metadata) override {
    metadata->insert({kTokenKey, token_});
    return grpc::Status::OK;
  }

 private:
  const std::string token_;
};

}  // namespace

std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(const Credentials& own) {
  std::shared_ptr<grpc::ServerCredentials> credentials;
  if (own.tls()) {
    grpc::SslServerCredentialsOptions options(
        GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
    options.pem_root_certs = own.ca_pem;
    options.pem_key_cert_pairs = {{own.key_pem, own.certificate_pem}};
    credentials = grpc::SslServerCredentials(options);
  } else {
    credentials = grpc::experimental::LocalServerCredentials(LOCAL_TCP);
  }
  credentials->SetAuthMetadataProcessor(std::make_shared<CallGate>(own));
  return credentials;
}

std::shared_ptr<grpc::ChannelCredentials> MakeChannelCredentials(
    const Credentials& own, proto::Role peer, grpc::ChannelArguments* arguments) {
  char host[256] = "localhost";
  ::gethostname(host, sizeof(host) - 1);
  arguments->SetUserAgentPrefix(absl::StrCat(RoleName(own.role), "/", host, "/", ::getpid()));
  std::shared_ptr<grpc::ChannelCredentials> credentials;
  if (own.tls()) {
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = own.ca_pem;
    options.pem_private_key = own.key_pem;
    options.pem_cert_chain = own.certificate_pem;
    credentials = grpc::SslCredentials(options);
    // TLS itself then wants a certificate with this name, whatever the address is.
    arguments->SetSslTargetNameOverride(CertificateName(peer));
  } else {
    credentials = grpc::experimental::LocalCredentials(LOCAL_TCP);
  }
  if (own.token.empty()) return credentials;
  // No level of security is asked for: without TLS the connection does not leave this machine.
  return grpc::CompositeChannelCredentials(
      credentials, grpc::experimental::MetadataCredentialsFromPlugin(
                       std::make_unique<TokenPlugin>(own.token), GRPC_SECURITY_NONE));
}

std::optional<proto::Role> CallerRole(const grpc::AuthContext& context) {
  for (const grpc::string_ref name : context.FindPropertyValues("x509_subject_alternative_name")) {
    for (const proto::Role role : kAllRoles) {
      if (View(name) == CertificateName(role)) return role;
    }
  }
  return std::nullopt;
}

}  // namespace wideberth::transport
