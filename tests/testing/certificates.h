// SPDX-License-Identifier: Apache-2.0
// A folder of certificates and a token, as launch/make_certs.sh makes it, and the credentials of
// each role from it.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "absl/strings/strip.h"
#include "base/file.h"
#include "tests/testing/paths.h"
#include "transport/credentials.h"

namespace wideberth::testing {

class Certificates {
 public:
  // `flags` are those of the script.
  explicit Certificates(const std::string& flags = "") {
    const std::string command = SourcePath("launch/make_certs.sh") + " " + path() + " " + flags;
    EXPECT_EQ(std::system((command + " >/dev/null").c_str()), 0) << command;
  }
  std::string path() const { return folder_.Join("certs"); }
  std::string token_file() const { return path() + "/token"; }
  std::string token() const {
    return std::string(absl::StripSuffix(ReadFile(token_file()).value_or(""), "\n"));
  }
  transport::Credentials Of(proto::Role role) const {
    const std::string name = path() + "/" + transport::RoleName(role);
    transport::Credentials credentials;
    credentials.role = role;
    credentials.ca_pem = ReadFile(path() + "/ca.pem").value_or("");
    credentials.certificate_pem = ReadFile(name + ".pem").value_or("");
    credentials.key_pem = ReadFile(name + ".key").value_or("");
    credentials.token = token();
    return credentials;
  }

 private:
  TempDir folder_;
};

}  // namespace wideberth::testing
