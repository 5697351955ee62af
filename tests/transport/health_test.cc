// SPDX-License-Identifier: Apache-2.0
// The health server by its own HTTP answers.
#include "transport/health.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "tests/testing/certificates.h"

namespace wideberth::transport {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

HealthPage::Options OptionsWith(std::function<RoleStatus()> status) {
  HealthPage::Options options;
  options.role = "learner";
  options.name = "learner-0";
  options.run = "quick";
  options.status = std::move(status);
  return options;
}

RoleStatus Training() {
  RoleStatus status;
  status.state = "training";
  status.policy_version = 12;
  status.progress = 0.3;
  status.facts = {{"step", "12 of 40"}};
  MemberRow actor;
  actor.name = "actor-0";
  actor.role = "actor";
  actor.state = "generating";
  actor.policy_version = 12;
  actor.tokens_per_second = 81.5;
  actor.heartbeat_age = 0.5;
  actor.last_error = "<script>alert(1)</script> \xff";
  MemberRow scorer;
  scorer.name = "scorer-safety-0";
  scorer.role = "scorer";
  scorer.state = "idle";
  status.members = {actor, scorer};
  return status;
}

class HealthTest : public ::testing::Test {
 protected:
  void Serve(HealthPage::Options options) {
    auto page = HealthPage::Start(std::move(options));
    ASSERT_TRUE(page.ok()) << page.status();
    page_ = *std::move(page);
  }
  httplib::Response Get(const std::string& path) {
    httplib::Client client("http://" + page_->address());
    auto result = client.Get(path.c_str());
    return result ? *result : httplib::Response();
  }
  std::unique_ptr<HealthPage> page_;
};

TEST_F(HealthTest, HealthzIs200AndTurns503WithTheReason) {
  RoleStatus status;
  Serve(OptionsWith([&] { return status; }));
  EXPECT_EQ(Get("/healthz").status, 200);
  EXPECT_EQ(Get("/healthz").body, "ok\n");
  status.unhealthy_reason = "no accepted group for 1800 s";
  EXPECT_EQ(Get("/healthz").status, 503);
  EXPECT_EQ(Get("/healthz").body, "no accepted group for 1800 s\n");
  EXPECT_EQ(Get("/nowhere").status, 404);
}

TEST_F(HealthTest, StatusJsonHoldsTheRoleAndItsMembers) {
  Serve(OptionsWith(Training));
  const httplib::Response response = Get("/status.json");
  ASSERT_EQ(response.status, 200);
  const nlohmann::json json = nlohmann::json::parse(response.body);
  EXPECT_EQ(json["name"], "learner-0");
  EXPECT_EQ(json["state"], "training");
  EXPECT_EQ(json["healthy"], true);
  EXPECT_EQ(json["policy_version"], 12);
  EXPECT_TRUE(json["tokens_per_second"].is_null());
  EXPECT_EQ(json["facts"][0], nlohmann::json({"step", "12 of 40"}));
  ASSERT_EQ(json["members"].size(), 2u);
  EXPECT_EQ(json["members"][0]["tokens_per_second"], 81.5);
  EXPECT_THAT(json["members"][0]["last_error"].get<std::string>(),
              HasSubstr("<script>alert(1)</script>"));
  EXPECT_TRUE(json["members"][1]["policy_version"].is_null());
}

TEST_F(HealthTest, ThePageStandsAloneAndNeverWritesMarkup) {
  Serve(OptionsWith(Training));
  const httplib::Response response = Get("/");
  EXPECT_EQ(response.status, 200);
  EXPECT_THAT(response.get_header_value("Content-Type"), HasSubstr("text/html"));
  EXPECT_THAT(response.get_header_value("Content-Security-Policy"),
              HasSubstr("default-src 'none'"));
  EXPECT_THAT(response.body, HasSubstr("status.json"));
  for (const char* forbidden :
       {"innerHTML", "insertAdjacentHTML", "document.write", "src=\"", "https:", "alert(1)"}) {
    EXPECT_THAT(response.body, Not(HasSubstr(forbidden)));
  }
}

TEST_F(HealthTest, MetricsHoldTheStatusAndTheRolesOwnAndPassPromtool) {
  Metrics metrics;
  Counter* groups =
      metrics.NewCounter("wideberth_groups_total", "Groups accepted.", {{"outcome", "accepted"}});
  groups->Increment();
  groups->Increment(2);
  EXPECT_EQ(
      metrics.NewCounter("wideberth_groups_total", "Groups accepted.", {{"outcome", "accepted"}}),
      groups);
  metrics.NewCounter("wideberth_groups_total", "", {{"outcome", "stale"}})->Increment();
  metrics.NewGauge("wideberth_queue_items", "Items waiting.")->Set(5);
  HealthPage::Options options = OptionsWith(Training);
  options.metrics = &metrics;
  Serve(std::move(options));
  const httplib::Response response = Get("/metrics");
  EXPECT_EQ(response.status, 200);
  EXPECT_THAT(response.get_header_value("Content-Type"), HasSubstr("text/plain; version=0.0.4"));
  EXPECT_THAT(response.body, HasSubstr("wideberth_groups_total{outcome=\"accepted\"} 3\n"));
  EXPECT_THAT(response.body, HasSubstr("wideberth_groups_total{outcome=\"stale\"} 1\n"));
  EXPECT_THAT(response.body, HasSubstr("wideberth_queue_items 5\n"));
  EXPECT_THAT(
      response.body,
      HasSubstr("wideberth_status_policy_version{name=\"learner-0\",role=\"learner\"} 12\n"));
  EXPECT_THAT(
      response.body,
      HasSubstr(
          "wideberth_status_member_heartbeat_age_seconds{name=\"actor-0\",role=\"actor\"} 0.5\n"));
  if (std::system("command -v promtool > /dev/null 2>&1") != 0)
    GTEST_SKIP() << "promtool is not installed (package prometheus)";
  FILE* promtool = popen("promtool check metrics", "w");
  ASSERT_NE(promtool, nullptr);
  fwrite(response.body.data(), 1, response.body.size(), promtool);
  EXPECT_EQ(pclose(promtool), 0) << response.body;
}

TEST_F(HealthTest, AStatusThatThrowsIsA500AndTheServerLives) {
  bool broken = true;
  Serve(OptionsWith([&]() -> RoleStatus {
    if (broken) throw std::runtime_error("no");
    return {};
  }));
  EXPECT_EQ(Get("/status.json").status, 500);
  broken = false;
  EXPECT_EQ(Get("/status.json").status, 200);
}

TEST_F(HealthTest, ATakenPortIsRefusedWithTheReason) {
  Serve(OptionsWith(Training));
  HealthPage::Options second = OptionsWith(Training);
  ASSERT_EQ(page_->address().rfind("127.0.0.1:", 0), 0u);
  second.port = std::atoi(page_->address().substr(10).c_str());
  const auto page = HealthPage::Start(std::move(second));
  ASSERT_FALSE(page.ok());
  EXPECT_EQ(page.status().message(),
            absl::StrCat("cannot listen on ", page_->address(), ": address already in use"));
}

TEST_F(HealthTest, BeyondLoopbackThePageIsHttpsAndWantsTheToken) {
  HealthPage::Options options = OptionsWith(Training);
  options.host = "0.0.0.0";
  const absl::Status refused = HealthPage::Start(options).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("health page: listening on 0.0.0.0, which is more than this machine"));

  const wideberth::testing::Certificates certificates("--host=127.0.0.1");
  options.own = certificates.Of(proto::LEARNER);
  Serve(std::move(options));
  const std::string address = page_->address();
  EXPECT_EQ(page_->url(), "https://" + address + "/");
  httplib::SSLClient client("127.0.0.1", std::atoi(address.substr(address.rfind(':') + 1).c_str()));
  client.set_ca_cert_path((certificates.path() + "/ca.pem").c_str());
  const auto get = [&](const std::string& authorization) {
    auto result = client.Get("/status.json", {{"Authorization", authorization}});
    return result ? *result : httplib::Response();
  };
  const std::string token = certificates.token();
  std::string basic, other;
  absl::Base64Escape("anybody:" + token, &basic);
  absl::Base64Escape("anybody:" + token + "0", &other);
  for (const std::string& right : {"Bearer " + token, "Basic " + basic}) {
    const httplib::Response response = get(right);
    EXPECT_EQ(response.status, 200) << right;
    EXPECT_THAT(response.body, HasSubstr("\"training\""));
    EXPECT_THAT(response.body, Not(HasSubstr(token)));
  }
  for (const std::string& wrong : {std::string(), "Bearer " + token.substr(1), "Basic " + other,
                                   token, std::string("Basic ??")}) {
    const httplib::Response response = get(wrong);
    EXPECT_EQ(response.status, 401) << wrong;
    EXPECT_THAT(response.body, Not(HasSubstr("training")));
    EXPECT_EQ(response.get_header_value("WWW-Authenticate"), "Basic realm=\"Wideberth\"");
  }
}

TEST_F(HealthTest, PortMinusOneServesNothing) {
  HealthPage::Options options = OptionsWith(Training);
  options.port = -1;
  Serve(std::move(options));
  EXPECT_EQ(page_->address(), "");
  EXPECT_EQ(page_->url(), "");
}

}  // namespace
}  // namespace wideberth::transport
