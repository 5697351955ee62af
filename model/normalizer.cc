// SPDX-License-Identifier: Apache-2.0
// See normalizer.h.
#include "model/normalizer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status.h"

namespace wideberth::model {

absl::StatusOr<Normalizer> Normalizer::FromJson(const JsonNode& node) {
  Normalizer normalizer;
  if (!node.is_null()) WB_RETURN_IF_ERROR(normalizer.Add(node));
  return normalizer;
}

absl::Status Normalizer::Add(const JsonNode& node) {
  const absl::StatusOr<std::string> type_or = node.Field("type").String();
  WB_RETURN_IF_ERROR(type_or.status());
  const std::string& type = *type_or;
  Step step{};
  if (type == "Sequence") {
    WB_RETURN_IF_ERROR(node.OnlyFields({"type", "normalizers"}));
    WB_ASSIGN_OR_RETURN(const std::vector<JsonNode> items, node.Field("normalizers").Items());
    for (const JsonNode& item : items) WB_RETURN_IF_ERROR(Add(item));
    return absl::OkStatus();
  }
  if (type == "Prepend") {
    WB_RETURN_IF_ERROR(node.OnlyFields({"type", "prepend"}));
    step.kind = Step::Kind::kPrepend;
    WB_ASSIGN_OR_RETURN(step.content, node.Field("prepend").String());
    if (step.content.size() > Growth::kMost)
      return node.Field("prepend").Unsupported("at most 64 bytes");
  } else if (type == "Replace") {
    WB_RETURN_IF_ERROR(node.OnlyFields({"type", "pattern", "content"}));
    WB_RETURN_IF_ERROR(node.Field("pattern").OnlyFields({"String"}));
    step.kind = Step::Kind::kReplace;
    WB_ASSIGN_OR_RETURN(step.pattern, node.Field("pattern").Field("String").String());
    WB_ASSIGN_OR_RETURN(step.content, node.Field("content").String());
    if (step.pattern.empty())
      return node.Field("pattern").Unsupported("a pattern of a character or more");
    WB_RETURN_IF_ERROR(growth_.Add(node, step.pattern, step.content));
  } else {
    step.kind = Step::Kind::kForm;
    if (type == "NFC") {
      step.form = NormalForm::kNfc;
    } else if (type == "NFD") {
      step.form = NormalForm::kNfd;
    } else if (type == "NFKC") {
      step.form = NormalForm::kNfkc;
    } else if (type == "NFKD") {
      step.form = NormalForm::kNfkd;
    } else {
      return node.Field("type").Unsupported("NFC, NFD, NFKC, NFKD, Prepend, Replace, Sequence");
    }
    WB_RETURN_IF_ERROR(node.OnlyFields({"type"}));
  }
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

bool Normalizer::IsIdentityFor(absl::string_view text) const {
  return std::all_of(steps_.begin(), steps_.end(), [&](const Step& step) {
    return step.kind == Step::Kind::kForm && step.form == NormalForm::kNfc && IsPlainlyNfc(text);
  });
}

std::string Normalizer::Apply(absl::string_view text) const {
  std::string result(text);
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Step::Kind::kForm:
        result = Normalize(result, step.form);
        break;
      case Step::Kind::kPrepend:
        if (!result.empty()) result = absl::StrCat(step.content, result);
        break;
      case Step::Kind::kReplace:
        result = absl::StrReplaceAll(result, {{step.pattern, step.content}});
        break;
    }
  }
  return result;
}

}  // namespace wideberth::model
