// SPDX-License-Identifier: Apache-2.0
// Writes small evaluation folders for tests, as the EVALUATE task does.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "nlohmann/json.hpp"

namespace wideberth::report {

using TestJson = nlohmann::ordered_json;

// An answer scored by "guard", "utility", "harm" and "help".
inline TestJson ScoredAnswer(double t, double u, double harm, double help,
                             const std::string& text = "fine") {
  return {{"text", text},
          {"num_tokens", 10},
          {"finish", "stop"},
          {"scores", {{"guard", t}, {"utility", u}, {"harm", harm}, {"help", help}}},
          {"failures", TestJson::object()}};
}

class EvaluationFolder {
 public:
  explicit EvaluationFolder(const std::string& name)
      : path_(absl::StrCat(::testing::TempDir(), "/evaluation_", name)) {
    head_ = {{"name", name},
             {"run_id", "r1"},
             {"created", "2025-07-13T10:00:00Z"},
             {"ended", "completed"},
             {"seed", 7},
             {"num_prompts", 0},
             {"num_completions", 2},
             {"arms", {{{"name", "base"}}}},
             {"guard", {"guard"}},
             {"utility", "utility"},
             {"harm_judge", "harm"},
             {"help_judge", "help"},
             {"tau", 0.5},
             {"lambda", 1},
             {"utility_normalization", {{"kind", "RAW"}, {"weight", 1}}},
             {"refusal", "I cannot help with that."},
             {"settings", {{"temperature", "1"}}},
             {"seconds", {{"generate", 2.5}}}};
  }

  TestJson& head() { return head_; }
  void AddArm(const std::string& name, TestJson training) {
    head_["arms"].push_back({{"name", name}, {"training", std::move(training)}});
  }
  const std::string& lines() const { return lines_; }
  void SetLines(std::string lines) { lines_ = std::move(lines); }
  void AddLine(const std::string& text) { absl::StrAppend(&lines_, text, "\n"); }
  void AddPrompt(const std::string& arm, const std::string& id, const std::string& category,
                 bool unsafe, std::vector<TestJson> answers, const std::string& source = "made") {
    AddLine(TestJson{{"arm", arm},
                     {"prompt_id", id},
                     {"prompt", absl::StrCat("question ", id)},
                     {"category", category},
                     {"source", source},
                     {"unsafe", unsafe},
                     {"answers", answers}}
                .dump());
    if (arm == "base") head_["num_prompts"] = head_["num_prompts"].get<int>() + 1;
  }
  std::string Write() {
    EXPECT_TRUE(MakeDirectories(path_).ok());
    EXPECT_TRUE(WriteFileAtomically(path_ + "/evaluation.json", head_.dump(1)).ok());
    EXPECT_TRUE(WriteFileAtomically(path_ + "/answers.jsonl", lines_).ok());
    return path_;
  }

 private:
  const std::string path_;
  TestJson head_;
  std::string lines_;
};

// Two prompts with two answers of the base each, whose figures are worked out by hand in
// arm_metrics_test.cc.
inline void AddFourAnswers(EvaluationFolder* folder) {
  folder->AddPrompt("base", "p1", "harm", true,
                    {ScoredAnswer(0.9, 1.0, 3, 4), ScoredAnswer(0.45, 0.5, 2, 3)});
  folder->AddPrompt("base", "p2", "plain", false,
                    {ScoredAnswer(0.1, 2.0, 0, 4),
                     ScoredAnswer(0.55, -1.0, 0, 2, "I\u2019m sorry, but I cannot do that.")});
}

}  // namespace wideberth::report
