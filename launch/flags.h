// SPDX-License-Identifier: Apache-2.0
// Command-line flags of one subcommand: a table of names, targets and help lines. Every `wideberth`
// subcommand declares its own, which global flag registries cannot do.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "base/nearest_name.h"

namespace wideberth::launch {

// Accepts --name=value, --name value, a bare --name for booleans (--name=false turns one off), one
// or two dashes; "--" ends the flags.
class FlagTable final {
 public:
  // `usage`: what follows the command's name on a command line. `about`: sentences for --help.
  FlagTable(absl::string_view command, absl::string_view usage, absl::string_view about);

  // `value` outlives Parse and keeps what it has where the flag is absent.
  void Add(absl::string_view name, std::string* value, absl::string_view help);
  void AddRequired(absl::string_view name, std::string* value, absl::string_view help);
  void Add(absl::string_view name, std::vector<std::string>* values,
           absl::string_view help);  // May be repeated.
  void Add(absl::string_view name, bool* value, absl::string_view help);
  void Add(absl::string_view name, int32_t* value, absl::string_view help);
  void Add(absl::string_view name, uint64_t* value, absl::string_view help);
  void Add(absl::string_view name, double* value, absl::string_view help);
  void Add(absl::string_view name, absl::optional<int32_t>* value, absl::string_view help);
  void Add(absl::string_view name, absl::optional<double>* value, absl::string_view help);

  // False where --help is among the arguments: it is printed, and nothing else is checked. The
  // arguments that are no flags go to `rest`, in order; without one there may be none.
  // InvalidArgument: an unknown flag (with the nearest name), a value that is missing or of the
  // wrong kind, a required flag that is absent or empty.
  absl::StatusOr<bool> Parse(const std::vector<std::string>& arguments,
                             std::vector<std::string>* rest = nullptr);
  // The same with one argument at most that is no flag: `file`, which stays empty for standard
  // input.
  absl::StatusOr<bool> ParseWithFile(const std::vector<std::string>& arguments, std::string* file);

  std::string Help() const;

 private:
  struct Flag {
    std::string name;
    std::string kind;  // "TEXT", "N", ...; empty: boolean.
    std::string help;
    std::function<bool(absl::string_view)> set;  // False: not of the kind.
    const std::string* required = nullptr;       // Its value, which must not be empty.
  };
  void AddFlag(absl::string_view name, absl::string_view kind, absl::string_view help,
               std::function<bool(absl::string_view)> set);
  absl::StatusOr<std::vector<std::string>> SetAll(const std::vector<std::string>& arguments);
  absl::StatusOr<const Flag*> Find(absl::string_view name) const;

  const std::string command_;
  const std::string usage_;
  const std::string about_;
  std::vector<Flag> flags_;
};

}  // namespace wideberth::launch
