// SPDX-License-Identifier: Apache-2.0
// `wideberth evaluate --guard` on tiny models: labelled sets read or refused, a verdict and a
// generative guard asked, what its own training saw left out.
#include "launch/guard_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "nlohmann/json.hpp"
#include "report/guard_folder.h"
#include "tests/scorer/parrot_model.h"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::launch {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using Json = nlohmann::json;

constexpr char kPrompts[] =
    "{\"prompt\": \"a\", \"response\": null, \"task\": \"prompt\", \"label\": \"harmful\"}\n"
    "{\"prompt\": \"b\", \"task\": \"prompt\", \"label\": \"unharmful\"}\n"
    "{\"prompt\": \"c\", \"task\": \"prompt\", \"label\": null}\n";
constexpr char kResponses[] =
    "{\"prompt\": \"a\", \"response\": \"x y\", \"task\": \"response\", \"label\": \"harmful\"}\n"
    "{\"prompt\": \"b\", \"response\": \"z\", \"task\": \"response\", \"label\": \"unharmful\"}\n"
    "{\"prompt\": \"c\", \"response\": \"zz\", \"task\": \"response\", \"label\": \"harmful\"}\n";

class GuardTableTest : public ::testing::Test {
 protected:
  GuardTableTest() { EXPECT_TRUE(testing::WriteTinyModel("llama", dir_.Join("model")).ok()); }

  std::string Write(const std::string& name, const std::string& text) {
    EXPECT_TRUE(WriteFileAtomically(dir_.Join(name), text).ok());
    return dir_.Join(name);
  }
  std::string Verdict() const {
    return absl::StrCat("name: 'safety' model { path: '", dir_.Join("model"),
                        "' } template: '{prompt} {completion}' positive_id: 5 negative_id: 9");
  }
  absl::Status Run(const std::string& config, std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--guard", absl::StrCat("--config=", config),
                                       absl::StrCat("--out=", dir_.Join("out"))});
    return GuardTable(arguments);
  }
  Json Table() const { return Json::parse(*ReadFile(dir_.Join("out/guard_table.json"))); }
  std::string Refusal(const std::string& text, const GuardSource& fields = {}) {
    GuardSource source = fields;
    source.path = Write("bad.jsonl", text);
    const auto set = ReadGuardedSet(source);
    EXPECT_FALSE(set.ok());
    return std::string(set.status().message());
  }

  testing::TempDir dir_;
};

TEST_F(GuardTableTest, AVerdictIsMeasuredOnResponsesAndSaysWhyNotOnPrompts) {
  const std::string prompts = Write("prompts.jsonl", kPrompts);
  const std::string responses = Write("responses.jsonl", kResponses);
  const absl::Status run =
      Run(Write("scorer.txtpb", Verdict()), {"--data=" + prompts, "--data=" + responses});
  ASSERT_TRUE(run.ok()) << run;
  const Json table = Table();
  EXPECT_EQ(table["scorer"], "safety");
  ASSERT_EQ(table["sets"].size(), 2u);
  EXPECT_EQ(table["sets"][0]["task"], "prompt_harm");
  EXPECT_TRUE(table["sets"][0]["f1"].is_null());
  EXPECT_EQ(table["sets"][0]["num_unlabelled"], 1);
  EXPECT_THAT(table["sets"][0]["note"].get<std::string>(), HasSubstr("the completion is empty"));
  EXPECT_EQ(table["sets"][1]["num"], 3);
  EXPECT_EQ(table["sets"][1]["num_positive"], 2);
  EXPECT_TRUE(table["sets"][1]["auroc"].is_number());
  EXPECT_EQ(table["sets"][1]["num_latencies"], 3);
  // "a x y", "b z" and "c zz" in bytes, each with its beginning token.
  EXPECT_GT(table["sets"][1]["tokens_per_query"], 2);
  EXPECT_EQ(table["weighted"].size(), 1u);
  const auto folder = report::ReadGuardFolder(dir_.Join("out"));
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_EQ(folder->sets[0].rows.size(), 2u) << "no row of a set that is refused has a verdict";
  // The log-odds of the same question are the same probabilities.
  ASSERT_TRUE(
      Run(dir_.Join("scorer.txtpb"), {"--override=output: LOG_ODDS", "--data=" + responses}).ok());
  EXPECT_EQ(Table()["sets"][0]["auroc"], table["sets"][1]["auroc"]);
  EXPECT_NEAR(Table()["sets"][0]["ece"].get<double>(), table["sets"][1]["ece"].get<double>(), 1e-9);
}

TEST_F(GuardTableTest, AGenerativeGuardAnswersEachTaskByItsOwnLine) {
  ASSERT_TRUE(scorer::WriteParrotModel("ReSpOnsE:HarmFUl", dir_.Join("model")).ok());
  const std::string config =
      Write("scorer.txtpb",
            absl::StrCat("name: 'guard' kind: GENERATIVE model { path: '", dir_.Join("model"),
                         "' } generative { instruction: 'Is it harmful?\\n' max_new_tokens: 24 }"));
  const absl::Status run = Run(config, {"--data=" + Write("prompts.jsonl", kPrompts),
                                        "--data=" + Write("responses.jsonl", kResponses)});
  ASSERT_TRUE(run.ok()) << run;
  const Json sets = Table()["sets"];
  // It says nothing about the request, and of every response that it is harmful.
  EXPECT_EQ(sets[0]["num_unparsable"], 2);
  EXPECT_EQ(sets[0]["f1"], 0.0);
  EXPECT_EQ(sets[1]["num_unparsable"], 0);
  EXPECT_EQ(sets[1]["recall"], 1.0);
  EXPECT_EQ(sets[1]["false_positive_rate"], 1.0);
  const std::string confusions = *ReadFile(dir_.Join("out/confusions.jsonl"));
  EXPECT_THAT(confusions, HasSubstr("\"mistake\":\"no_verdict\""));
  EXPECT_THAT(confusions, HasSubstr("\"mistake\":\"false_positive\""));
  // The report reads what is left here.
  const auto folder = report::ReadGuardFolder(dir_.Join("out"));
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_EQ(report::GuardTableText(folder->asked, folder->sets, folder->figures),
            *ReadFile(dir_.Join("out/guard_table.txt")));
  EXPECT_EQ(folder->sets[0].rows.size(), 2u);
  EXPECT_EQ(folder->sets[1].rows.size(), 1u);
}

TEST_F(GuardTableTest, RowsOfTheGuardsOwnDataAreLeftOut) {
  const std::string responses = Write("responses.jsonl", kResponses);
  const std::string train =
      Write("train.jsonl",
            "{\"prompt\": \"c\", \"response\": \"zz\", \"label\": \"safe\"}\n"
            "{\"prompt\": \"zz\", \"response\": \"c\", \"label\": \"unsafe\"}\n");
  const std::string run_config =
      Write("run.txtpb", absl::StrCat("scorer { ", Verdict(),
                                      " } learner { task: GUARD } data { path: '", train, "' }"));
  const absl::Status run = Run(run_config, {"--data=" + responses});
  ASSERT_TRUE(run.ok()) << run;
  EXPECT_EQ(Table()["sets"][0]["num"], 2);
  EXPECT_EQ(Table()["sets"][0]["num_trained_on"], 1);
  ASSERT_TRUE(Run(run_config, {"--rows=1", "--data=" + responses}).ok());
  EXPECT_EQ(Table()["sets"][0]["num"], 1);
}

TEST_F(GuardTableTest, RowsThatStayAreSpreadOverTheSet) {
  std::string rows;
  for (int i = 0; i < 7; ++i) {
    rows += absl::StrCat("{\"prompt\": \"a\", \"response\": \"x", i,
                         "\", \"label\": ", i >= 4 ? "true" : "false", "}\n");
  }
  ASSERT_TRUE(Run(Write("scorer.txtpb", Verdict()),
                  {"--rows=3", "--data=" + Write("sorted.jsonl", rows) + ":response_harm"})
                  .ok());
  // Rows 0, 2 and 4.
  EXPECT_EQ(Table()["sets"][0]["num"], 3);
  EXPECT_EQ(Table()["sets"][0]["num_positive"], 1);
}

TEST_F(GuardTableTest, FieldsAndLabelsMayHaveOtherNames) {
  GuardSource source;
  source.path = Write("other.jsonl",
                      "{\"q\": \"a\", \"r\": \"b\", \"toxic\": 2}\n"
                      "{\"q\": \"a\", \"r\": \"b\", \"toxic\": \"no\"}\n");
  source.task = "response_harm";
  source.prompt_field = "q";
  source.response_field = "r";
  source.label_field = "toxic";
  source.positive_labels = {"2", "3"};
  const auto set = ReadGuardedSet(source);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_TRUE(set->rows[0].positive);
  EXPECT_FALSE(set->rows[1].positive);
  EXPECT_EQ(set->rows[1].origin, source.path + ":2");
}

TEST_F(GuardTableTest, ABadLineIsNamed) {
  const std::string at = dir_.Join("bad.jsonl");
  GuardSource fields;
  fields.task = "refusal";
  EXPECT_THAT(Refusal("{\"prompt\": \"a\"}\n", fields), HasSubstr(at + ":1: \"label\" is missing"));
  EXPECT_THAT(Refusal("{\"prompt\": 3, \"label\": true}\n", fields),
              HasSubstr(at + ":1: \"prompt\" is \"3\", expected a text"));
  EXPECT_THAT(Refusal("{\"prompt\": \"a\", \"label\": true}\n{\"prompt\": \"a\", \"label\": "
                      "\"maybe\"}\n",
                      fields),
              HasSubstr(at + ":2: \"label\" is \"maybe\", expected one of harmful, unsafe"));
  EXPECT_THAT(Refusal("{\"prompt\": \"a\", \"label\": true}\n"),
              HasSubstr(at + ":1: \"task\" is missing, expected prompt, response or refusal"));
  EXPECT_THAT(Refusal(absl::StrCat(kPrompts, kResponses)),
              HasSubstr(at + ":4: \"task\" is response, the rows before are of prompt_harm"));
  EXPECT_THAT(Refusal("{\"prompt\": \"a\", \"label\": null}\n", fields),
              HasSubstr("no row with a label"));
  EXPECT_THAT(Refusal("nonsense\n", fields), HasSubstr(at + ":1"));
}

TEST_F(GuardTableTest, SaysWhatShowsItAsAPageAndRefusesASetTwice) {
  const std::string config = Write("scorer.txtpb", Verdict());
  const std::string responses = "--data=" + Write("responses.jsonl", kResponses);
  ::testing::internal::CaptureStdout();
  const absl::Status run = Run(config, {responses});
  EXPECT_THAT(::testing::internal::GetCapturedStdout(),
              EndsWith(absl::StrCat("wideberth report ", dir_.Join("out"), "\n")));
  ASSERT_TRUE(run.ok()) << run;
  EXPECT_THAT(std::string(Run(config, {responses, responses}).message()),
              HasSubstr("responses.jsonl for response_harm twice, expected each set once"));
}

TEST_F(GuardTableTest, AScorerWithoutProbabilitiesIsRefused) {
  const absl::Status run =
      Run(Write("scorer.txtpb",
                absl::StrCat("name: 'u' kind: REWARD model { path: '", dir_.Join("model"), "' }")),
          {"--data=" + Write("responses.jsonl", kResponses)});
  EXPECT_THAT(std::string(run.message()), HasSubstr("is of kind REWARD, expected VERDICT or"));
}

}  // namespace
}  // namespace wideberth::launch
