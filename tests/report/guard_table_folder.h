// SPDX-License-Identifier: Apache-2.0
// Writes small folders of a guard's table for tests, as `wideberth evaluate --guard` does.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "report/guard_figures.h"

namespace wideberth::report {

// Without a probability the answer could not be read.
inline GuardedRow Asked(bool positive, absl::optional<double> probability,
                        const std::string& prompt, const std::string& response = "") {
  GuardedRow row;
  row.positive = positive;
  row.probability = probability;
  row.prompt = prompt;
  row.response = response;
  if (!probability.has_value()) {
    row.failure = "MALFORMED_OUTPUT";
    row.message = "it ends with \"prose\"";
  }
  return row;
}

class GuardTableFolder {
 public:
  explicit GuardTableFolder(const std::string& name)
      : path_(absl::StrCat(::testing::TempDir(), "/guard_", name)) {
    asked.scorer = "safety";
    asked.kind = "VERDICT";
    asked.model = "models/tiny";
    asked.adapter = "runs/tiny/adapter";
  }

  GuardAsked asked;

  // The rows are those of the file FOLDER/NAME.jsonl.
  GuardedSet& AddSet(const std::string& name, const std::string& task, std::vector<GuardedRow> rows,
                     const std::string& folder = "data") {
    GuardedSet& set = sets_.emplace_back();
    set.name = name;
    set.task = task;
    set.file = absl::StrCat(folder, "/", name, ".jsonl");
    set.rows = std::move(rows);
    for (size_t i = 0; i < set.rows.size(); ++i)
      set.rows[i].origin = absl::StrCat(set.file, ":", i + 1);
    return set;
  }
  // Six rows: two right, and every kind of mistake, two false positives among them.
  void AddSixRows() {
    GuardedSet& set = AddSet(
        "answers", "response_harm",
        {Asked(true, 0.9, "right one", "x"), Asked(false, 0.2, "right two", "x"),
         Asked(false, 0.625, "nearly <b>", "reply &"), Asked(false, 0.875, "surely", "reply"),
         Asked(true, 0.25, "missed", "y"), Asked(true, absl::nullopt, "unread", "z")});
    set.rows[0].latency_ms = 20;
    set.num_tokens = 50;
    set.num_trained_on = 3;
    set.num_unlabelled = 2;
  }

  std::vector<GuardFigures> Figures() const {
    std::vector<GuardFigures> figures;
    for (const GuardedSet& set : sets_) figures.push_back(FiguresOf(set, asked.threshold));
    return figures;
  }
  const std::vector<GuardedSet>& sets() const { return sets_; }
  std::string Table() const { return GuardTableJson(asked, sets_, Figures()); }
  std::string Confusions() const { return ConfusionLines(sets_, asked.threshold); }

  // Replaces what stood there.
  std::string Write() const { return Write(Table(), Confusions()); }
  std::string Write(const std::string& table, const std::string& confusions) const {
    EXPECT_TRUE(MakeDirectories(path_).ok());
    EXPECT_TRUE(WriteFileAtomically(path_ + "/guard_table.json", table).ok());
    EXPECT_TRUE(WriteFileAtomically(path_ + "/confusions.jsonl", confusions).ok());
    return path_;
  }

 private:
  const std::string path_;
  std::vector<GuardedSet> sets_;
};

}  // namespace wideberth::report
