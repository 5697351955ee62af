// SPDX-License-Identifier: Apache-2.0
#include "launch/json_lines.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/json.h"
#include "base/status.h"

namespace wideberth::launch {

absl::Status ForLines(const std::string& path, int batch_lines,
                      const std::function<absl::Status(const std::vector<InputLine>&)>& take) {
  const bool standard = path.empty() || path == "-";
  std::ifstream file;
  if (!standard) {
    file.open(path, std::ios::binary);
    if (!file)
      return absl::NotFoundError(absl::StrCat(path, ": cannot be read: ", std::strerror(errno)));
  }
  std::istream& input = standard ? std::cin : file;
  if (standard && ::isatty(STDIN_FILENO)) batch_lines = 1;
  std::vector<InputLine> batch;
  std::string text;
  uint64_t line_number = 0, index = 0;
  while (std::getline(input, text)) {
    ++line_number;
    if (!text.empty() && text.back() == '\r') text.pop_back();
    if (text.empty()) continue;
    batch.push_back({std::move(text),
                     absl::StrCat(standard ? "standard input" : path, ":", line_number), index++});
    if (batch.size() < static_cast<size_t>(batch_lines)) continue;
    WB_RETURN_IF_ERROR(take(batch));
    batch.clear();
  }
  if (input.bad())
    return absl::UnavailableError(
        absl::StrCat(standard ? "standard input" : path, ": reading failed"));
  return batch.empty() ? absl::OkStatus() : take(batch);
}

absl::StatusOr<nlohmann::json> ParseObject(const InputLine& line) {
  WB_RETURN_IF_ERROR(CheckJsonNesting(line.text, line.origin));
  try {
    nlohmann::json object = nlohmann::json::parse(line.text);
    if (object.is_object()) return object;
    return absl::InvalidArgumentError(
        absl::StrCat(line.origin, ": is a JSON ", object.type_name(), ", expected an object"));
  } catch (const nlohmann::json::parse_error& error) {
    return absl::InvalidArgumentError(absl::StrCat(
        line.origin, ":", error.byte, ": not JSON, expected an object like {\"prompt\": \"...\"}"));
  } catch (const nlohmann::json::out_of_range&) {
    return absl::InvalidArgumentError(
        absl::StrCat(line.origin, ": has a number that no double can hold"));
  }
}

absl::StatusOr<std::vector<int32_t>> TokenIds(const nlohmann::json& object,
                                              const std::string& field, const InputLine& line,
                                              int64_t limit) {
  const auto found = object.find(field);
  if (found == object.end() || !found->is_array()) {
    return absl::InvalidArgumentError(absl::StrCat(line.origin, ": field \"", field, "\" is ",
                                                   found == object.end() ? "missing" : "no list",
                                                   ", expected a list of token ids"));
  }
  std::vector<int32_t> ids;
  for (const nlohmann::json& id : *found) {
    if (!id.is_number_integer() || id.get<double>() < 0 ||
        id.get<double>() >= static_cast<double>(limit)) {
      return absl::InvalidArgumentError(
          absl::StrCat(line.origin, ": ", field, "[", ids.size(), "] is ", id.dump(),
                       ", expected a token id from 0 to ", limit - 1));
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

absl::Status PrintLine(const nlohmann::ordered_json& object) {
  const std::string text =
      object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    return absl::UnavailableError(
        absl::StrCat("standard output cannot be written: ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

}  // namespace wideberth::launch
