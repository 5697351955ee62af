// SPDX-License-Identifier: Apache-2.0
#include "launch/flags.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"

namespace wideberth::launch {
FlagTable::FlagTable(absl::string_view command, absl::string_view usage, absl::string_view about)
    : command_(command), usage_(usage), about_(about) {}

void FlagTable::AddFlag(absl::string_view name, absl::string_view kind, absl::string_view help,
                        std::function<bool(absl::string_view)> set) {
  flags_.push_back(
      {std::string(name), std::string(kind), std::string(help), std::move(set), nullptr});
}

void FlagTable::Add(absl::string_view name, std::string* value, absl::string_view help) {
  AddFlag(name, "TEXT", help, [value](absl::string_view text) {
    *value = std::string(text);
    return true;
  });
}

void FlagTable::AddRequired(absl::string_view name, std::string* value, absl::string_view help) {
  Add(name, value, help);
  flags_.back().required = value;
}

void FlagTable::Add(absl::string_view name, std::vector<std::string>* values,
                    absl::string_view help) {
  AddFlag(name, "TEXT", help, [values](absl::string_view text) {
    values->emplace_back(text);
    return true;
  });
}

void FlagTable::Add(absl::string_view name, bool* value, absl::string_view help) {
  AddFlag(name, "", help,
          [value](absl::string_view text) { return absl::SimpleAtob(text, value); });
}

void FlagTable::Add(absl::string_view name, int32_t* value, absl::string_view help) {
  AddFlag(name, "N", help,
          [value](absl::string_view text) { return absl::SimpleAtoi(text, value); });
}

void FlagTable::Add(absl::string_view name, uint64_t* value, absl::string_view help) {
  AddFlag(name, "N", help,
          [value](absl::string_view text) { return absl::SimpleAtoi(text, value); });
}

void FlagTable::Add(absl::string_view name, double* value, absl::string_view help) {
  AddFlag(name, "X", help,
          [value](absl::string_view text) { return absl::SimpleAtod(text, value); });
}

void FlagTable::Add(absl::string_view name, absl::optional<int32_t>* value,
                    absl::string_view help) {
  AddFlag(name, "N", help, [value](absl::string_view text) {
    int32_t number = 0;
    if (!absl::SimpleAtoi(text, &number)) return false;
    *value = number;
    return true;
  });
}

void FlagTable::Add(absl::string_view name, absl::optional<double>* value, absl::string_view help) {
  AddFlag(name, "X", help, [value](absl::string_view text) {
    double number = 0;
    if (!absl::SimpleAtod(text, &number)) return false;
    *value = number;
    return true;
  });
}

absl::StatusOr<const FlagTable::Flag*> FlagTable::Find(absl::string_view name) const {
  std::vector<std::string> names = {"help"};
  for (const Flag& flag : flags_) {
    if (flag.name == name) return &flag;
    names.push_back(flag.name);
  }
  const std::string nearest = NearestName(name, names);
  return absl::InvalidArgumentError(
      absl::StrCat("there is no flag --", name,
                   nearest.empty() ? "" : absl::StrCat("; the nearest is --", nearest), " (see ",
                   command_, " --help)"));
}

absl::StatusOr<bool> FlagTable::Parse(const std::vector<std::string>& arguments,
                                      std::vector<std::string>* rest) {
  const auto is_help = [](const std::string& argument) {
    return argument == "--help" || argument == "-h" || argument == "-help";
  };
  if (std::any_of(arguments.begin(), std::find(arguments.begin(), arguments.end(), "--"),
                  is_help)) {
    std::fputs(Help().c_str(), stdout);
    return false;
  }
  WB_ASSIGN_OR_RETURN(std::vector<std::string> positional, SetAll(arguments));
  if (rest == nullptr && !positional.empty()) {
    const bool takes_config = std::any_of(flags_.begin(), flags_.end(),
                                          [](const Flag& flag) { return flag.name == "config"; });
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", positional[0], "\" is no flag",
        takes_config ? absl::StrCat("; a configuration is --config=", positional[0]) : ""));
  }
  for (const Flag& flag : flags_) {
    if (flag.required == nullptr || !flag.required->empty()) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("--", flag.name, " is not given (see ", command_, " --help)"));
  }
  if (rest != nullptr) *rest = std::move(positional);
  return true;
}

absl::StatusOr<bool> FlagTable::ParseWithFile(const std::vector<std::string>& arguments,
                                              std::string* file) {
  std::vector<std::string> rest;
  WB_ASSIGN_OR_RETURN(const bool go, Parse(arguments, &rest));
  if (rest.size() > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", rest[1], "\": one file at most, or standard input"));
  }
  if (!rest.empty()) *file = rest[0];
  return go;
}

absl::StatusOr<std::vector<std::string>> FlagTable::SetAll(
    const std::vector<std::string>& arguments) {
  std::vector<std::string> positional;
  for (size_t i = 0; i < arguments.size(); ++i) {
    absl::string_view argument = arguments[i];
    if (argument == "--") {
      positional.insert(positional.end(), arguments.begin() + i + 1, arguments.end());
      break;
    }
    if (argument.size() < 2 || argument[0] != '-') {  // "-" is standard input.
      positional.emplace_back(argument);
      continue;
    }
    argument.remove_prefix(argument[1] == '-' ? 2 : 1);
    const size_t equals = argument.find('=');
    WB_ASSIGN_OR_RETURN(const Flag* const flag, Find(argument.substr(0, equals)));
    absl::string_view value;
    if (equals != absl::string_view::npos) {
      value = argument.substr(equals + 1);
    } else if (flag->kind.empty()) {
      value = "true";
    } else if (i + 1 < arguments.size()) {
      value = arguments[++i];
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("--", flag->name, " needs a value: --", flag->name, "=", flag->kind));
    }
    if (!flag->set(value)) {
      const char* const expected = flag->kind == "N"   ? "a whole number"
                                   : flag->kind == "X" ? "a number"
                                                       : "true or false";
      return absl::InvalidArgumentError(
          absl::StrCat("--", flag->name, " is \"", value, "\", expected ", expected));
    }
  }
  return positional;
}

std::string FlagTable::Help() const {
  std::string text = absl::StrCat("Usage: ", command_, " ", usage_, "\n\n", about_, "\n\n");
  for (const Flag& flag : flags_) {
    const std::string left = flag.kind.empty() ? absl::StrCat("--", flag.name)
                                               : absl::StrCat("--", flag.name, "=", flag.kind);
    absl::StrAppend(&text, absl::StrFormat("  %-26s %s\n", left, flag.help));
  }
  return text;
}

}  // namespace wideberth::launch
