// SPDX-License-Identifier: Apache-2.0
// `wideberth run` and `wideberth check`: configuration files -> a run on this machine.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/config.pb.h"

namespace wideberth::launch {

// What --redact_text stands for, as an --override.
inline constexpr char kRedactText[] = "redact_text: true";
inline constexpr char kRedactTextHelp[] =
    "keep the texts of prompts and completions out of logs, journal and pages, which have hashes "
    "instead (RunConfig.redact_text)";

// Merges files and overrides left to right and checks everything that can be checked without
// starting a process: fields, scorers, and, with `look_at_models`, that the model folders are there
// and whole. Errors are one sentence with file, line and field. Changes nothing on disk.
absl::StatusOr<proto::RunConfig> LoadRunConfig(const std::vector<std::string>& files,
                                               const std::vector<std::string>& overrides,
                                               bool look_at_models);

// The arguments after "run" or "check"; the result is the process's exit code (RunEnd of
// local_run.h).
absl::StatusOr<int> Run(const std::vector<std::string>& arguments);
absl::StatusOr<int> Check(const std::vector<std::string>& arguments);

// The configuration of the run in `run_dir`, with `overrides` over it; nothing is looked at but the
// file. NotFound where the folder holds no run.
absl::StatusOr<proto::RunConfig> ConfigOfRun(const std::string& run_dir,
                                             const std::vector<std::string>& overrides = {});

}  // namespace wideberth::launch
