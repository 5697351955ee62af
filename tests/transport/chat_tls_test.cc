// SPDX-License-Identifier: Apache-2.0
// The chat client over https: a certificate that nobody vouches for is refused, one that the system
// trusts is not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/testing/paths.h"
#include "tests/transport/chat_server.h"
#include "transport/chat_client.h"

namespace wideberth::transport {
namespace {

using ::testing::HasSubstr;

// A key and a certificate for 127.0.0.1, signed by itself.
class SelfSigned {
 public:
  SelfSigned() : key_(EVP_EC_gen("P-256")), certificate_(X509_new()) {
    X509_set_version(certificate_, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate_), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate_), -3600);
    X509_gmtime_adj(X509_getm_notAfter(certificate_), 3600);
    X509_set_pubkey(certificate_, key_);
    X509_NAME* const name = X509_get_subject_name(certificate_);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>("127.0.0.1"), -1, -1, 0);
    X509_set_issuer_name(certificate_, name);
    for (const auto& [nid, value] :
         {std::pair(NID_subject_alt_name, "IP:127.0.0.1"), {NID_basic_constraints, "CA:TRUE"}}) {
      X509_EXTENSION* const extension = X509V3_EXT_conf_nid(nullptr, nullptr, nid, value);
      X509_add_ext(certificate_, extension, -1);
      X509_EXTENSION_free(extension);
    }
    EXPECT_GT(X509_sign(certificate_, key_, EVP_sha256()), 0);
  }
  ~SelfSigned() {
    X509_free(certificate_);
    EVP_PKEY_free(key_);
  }
  void Write(const std::string& path) const {
    FILE* const file = std::fopen(path.c_str(), "w");
    ASSERT_NE(file, nullptr);
    EXPECT_EQ(PEM_write_X509(file, certificate_), 1);
    std::fclose(file);
  }
  EVP_PKEY* key() const { return key_; }
  X509* certificate() const { return certificate_; }

 private:
  EVP_PKEY* const key_;
  X509* const certificate_;
};

TEST(ChatTlsTest, OnlyACertificateThatTheSystemTrustsIsSpokenTo) {
  const SelfSigned self;
  httplib::SSLServer server(self.certificate(), self.key());
  ASSERT_TRUE(server.is_valid());
  std::atomic<int> num_requests = 0;
  server.Post("/v1/chat/completions", [&](const httplib::Request&, httplib::Response& response) {
    ++num_requests;
    response.set_content(testing::Completion("fine"), "application/json");
  });
  server.set_keep_alive_max_count(1);
  const int port = server.bind_to_any_port("127.0.0.1");
  std::thread thread([&] { server.listen_after_bind(); });
  while (!server.is_running()) std::this_thread::yield();

  proto::HttpConfig config;
  config.set_base_url(absl::StrCat("https://127.0.0.1:", port, "/v1"));
  config.set_model("judge");
  const auto ask = [&] {
    return (*ChatClient::Create(config))->Ask({"?"}, absl::InfiniteFuture());
  };
  testing::TempDir folder;
  const auto stranger = ask();
  self.Write(folder.Join("ca.pem"));
  ::setenv("SSL_CERT_FILE", folder.Join("ca.pem").c_str(), 1);
  const auto friendly = ask();
  server.stop();
  thread.join();
  EXPECT_EQ(stranger.status().code(), absl::StatusCode::kFailedPrecondition) << stranger.status();
  EXPECT_THAT(std::string(stranger.status().message()), HasSubstr("cannot be verified"));
  ASSERT_TRUE(friendly.ok()) << friendly.status();
  EXPECT_EQ(friendly->text, "fine");
  EXPECT_EQ(num_requests, 1);
}

}  // namespace
}  // namespace wideberth::transport
