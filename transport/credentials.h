// SPDX-License-Identifier: Apache-2.0
// Who this process is to the others of a run, and what it demands of them: certificates (TLS on
// both ends, the role in the certificate) and the run's token. Made by launch/make_certs.sh; each
// main.cc reads its own and hands it to every server and client of this folder.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/wire.pb.h"

namespace wideberth::transport {

// Without certificates a process serves, and connects to, this machine only, in plaintext. With a
// token every call carries it, and a server refuses calls without it.
struct Credentials {
  proto::Role role = proto::LEARNER;
  std::string ca_pem, certificate_pem, key_pem;  // All or none.
  std::string token;

  bool tls() const { return !ca_pem.empty(); }

  // From environment variables WIDEBERTH_CERTS (a folder with ca.pem, <role>.pem and <role>.key)
  // and WIDEBERTH_TOKEN_FILE or WIDEBERTH_TOKEN; what is not set is left empty. NotFound or
  // FailedPrecondition with a sentence that names the file and what to do: one is missing, or can
  // be read by others, the certificate has expired, is another role's or not of this CA and key.
  // The sentence never has the token in it.
  static absl::StatusOr<Credentials> FromEnvironment(proto::Role role);
};

// "actor"
std::string RoleName(proto::Role role);
// The name that a certificate must bear: "actor.wideberth".
std::string CertificateName(proto::Role role);

// Whether every address of `host` (a name or a number) is of this machine's loopback; false where
// it is not known. May ask a name server.
bool IsLoopback(const std::string& host);

// FailedPrecondition with what to do unless `host` is loopback or there are certificates and token.
absl::Status CheckMayListen(const std::string& host, const Credentials& credentials);

// Whether a server said no to who is calling; trying again is of no use.
bool IsRefusal(const absl::Status& status);

// In a time that does not depend on where they differ.
bool SameToken(absl::string_view a, absl::string_view b);

}  // namespace wideberth::transport
