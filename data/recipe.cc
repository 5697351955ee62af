// SPDX-License-Identifier: Apache-2.0
#include "data/recipe.h"

#include <limits>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace wideberth::data {
namespace {

absl::Status Bad(absl::string_view field, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(field, " ", what));
}

template <typename Number>
absl::Status AtLeast(absl::string_view field, Number value, Number least) {
  if (value >= least) return absl::OkStatus();
  return Bad(field, absl::StrCat("is ", value, ", must be at least ", least));
}

template <typename Conditions>
absl::Status ValidateConditions(const std::string& field, const Conditions& conditions) {
  for (const proto::FieldIs& condition : conditions) {
    if (condition.field().empty() || condition.is().empty())
      return Bad(field, "needs `field` and at least one `is`");
  }
  return absl::OkStatus();
}

absl::Status ValidateFiles(const std::string& field,
                           const google::protobuf::RepeatedPtrField<proto::DataFiles>& all) {
  for (const proto::DataFiles& files : all) {
    if (files.path().empty()) return Bad(absl::StrCat(field, ".path"), "is not given");
    if (files.has_list() && files.format() != proto::JSON && files.format() != proto::BY_NAME)
      return Bad(absl::StrCat(field, ".list"), "is given, which only the format JSON has");
    WB_RETURN_IF_ERROR(ValidateConditions(field + ".where", files.where()));
    WB_RETURN_IF_ERROR(ValidateConditions(field + ".unsafe_where", files.unsafe_where()));
  }
  return absl::OkStatus();
}

absl::Status ValidateLimits(const std::string& field, const proto::DataLimits& limits,
                            bool has_tokenizer) {
  WB_RETURN_IF_ERROR(AtLeast(field + ".min_characters", limits.min_characters(), 0));
  for (const auto& [name, is_set, value] :
       {std::tuple("max_characters", limits.has_max_characters(), limits.max_characters()),
        std::tuple("max_tokens", limits.has_max_tokens(), limits.max_tokens())}) {
    if (is_set) WB_RETURN_IF_ERROR(AtLeast(absl::StrCat(field, ".", name), value, 1));
  }
  if (limits.has_max_tokens() && !has_tokenizer)
    return Bad(field + ".max_tokens", "is given, which needs --tokenizer");
  return absl::OkStatus();
}

absl::Status ValidateWrap(const std::string& field, const proto::Wrap& wrap) {
  if (wrap.templates().empty()) return Bad(field + ".templates", "is not given");
  if (wrap.placeholder().empty() && !wrap.append())
    return Bad(field + ".placeholder", "is not given, expected one (or append: true)");
  for (const std::string& placeholder : wrap.placeholder()) {
    if (placeholder.empty()) return Bad(field + ".placeholder", "is an empty text");
  }
  return ValidateFiles(field + ".templates", wrap.templates());
}

absl::Status ValidateLongContext(const std::string& field, const proto::LongContext& context,
                                 bool has_tokenizer, const proto::DataLimits& limits) {
  if (context.filler().empty()) return Bad(field + ".filler", "is not given");
  WB_RETURN_IF_ERROR(ValidateFiles(field + ".filler", context.filler()));
  WB_RETURN_IF_ERROR(AtLeast(field + ".min_tokens", context.min_tokens(), 1));
  if (context.max_tokens() < context.min_tokens()) {
    return Bad(field + ".max_tokens",
               absl::StrCat("is ", context.max_tokens(), ", must be at least min_tokens, which is ",
                            context.min_tokens()));
  }
  if (limits.has_max_tokens() && context.max_tokens() > limits.max_tokens()) {
    return Bad(field + ".max_tokens",
               absl::StrCat("is ", context.max_tokens(),
                            ", must be at most limits.max_tokens, which is ", limits.max_tokens()));
  }
  if (!(context.share() > 0 && context.share() <= 1))
    return Bad(field + ".share", absl::StrCat("is ", context.share(), ", must be in (0, 1]"));
  return has_tokenizer ? absl::OkStatus() : Bad(field, "is given, which needs --tokenizer");
}

absl::Status ValidateSource(const proto::DataRecipe& recipe, const proto::DataSource& source,
                            bool has_tokenizer) {
  const std::string field = absl::StrCat("source \"", source.name(), "\": ");
  if (source.files().empty()) return Bad(field + "files", "is not given");
  WB_RETURN_IF_ERROR(ValidateFiles(field + "files", source.files()));
  WB_RETURN_IF_ERROR(AtLeast(field + "num_train", source.num_train(), 0));
  WB_RETURN_IF_ERROR(AtLeast(field + "num_test", source.num_test(), 0));
  if (source.num_train() == 0 && source.num_test() == 0)
    return Bad(field + "num_train and num_test", "are 0, expected one of them to be more");
  WB_RETURN_IF_ERROR(AtLeast(field + "max_unreadable", source.max_unreadable(), 0));
  const proto::DataLimits limits = LimitsOf(recipe, source);
  WB_RETURN_IF_ERROR(ValidateLimits(field + "limits", limits, has_tokenizer));
  if (source.has_wrap()) WB_RETURN_IF_ERROR(ValidateWrap(field + "wrap", source.wrap()));
  if (!source.has_long_context()) return absl::OkStatus();
  return ValidateLongContext(field + "long_context", source.long_context(), has_tokenizer, limits);
}

}  // namespace

proto::DataLimits LimitsOf(const proto::DataRecipe& recipe, const proto::DataSource& source) {
  proto::DataLimits limits = recipe.limits();
  limits.MergeFrom(source.limits());
  return limits;
}

absl::Status ValidateRecipe(const proto::DataRecipe& recipe, bool has_tokenizer) {
  if (recipe.source().empty()) return Bad("source", "is not given, expected at least one");
  std::set<std::string> names;
  for (const proto::DataSource& source : recipe.source()) {
    if (source.name().empty()) return Bad("source.name", "is not given");
    if (!names.insert(source.name()).second)
      return Bad("source.name", absl::StrCat("\"", source.name(), "\" is given twice"));
    WB_RETURN_IF_ERROR(ValidateSource(recipe, source, has_tokenizer));
  }
  const proto::NearDuplicates& near = recipe.near_duplicates();
  WB_RETURN_IF_ERROR(AtLeast("near_duplicates.shingle_words", near.shingle_words(), 1));
  if (!(near.threshold() > 0 && near.threshold() <= 1)) {
    return Bad("near_duplicates.threshold",
               absl::StrCat("is ", near.threshold(), ", must be in (0, 1]"));
  }
  return ValidateFiles("stay_clear_of", recipe.stay_clear_of());
}

}  // namespace wideberth::data
