// SPDX-License-Identifier: Apache-2.0
// See pretokenizer.h.
#include "model/pretokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "base/status.h"
#include "model/unicode_text.h"

namespace wideberth::model {
namespace {

// ByteLevel's own split (GPT-2).
constexpr char kByteLevelRegex[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace

absl::StatusOr<PreTokenizer> PreTokenizer::FromJson(const JsonNode& node) {
  PreTokenizer result;
  if (!node.is_null()) WB_RETURN_IF_ERROR(result.Add(node));
  return result;
}

absl::Status PreTokenizer::Add(const JsonNode& node) {
  if (byte_level_) return node.Unsupported("nothing after ByteLevel");
  WB_ASSIGN_OR_RETURN(const std::string type, node.Field("type").String());
  if (type == "ByteLevel") return AddByteLevel(node);
  if (type == "Split") return AddSplit(node);
  if (type == "Digits") {
    WB_RETURN_IF_ERROR(node.OnlyFields({"type", "individual_digits"}));
    WB_ASSIGN_OR_RETURN(const bool individual, node.Field("individual_digits").Bool(false));
    Step step;
    step.kind = Step::Kind::kDigits;
    step.behavior = individual ? Behavior::kIsolated : Behavior::kContiguous;
    steps_.push_back(std::move(step));
    return absl::OkStatus();
  }
  if (type == "Sequence") {
    WB_RETURN_IF_ERROR(node.OnlyFields({"type", "pretokenizers"}));
    WB_ASSIGN_OR_RETURN(const std::vector<JsonNode> items, node.Field("pretokenizers").Items());
    for (const JsonNode& item : items) WB_RETURN_IF_ERROR(Add(item));
    return absl::OkStatus();
  }
  return node.Field("type").Unsupported("ByteLevel, Split, Digits, Sequence");
}

absl::Status PreTokenizer::AddByteLevel(const JsonNode& node) {
  // trim_offsets moves offsets only, which nobody asks for here.
  WB_RETURN_IF_ERROR(node.OnlyFields({"type", "add_prefix_space", "trim_offsets", "use_regex"}));
  WB_ASSIGN_OR_RETURN(const bool prefix_space, node.Field("add_prefix_space").Bool(true));
  WB_ASSIGN_OR_RETURN(const bool use_regex, node.Field("use_regex").Bool(true));
  if (prefix_space) {
    Step step;
    step.kind = Step::Kind::kPrefixSpace;
    steps_.push_back(std::move(step));
  }
  if (use_regex) {
    Step step;
    WB_ASSIGN_OR_RETURN(step.regex, Regex::Compile(kByteLevelRegex));
    steps_.push_back(std::move(step));
  }
  byte_level_ = true;
  return absl::OkStatus();
}

absl::Status PreTokenizer::AddSplit(const JsonNode& node) {
  WB_RETURN_IF_ERROR(node.OnlyFields({"type", "pattern", "behavior", "invert"}));
  Step step;
  const JsonNode pattern = node.Field("pattern");
  WB_RETURN_IF_ERROR(pattern.OnlyFields({"Regex", "String"}));
  const bool literal = pattern.Field("Regex").is_null();
  WB_ASSIGN_OR_RETURN(const std::string text, pattern.Field(literal ? "String" : "Regex").String());
  absl::StatusOr<Regex> regex = literal ? Regex::CompileLiteral(text) : Regex::Compile(text);
  if (!regex.ok()) return Annotate(regex.status(), pattern.place());
  step.regex = *std::move(regex);

  WB_ASSIGN_OR_RETURN(const std::string behavior, node.Field("behavior").String());
  constexpr std::pair<absl::string_view, Behavior> kBehaviors[] = {
      {"Removed", Behavior::kRemoved},
      {"Isolated", Behavior::kIsolated},
      {"MergedWithPrevious", Behavior::kMergedWithPrevious},
      {"MergedWithNext", Behavior::kMergedWithNext},
      {"Contiguous", Behavior::kContiguous}};
  const auto* found = std::find_if(std::begin(kBehaviors), std::end(kBehaviors),
                                   [&](const auto& entry) { return entry.first == behavior; });
  if (found == std::end(kBehaviors)) {
    return node.Field("behavior")
        .Unsupported("Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous");
  }
  step.behavior = found->second;
  WB_ASSIGN_OR_RETURN(step.invert, node.Field("invert").Bool(false));
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

void PreTokenizer::FindRuns(const Step& step, absl::string_view piece, RegexScratch* scratch,
                            std::vector<Run>* runs) {
  size_t end = 0;  // Of the last match.
  const auto add = [&](size_t match_begin, size_t match_end) {
    if (match_begin > end) runs->push_back({end, match_begin, step.invert});
    runs->push_back({match_begin, match_end, !step.invert});
    end = match_end;
  };
  size_t from = 0, length = 0;
  if (step.kind == Step::Kind::kDigits) {
    for (; from < piece.size(); from += length) {
      if (IsNumeric(CodePointAt(piece, from, &length))) add(from, from + length);
    }
  } else {
    size_t begin = 0, match_end = 0;
    bool any = false;
    while (from <= piece.size() && step.regex->Find(piece, from, scratch, &begin, &match_end)) {
      if (begin == match_end && any && end == match_end) {
        // An empty match right behind a match: go on one character later.
        if (from >= piece.size()) break;
        CodePointAt(piece, from, &length);
        from += length;
        continue;
      }
      add(begin, match_end);
      any = true;
      from = match_end;
    }
  }
  if (end < piece.size()) runs->push_back({end, piece.size(), step.invert});
}

void PreTokenizer::Apply(const Step& step, absl::string_view piece, PreTokenizerScratch* scratch) {
  std::vector<absl::string_view>& out = scratch->next;
  if (step.kind == Step::Kind::kPrefixSpace) {
    if (piece[0] != ' ') piece = scratch->prefixed.emplace_back(absl::StrCat(" ", piece));
    out.push_back(piece);
    return;
  }
  if (step.kind == Step::Kind::kRegex && step.behavior == Behavior::kIsolated &&
      !step.regex->MayMatchEmpty()) {
    // The usual case, without a list of runs: a piece for every match and for every gap.
    size_t from = 0, begin = 0, end = 0;
    while (from < piece.size() && step.regex->Find(piece, from, &scratch->regex, &begin, &end)) {
      if (begin > from) out.push_back(piece.substr(from, begin - from));
      out.push_back(piece.substr(begin, end - begin));
      from = end;
    }
    if (from < piece.size()) out.push_back(piece.substr(from));
    return;
  }
  std::vector<Run> runs;
  FindRuns(step, piece, &scratch->regex, &runs);
  if (step.behavior == Behavior::kMergedWithNext) std::reverse(runs.begin(), runs.end());
  std::vector<Run> merged;
  bool previous_match = false;
  for (const Run& run : runs) {
    bool join = false;
    switch (step.behavior) {
      case Behavior::kContiguous:
        join = run.match == previous_match;
        break;
      case Behavior::kMergedWithPrevious:
      case Behavior::kMergedWithNext:
        join = run.match && !previous_match;
        break;
      default:
        break;
    }
    if (join && !merged.empty()) {
      merged.back().begin = std::min(merged.back().begin, run.begin);
      merged.back().end = std::max(merged.back().end, run.end);
    } else {
      merged.push_back(run);
    }
    previous_match = run.match;
  }
  if (step.behavior == Behavior::kMergedWithNext) std::reverse(merged.begin(), merged.end());
  for (const Run& run : merged) {
    if (run.begin == run.end || (step.behavior == Behavior::kRemoved && run.match)) continue;
    out.push_back(piece.substr(run.begin, run.end - run.begin));
  }
}

const std::vector<absl::string_view>& PreTokenizer::Split(absl::string_view text,
                                                          PreTokenizerScratch* scratch) const {
  scratch->pieces.clear();
  scratch->prefixed.clear();
  if (!text.empty()) scratch->pieces.push_back(text);
  for (const Step& step : steps_) {
    scratch->next.clear();
    for (absl::string_view piece : scratch->pieces) Apply(step, piece, scratch);
    scratch->pieces.swap(scratch->next);
  }
  return scratch->pieces;
}

}  // namespace wideberth::model
