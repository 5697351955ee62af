// SPDX-License-Identifier: Apache-2.0
#include "transport/credentials.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/sha.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <cstdlib>
#include <cstring>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/status.h"

namespace wideberth::transport {
namespace {

// Shorter ones can be guessed, longer ones do not fit a call's headers.
constexpr size_t kMinTokenBytes = 16;
constexpr size_t kMaxTokenBytes = 1024;

template <typename T, void (*Free)(T*)>
struct Freed {
  void operator()(T* object) const { Free(object); }
};
using Bio = std::unique_ptr<BIO, Freed<BIO, BIO_free_all>>;
using Certificate = std::unique_ptr<X509, Freed<X509, X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY, EVP_PKEY_free>>;
using Store = std::unique_ptr<X509_STORE, Freed<X509_STORE, X509_STORE_free>>;
using Verification = std::unique_ptr<X509_STORE_CTX, Freed<X509_STORE_CTX, X509_STORE_CTX_free>>;

std::string Variable(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// A file whose content must be this user's alone.
absl::StatusOr<std::string> ReadSecret(const std::string& path, absl::string_view what) {
  struct stat found = {};
  if (::stat(path.c_str(), &found) == 0 && (found.st_mode & 077) != 0) {
    return absl::FailedPreconditionError(
        absl::StrFormat("%s %s can be read or changed by others (mode %04o): chmod 600 %s", what,
                        path, found.st_mode & 0777, path));
  }
  return ReadFile(path);
}

Bio Text(const std::string& pem) {
  return Bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

Certificate ReadCertificate(BIO* bio) {
  return Certificate(PEM_read_bio_X509(bio, nullptr, nullptr, nullptr));
}

// No prompt for a password on somebody's terminal.
int NoPassword(char*, int, int, void*) { return 0; }

// Why a peer that trusts this CA would not take this certificate; empty when it would.
std::string WhyInvalid(const Credentials& credentials) {
  const Certificate certificate = ReadCertificate(Text(credentials.certificate_pem).get());
  if (certificate == nullptr) return "is no certificate in PEM form";
  const Key key(
      PEM_read_bio_PrivateKey(Text(credentials.key_pem).get(), nullptr, NoPassword, nullptr));
  if (key == nullptr) return "has a key file that is no private key in PEM form without password";
  if (X509_check_private_key(certificate.get(), key.get()) != 1)
    return "does not belong to the key beside it";
  const std::string name = CertificateName(credentials.role);
  if (X509_check_host(certificate.get(), name.data(), name.size(), 0, nullptr) != 1)
    return absl::StrCat("does not bear the name ", name, ", so it is not of this role");
  const Store store(X509_STORE_new());
  const Bio authorities = Text(credentials.ca_pem);
  while (const Certificate authority = ReadCertificate(authorities.get()))
    X509_STORE_add_cert(store.get(), authority.get());
  const Verification verification(X509_STORE_CTX_new());
  X509_STORE_CTX_init(verification.get(), store.get(), certificate.get(), nullptr);
  if (X509_verify_cert(verification.get()) == 1) return "";
  return absl::StrCat("is not valid under ca.pem: ",
                      X509_verify_cert_error_string(X509_STORE_CTX_get_error(verification.get())));
}

absl::Status ReadCertificates(const std::string& folder, Credentials* credentials) {
  const std::string role = RoleName(credentials->role);
  const std::string certificate = absl::StrCat(folder, "/", role, ".pem");
  WB_ASSIGN_OR_RETURN(credentials->ca_pem, ReadFile(absl::StrCat(folder, "/ca.pem")));
  WB_ASSIGN_OR_RETURN(credentials->certificate_pem, ReadFile(certificate));
  WB_ASSIGN_OR_RETURN(credentials->key_pem,
                      ReadSecret(absl::StrCat(folder, "/", role, ".key"), "the private key"));
  const std::string why = WhyInvalid(*credentials);
  ERR_clear_error();  // Of this thread; the RPC library would read ours as its own.
  if (why.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("certificate ", certificate, " ", why,
                                                    "; make a new folder with "
                                                    "launch/make_certs.sh"));
}

absl::StatusOr<std::string> ReadToken() {
  const std::string path = Variable("WIDEBERTH_TOKEN_FILE");
  std::string token = Variable("WIDEBERTH_TOKEN");
  if (path.empty() && token.empty()) return token;
  if (!path.empty() && !token.empty()) {
    return absl::FailedPreconditionError(
        "WIDEBERTH_TOKEN and WIDEBERTH_TOKEN_FILE are both set, expected one of them");
  }
  const std::string where = path.empty() ? "in WIDEBERTH_TOKEN" : path;
  if (!path.empty()) {
    WB_ASSIGN_OR_RETURN(token, ReadSecret(path, "the run token"));
    absl::StripAsciiWhitespace(&token);
  }
  if (token.size() < kMinTokenBytes || token.size() > kMaxTokenBytes) {
    return absl::FailedPreconditionError(absl::StrCat("the run token ", where, " has ",
                                                      token.size(), " characters, must have ",
                                                      kMinTokenBytes, " to ", kMaxTokenBytes));
  }
  for (const char c : token) {
    if (absl::ascii_isgraph(static_cast<unsigned char>(c))) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("the run token ", where, " must consist of visible ASCII characters"));
  }
  return token;
}

bool IsLoopback(const sockaddr& address) {
  if (address.sa_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    return (ntohl(v4.sin_addr.s_addr) >> 24) == 127;
  }
  if (address.sa_family != AF_INET6) return false;
  const in6_addr& v6 = reinterpret_cast<const sockaddr_in6&>(address).sin6_addr;
  return IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
}

}  // namespace

absl::StatusOr<Credentials> Credentials::FromEnvironment(proto::Role role) {
  Credentials credentials;
  credentials.role = role;
  if (const std::string folder = Variable("WIDEBERTH_CERTS"); !folder.empty())
    WB_RETURN_IF_ERROR(Annotate(ReadCertificates(folder, &credentials), "WIDEBERTH_CERTS"));
  WB_ASSIGN_OR_RETURN(credentials.token, ReadToken());
  return credentials;
}

std::string RoleName(proto::Role role) { return absl::AsciiStrToLower(proto::Role_Name(role)); }

std::string CertificateName(proto::Role role) { return absl::StrCat(RoleName(role), ".wideberth"); }

bool IsLoopback(const std::string& host) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (host.empty() || getaddrinfo(host.c_str(), nullptr, &hints, &found) != 0) return false;
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(found, freeaddrinfo);
  for (const addrinfo* address = found; address != nullptr; address = address->ai_next) {
    if (!IsLoopback(*address->ai_addr)) return false;
  }
  return true;
}

absl::Status CheckMayListen(const std::string& host, const Credentials& credentials) {
  if ((credentials.tls() && !credentials.token.empty()) || IsLoopback(host))
    return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "listening on ", host, ", which is more than this machine, needs ",
      credentials.tls() ? "a run token" : "certificates and a run token",
      ": launch/make_certs.sh DIR; export WIDEBERTH_CERTS=DIR WIDEBERTH_TOKEN_FILE=DIR/token"));
}

bool IsRefusal(const absl::Status& status) {
  return absl::IsUnauthenticated(status) || absl::IsPermissionDenied(status);
}

bool SameToken(absl::string_view a, absl::string_view b) {
  // Hashed, so that not even the length shows.
  unsigned char hash_a[SHA256_DIGEST_LENGTH], hash_b[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(a.data()), a.size(), hash_a);
  SHA256(reinterpret_cast<const unsigned char*>(b.data()), b.size(), hash_b);
  return CRYPTO_memcmp(hash_a, hash_b, sizeof(hash_a)) == 0;
}

}  // namespace wideberth::transport
