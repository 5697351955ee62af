// SPDX-License-Identifier: Apache-2.0
// What a process reads about itself, and launch/make_certs.sh, which makes it.
#include "transport/credentials.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <map>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "tests/testing/certificates.h"
#include "tests/transport/expired.h"

namespace wideberth::transport {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::wideberth::testing::Certificates;
using ::wideberth::testing::TempDir;

constexpr char kToken[] = "0123456789abcdef0123456789abcdef";

class CredentialsTest : public ::testing::Test {
 protected:
  CredentialsTest() { Clear(); }
  ~CredentialsTest() override { Clear(); }
  static void Set(const std::string& name, const std::string& value) {
    ::setenv(name.c_str(), value.c_str(), 1);
  }
  static absl::StatusOr<Credentials> Read(proto::Role role = proto::ACTOR) {
    return Credentials::FromEnvironment(role);
  }
  static std::string Refusal(proto::Role role = proto::ACTOR) {
    return std::string(Read(role).status().message());
  }

 private:
  static void Clear() {
    for (const char* name : {"WIDEBERTH_CERTS", "WIDEBERTH_TOKEN", "WIDEBERTH_TOKEN_FILE"})
      ::unsetenv(name);
  }
};

TEST_F(CredentialsTest, NothingSetIsNothing) {
  const auto own = Read();
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_FALSE(own->tls());
  EXPECT_EQ(own->token, "");
}

TEST_F(CredentialsTest, EveryRoleReadsItsOwnFromTheFolder) {
  const Certificates certificates;
  Set("WIDEBERTH_CERTS", certificates.path());
  Set("WIDEBERTH_TOKEN_FILE", certificates.token_file());
  for (const proto::Role role : {proto::LEARNER, proto::ACTOR, proto::SCORER}) {
    const auto own = Read(role);
    ASSERT_TRUE(own.ok()) << own.status();
    EXPECT_TRUE(own->tls());
    EXPECT_EQ(own->role, role);
    EXPECT_EQ(own->certificate_pem, certificates.Of(role).certificate_pem);
    EXPECT_EQ(own->token.size(), 64u);
  }
}

TEST_F(CredentialsTest, AFolderThatDoesNotFitTheRoleIsOneSentence) {
  const Certificates certificates("--keep_ca"), others;
  const std::string folder = certificates.path();
  Set("WIDEBERTH_CERTS", folder);
  const auto copy = [](const std::string& from, const std::string& to) {
    std::filesystem::copy_file(from, to, std::filesystem::copy_options::overwrite_existing);
  };
  copy(folder + "/scorer.pem", folder + "/actor.pem");
  EXPECT_THAT(Refusal(), HasSubstr("does not belong to the key beside it"));
  copy(folder + "/scorer.key", folder + "/actor.key");
  EXPECT_THAT(Refusal(), HasSubstr("does not bear the name actor.wideberth"));
  copy(others.path() + "/actor.pem", folder + "/actor.pem");
  copy(others.path() + "/actor.key", folder + "/actor.key");
  EXPECT_THAT(Refusal(), HasSubstr("is not valid under ca.pem"));
  ASSERT_TRUE(WriteFileAtomically(folder + "/learner.pem",
                                  testing::Expired(certificates, proto::LEARNER).certificate_pem)
                  .ok());
  EXPECT_THAT(Refusal(proto::LEARNER),
              AllOf(HasSubstr("learner.pem"), HasSubstr("certificate has expired"),
                    HasSubstr("launch/make_certs.sh")));
  Set("WIDEBERTH_CERTS", folder + "/nothing");
  EXPECT_THAT(Refusal(), HasSubstr("nothing/ca.pem"));
}

TEST_F(CredentialsTest, SecretsThatOthersCanReadAreRefused) {
  const Certificates certificates;
  Set("WIDEBERTH_CERTS", certificates.path());
  Set("WIDEBERTH_TOKEN_FILE", certificates.token_file());
  ::chmod(certificates.token_file().c_str(), 0640);
  EXPECT_THAT(Refusal(), AllOf(HasSubstr("can be read or changed by others (mode 0640)"),
                               HasSubstr("chmod 600 " + certificates.token_file()),
                               Not(HasSubstr(certificates.token()))));
  ::chmod(certificates.token_file().c_str(), 0600);
  EXPECT_TRUE(Read().ok());
  ::chmod((certificates.path() + "/actor.key").c_str(), 0604);
  EXPECT_THAT(Refusal(), HasSubstr("the private key"));
}

TEST_F(CredentialsTest, TokensThatAreNoneAreRefusedAndNeverShown) {
  Set("WIDEBERTH_TOKEN", kToken);
  EXPECT_EQ(Read()->token, kToken);
  Set("WIDEBERTH_TOKEN", "guessable");
  EXPECT_THAT(Refusal(), AllOf(HasSubstr("has 9 characters"), Not(HasSubstr("guessable"))));
  Set("WIDEBERTH_TOKEN", "sixteen characters and a space");
  EXPECT_THAT(Refusal(), HasSubstr("visible ASCII"));
  Set("WIDEBERTH_TOKEN_FILE", "/somewhere");
  EXPECT_THAT(Refusal(), HasSubstr("are both set"));
}

TEST_F(CredentialsTest, OnlyLoopbackIsLoopback) {
  for (const char* host : {"127.0.0.1", "127.1.2.3", "::1", "localhost", "::ffff:127.0.0.1"})
    EXPECT_TRUE(IsLoopback(host)) << host;
  for (const char* host :
       {"0.0.0.0", "::", "10.0.0.1", "128.0.0.1", "", "::2", "no-such-host.invalid"})
    EXPECT_FALSE(IsLoopback(host)) << host;
}

TEST_F(CredentialsTest, BeyondLoopbackTlsAndTokenAreBothNeeded) {
  Credentials own;
  EXPECT_TRUE(CheckMayListen("127.0.0.1", own).ok());
  const absl::Status refused = CheckMayListen("0.0.0.0", own);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused));
  EXPECT_THAT(std::string(refused.message()),
              AllOf(HasSubstr("listening on 0.0.0.0"), HasSubstr("certificates and a run token"),
                    HasSubstr("launch/make_certs.sh DIR; export WIDEBERTH_CERTS=DIR")));
  own.token = kToken;
  EXPECT_FALSE(CheckMayListen("0.0.0.0", own).ok());
  own.ca_pem = "some";
  EXPECT_TRUE(CheckMayListen("0.0.0.0", own).ok());
  own.token.clear();
  EXPECT_FALSE(CheckMayListen("0.0.0.0", own).ok());
}

TEST_F(CredentialsTest, TokensAreTheSameOnlyWhenEqual) {
  EXPECT_TRUE(SameToken(kToken, kToken));
  EXPECT_FALSE(SameToken(kToken, ""));
  EXPECT_FALSE(SameToken(kToken, absl::StrCat(kToken, "0")));
  EXPECT_FALSE(SameToken(kToken, absl::string_view(kToken).substr(1)));
}

TEST_F(CredentialsTest, TheScriptKeepsEverythingToItselfAndOverwritesNothing) {
  const Certificates certificates("--host=node7 --host=10.0.0.3 --host=fe80::1 --days=2");
  const auto mode = [](const std::string& path) {
    struct stat found = {};
    EXPECT_EQ(::stat(path.c_str(), &found), 0) << path;
    return found.st_mode & 0777;
  };
  EXPECT_EQ(mode(certificates.path()), 0700u);
  size_t num_files = 0;
  for (const auto& file : std::filesystem::directory_iterator(certificates.path())) {
    EXPECT_EQ(mode(file.path()), 0600u) << file.path();
    EXPECT_NE(file.path().filename(), "ca.key") << "whoever has it can be any role";
    ++num_files;
  }
  EXPECT_EQ(num_files, 8u);
  const std::string token = certificates.token();
  const std::string script = wideberth::testing::SourcePath("launch/make_certs.sh ");
  EXPECT_NE(std::system((script + certificates.path() + " 2>/dev/null").c_str()), 0);
  EXPECT_EQ(certificates.token(), token);
  const TempDir folder;
  for (const char* bad : {"--host=learner.wideberth", "--host=a,DNS:learner.wideberth",
                          "--host=1.2.3.4.5", "--days=0", "--what"}) {
    const std::string command =
        absl::StrCat(script, folder.Join("certs"), " ", bad, " >/dev/null 2>&1");
    EXPECT_NE(std::system(command.c_str()), 0) << bad;
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace wideberth::transport
