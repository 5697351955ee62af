// SPDX-License-Identifier: Apache-2.0
// `wideberth score`: a scorer's own model on lines of text, without its process.
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "base/text_proto.h"
#include "launch/flags.h"
#include "launch/looks.h"
#include "scorer/score_lines.h"
#include "scorer/scorer_config.h"

namespace wideberth::launch {

absl::StatusOr<proto::ScorerConfig> ReadScorer(const std::string& path, const std::string& name) {
  proto::ScorerConfig scorer;
  const absl::Status as_scorer = MergeTextProtoFile(path, &scorer);
  if (as_scorer.ok()) return scorer;
  proto::RunConfig run;
  if (const absl::Status as_run = MergeTextProtoFile(path, &run);
      !as_run.ok() || run.scorer().empty()) {
    // A file with a `scorer {` in it was meant as a run.
    return run.scorer().empty() && as_run.ok()
               ? absl::InvalidArgumentError(absl::StrCat(path, ": has no scorer"))
               : as_scorer;
  }
  std::vector<std::string> names;
  for (const proto::ScorerConfig& candidate : run.scorer()) {
    if (candidate.name() == name || (name.empty() && run.scorer_size() == 1)) return candidate;
    names.push_back(candidate.name());
  }
  return absl::InvalidArgumentError(absl::StrCat(
      path, ": --scorer is \"", name, "\", expected one of ", absl::StrJoin(names, ", ")));
}

absl::Status Score(const std::vector<std::string>& arguments) {
  std::string config_path, name;
  std::vector<std::string> overrides;
  FlagTable flags("wideberth score", "--config=scorer.txtpb [FILE]",
                  "{\"prompt\", \"completion\"} (or {\"messages\": [...]}) in, the typed result "
                  "out: {\"status\", \"value\" where SCORED, ...}.");
  flags.AddRequired("config", &config_path,
                    "one scorer (configs/scorers/*.txtpb), or a run's configuration with --scorer");
  flags.Add("scorer", &name, "which scorer of a run's configuration");
  flags.Add("override", &overrides, "fields put over the scorer's, e.g. 'output: LOG_ODDS'");
  std::string file;
  WB_ASSIGN_OR_RETURN(const bool go, flags.ParseWithFile(arguments, &file));
  if (!go) return absl::OkStatus();
  WB_ASSIGN_OR_RETURN(proto::ScorerConfig config, ReadScorer(config_path, name));
  for (const std::string& text : overrides)
    WB_RETURN_IF_ERROR(MergeTextProto(text, "--override", &config));
  if (!config.has_name()) config.set_name("scorer");
  WB_RETURN_IF_ERROR(scorer::ValidateScorerConfig(config));
  if (file.empty() || file == "-") {
    std::ios::sync_with_stdio(false);
    return scorer::ScoreLines(config, std::cin, std::cout);
  }
  std::ifstream lines(file, std::ios::binary);
  if (!lines)
    return absl::NotFoundError(absl::StrCat(file, ": cannot be read: ", std::strerror(errno)));
  return scorer::ScoreLines(config, lines, std::cout, file);
}

}  // namespace wideberth::launch
