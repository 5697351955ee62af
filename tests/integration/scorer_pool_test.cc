// SPDX-License-Identifier: Apache-2.0
// A scorer that is started by hand in the middle of a run, and ended again: it is used, then
// drained, and no item is lost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <signal.h>

#include "tests/integration/tiny_run.h"

namespace wideberth {
namespace {

using nlohmann::json;
using testing::Eventually;
using testing::NoProcessLeft;
using testing::Process;
using testing::TinyRun;

// What stands between `before` and the next of `ends` in `text`; empty where it does not.
std::string Between(const std::string& text, const std::string& before, const std::string& ends) {
  const size_t at = text.find(before);
  if (at == std::string::npos) return "";
  const size_t begin = at + before.size();
  return text.substr(begin, text.find_first_of(ends, begin) - begin);
}

// The learner's row about `member`; null where it has none.
json MemberRow(const std::string& health_address, const std::string& member) {
  const auto page = httplib::Client("http://" + health_address).Get("/status.json");
  if (!page) return {};
  const json status = json::parse(page->body, nullptr, false);
  for (const json& row : status.value("members", json::array())) {
    if (row["name"] == member) return row;
  }
  return {};
}

TEST(ScorerPoolIntegrationTest, AScorerAddedByHandIsUsedAndOneThatEndsIsMissedByNobody) {
  const TinyRun run;
  Process process(run.Command({"--override=learner { max_steps: 100000 }"}), run.Join("model"));
  ASSERT_TRUE(Eventually([&] { return run.Metrics().size() >= 2; })) << process.err();
  const std::string learner = Between(run.File("logs/wideberth.log"), "--learner=", " \n");
  const std::string health = Between(run.File("logs/learner-0.log"), "health page http://", "/");

  Process scorer({"wideberth-scorer", "--learner=" + learner, "--scorer=safety", "--index=7"},
                 run.Join("model"));
  EXPECT_TRUE(Eventually([&] {
    const json row = MemberRow(health, "scorer-safety-7");
    return row.is_object() && row["num_items"].get<int>() >= 12;
  })) << scorer.err();

  scorer.Signal(SIGTERM);
  EXPECT_EQ(scorer.Wait(), 0) << scorer.err();
  EXPECT_EQ(MemberRow(health, "scorer-safety-7")["state"], "draining");
  const size_t steps = run.Metrics().size();
  EXPECT_TRUE(Eventually([&] { return run.Metrics().size() >= steps + 3; })) << process.err();

  process.Signal(SIGINT);
  process.Wait();
  const json totals = json::parse(run.File("summary.json"), nullptr, false)["totals"];
  for (const char* missing : {"missing_TIMED_OUT", "missing_OVERLOADED", "missing_MODEL_ERROR"})
    EXPECT_EQ(totals[missing], 0) << missing << run.File("logs/actor-0.log");
  EXPECT_EQ(totals["groups_dropped"], 0);
  EXPECT_TRUE(NoProcessLeft());
}

}  // namespace
}  // namespace wideberth
