// SPDX-License-Identifier: Apache-2.0
#include "learner/sources.h"

#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "base/text_proto.h"

namespace wideberth::learner {

std::vector<char*> TakeSources(int argc, char** argv, Sources* sources) {
  std::vector<char*> rest = {argv[0]};
  for (int i = 1; i < argc; ++i) {
    absl::string_view flag = argv[i];
    absl::string_view name = flag;
    if (!absl::ConsumePrefix(&name, "--")) absl::ConsumePrefix(&name, "-");
    const size_t equals = name.find('=');
    const absl::string_view key = name.substr(0, equals);
    const bool is_source = flag != name && (key == "config" || key == "override");
    if (!is_source || (equals == absl::string_view::npos && i + 1 >= argc)) {
      rest.push_back(argv[i]);
      continue;
    }
    const std::string value(equals == absl::string_view::npos ? absl::string_view(argv[++i])
                                                              : name.substr(equals + 1));
    if (key == "override") {
      sources->overrides.push_back(value);
    } else {
      for (absl::string_view file : absl::StrSplit(value, ',', absl::SkipEmpty()))
        sources->files.emplace_back(file);
    }
  }
  return rest;
}

absl::StatusOr<proto::RunConfig> MergeSources(const Sources& sources) {
  if (sources.files.empty()) {
    return absl::InvalidArgumentError(
        "--config is not given, expected a configuration file (configs/*.txtpb)");
  }
  proto::RunConfig config;
  for (const std::string& file : sources.files) {
    WB_RETURN_IF_ERROR(MergeTextProtoFile(file, &config));
  }
  for (const std::string& text : sources.overrides) {
    WB_RETURN_IF_ERROR(MergeTextProto(text, "--override", &config));
  }
  return config;
}

}  // namespace wideberth::learner
