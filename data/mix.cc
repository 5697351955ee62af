// SPDX-License-Identifier: Apache-2.0
#include "data/mix.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <memory>
#include <unordered_map>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "data/duplicates.h"
#include "data/recipe.h"

namespace wideberth::data {
namespace {

enum Split { kTest = 0, kTrain = 1 };
constexpr Split Other(Split split) { return split == kTest ? kTrain : kTest; }

struct Request {
  Row row;
  Signature signature;
  uint64_t rank = 0;
};

// How many of `n` things that both splits need go to the test prompts, by the weights of the two.
absl::StatusOr<size_t> TestShare(size_t n, double test, double train,
                                 const proto::DataSource& source, absl::string_view what) {
  if (test == 0) return 0;
  if (train == 0) return n;
  if (n < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("source \"", source.name(), "\" has ", n, " ", what,
                     ", expected at least 2 to divide between training and test"));
  }
  return std::clamp<size_t>(std::llround(test / (test + train) * static_cast<double>(n)), 1, n - 1);
}

int64_t NumCharacters(absl::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

class Mixer {
 public:
  Mixer(const proto::DataRecipe& recipe, const std::string& root, const TokenCounter& count_tokens)
      : recipe_(recipe),
        root_(root),
        count_tokens_(count_tokens),
        stay_clear_(recipe.near_duplicates().threshold()),
        requests_(recipe.near_duplicates().threshold()),
        texts_{DuplicateIndex(recipe.near_duplicates().threshold()),
               DuplicateIndex(recipe.near_duplicates().threshold())} {}

  absl::StatusOr<Mix> Run(const std::function<void(const std::string&)>& progress);

 private:
  using Files = google::protobuf::RepeatedPtrField<proto::DataFiles>;

  Signature SignatureOf(absl::string_view text) const {
    return Sign(Normalized(text), recipe_.near_duplicates().shingle_words());
  }
  uint64_t Draw(absl::string_view purpose, absl::string_view text) const {
    return StableHash(recipe_.seed(), absl::StrCat(purpose, "\n", text));
  }
  double DrawShare(absl::string_view purpose, absl::string_view text) const {
    return static_cast<double>(Draw(purpose, text) >> 11) * 0x1.0p-53;
  }

  absl::StatusOr<std::vector<Request>> Ranked(const Files& files, int64_t max_unreadable,
                                              Account* account);
  absl::optional<Drop> RefusedRequest(const Signature& signature) const;
  absl::optional<Drop> RefusedLength(const proto::DataLimits& limits,
                                     const std::string& text) const;
  bool IsFull(const proto::DataSource& source, Split split) const {
    return num_taken_[split] >= (split == kTest ? source.num_test() : source.num_train());
  }

  absl::Status DrawStayClear();
  absl::Status DrawSource(const proto::DataSource& source);
  absl::Status DrawPlain(const proto::DataSource& source);
  absl::Status DrawWrapped(const proto::DataSource& source);
  absl::StatusOr<std::vector<Request>> UsableTemplates(const proto::DataSource& source);
  absl::StatusOr<std::vector<Request>> UsableRequests(const proto::DataSource& source);
  absl::Status ReadFiller(const proto::DataSource& source);
  absl::StatusOr<std::string> InContext(const proto::DataSource& source, const std::string& text,
                                        Split split) const;
  absl::StatusOr<absl::optional<Drop>> Offer(const proto::DataSource& source, Row row, Split split);
  void NoteShortage(const proto::DataSource& source);

  Account* AddPart(const std::string& source, const char* name) {
    parts_.push_back({source, name, {}});
    return &parts_.back().account;
  }

  const proto::DataRecipe& recipe_;
  const std::string root_;
  const TokenCounter count_tokens_;
  DuplicateIndex stay_clear_;
  DuplicateIndex requests_;            // Of all sources and both splits.
  DuplicateIndex texts_[2];            // Whole prompts, by split.
  std::unique_ptr<Filler> filler_[2];  // Of the source that is being drawn.
  int64_t num_taken_[2] = {0, 0};      // Of the source that is being drawn.
  std::vector<MixedPrompt> prompts_[2];
  std::unordered_map<std::string, std::string> origin_of_id_;
  std::deque<Mix::Part> parts_;  // Accounts keep their place.
  std::vector<InputFile> inputs_;
  std::vector<std::string> shortages_;
};

// The rows in drawing order.
absl::StatusOr<std::vector<Request>> Mixer::Ranked(const Files& files, int64_t max_unreadable,
                                                   Account* account) {
  std::vector<Row> rows;
  WB_RETURN_IF_ERROR(ReadRows(files, root_, max_unreadable, &rows, account, &inputs_));
  std::vector<Request> ranked;
  for (Row& row : rows) {
    const std::string normalized = Normalized(row.text);
    Signature signature = Sign(normalized, recipe_.near_duplicates().shingle_words());
    ranked.push_back({std::move(row), std::move(signature), Draw("rank", normalized)});
  }
  std::stable_sort(ranked.begin(), ranked.end(),
                   [](const Request& a, const Request& b) { return a.rank < b.rank; });
  return ranked;
}

absl::optional<Drop> Mixer::RefusedRequest(const Signature& signature) const {
  if (stay_clear_.Find(signature) != Match::kNone) return Drop::kStayClear;
  switch (requests_.Find(signature)) {
    case Match::kSame:
      return Drop::kDuplicate;
    case Match::kNear:
      return Drop::kNearDuplicate;
    case Match::kNone:
      break;
  }
  return absl::nullopt;
}

absl::optional<Drop> Mixer::RefusedLength(const proto::DataLimits& limits,
                                          const std::string& text) const {
  const int64_t num_characters = NumCharacters(text);
  if (num_characters < limits.min_characters()) return Drop::kTooShort;
  if (limits.has_max_characters() && num_characters > limits.max_characters())
    return Drop::kTooLong;
  if (limits.has_max_tokens() && count_tokens_(text) > limits.max_tokens()) return Drop::kTooLong;
  return absl::nullopt;
}

absl::Status Mixer::DrawStayClear() {
  if (recipe_.stay_clear_of().empty()) return absl::OkStatus();
  Account* const account = AddPart("stay_clear_of", "prompts");
  WB_ASSIGN_OR_RETURN(std::vector<Request> requests, Ranked(recipe_.stay_clear_of(), 0, account));
  account->taken = static_cast<int64_t>(requests.size());
  for (Request& request : requests) stay_clear_.Add(std::move(request.signature));
  return absl::OkStatus();
}

absl::StatusOr<std::string> Mixer::InContext(const proto::DataSource& source,
                                             const std::string& text, Split split) const {
  const proto::LongContext& context = source.long_context();
  const int64_t span = context.max_tokens() - context.min_tokens() + 1;
  const int64_t num_tokens =
      context.min_tokens() + static_cast<int64_t>(DrawShare("tokens", text) * span);
  absl::StatusOr<std::string> whole =
      filler_[split]->Surround(text, num_tokens, Draw("filler", text));
  if (whole.ok()) return whole;
  return Annotate(whole.status(), absl::StrCat("source \"", source.name(), "\": long_context"));
}

// Takes a request, wrapped or not, into the split, or says why not.
absl::StatusOr<absl::optional<Drop>> Mixer::Offer(const proto::DataSource& source, Row row,
                                                  Split split) {
  proto::DataLimits limits = LimitsOf(recipe_, source);
  const proto::LongContext& context = source.long_context();
  if (source.has_long_context() && DrawShare("share", row.text) < context.share()) {
    WB_ASSIGN_OR_RETURN(row.text, InContext(source, row.text, split));
    limits.set_max_tokens(context.max_tokens());  // A request may be longer all by itself.
  }
  if (const auto refused = RefusedLength(limits, row.text)) return refused;
  Signature signature = SignatureOf(row.text);
  if (stay_clear_.Find(signature) != Match::kNone) return {Drop::kStayClear};
  if (texts_[Other(split)].Find(signature) != Match::kNone) return {Drop::kNearOtherSplit};
  texts_[split].Add(std::move(signature));

  MixedPrompt prompt;
  prompt.id =
      absl::StrCat(source.name(), "-",
                   row.id.empty() ? absl::StrFormat("%016x", StableHash(0, row.text)) : row.id);
  const auto [used, inserted] = origin_of_id_.emplace(prompt.id, row.origin);
  if (!inserted) {
    return absl::InvalidArgumentError(
        absl::StrCat(row.origin, ": the id \"", prompt.id, "\" is already used at ", used->second));
  }
  prompt.text = std::move(row.text);
  if (source.has_unsafe()) prompt.unsafe = source.unsafe();
  if (row.unsafe.has_value()) prompt.unsafe = row.unsafe;
  prompt.category = row.category.empty() ? source.name() : row.category;
  prompt.source = row.source.empty() ? source.name() : row.source;
  prompts_[split].push_back(std::move(prompt));
  ++num_taken_[split];
  return absl::optional<Drop>();
}

absl::Status Mixer::DrawPlain(const proto::DataSource& source) {
  Account* const account = AddPart(source.name(), "prompts");
  WB_ASSIGN_OR_RETURN(std::vector<Request> requests,
                      Ranked(source.files(), source.max_unreadable(), account));
  for (Request& request : requests) {
    const Split split = IsFull(source, kTest) ? kTrain : kTest;
    if (IsFull(source, split)) break;
    absl::optional<Drop> refused = RefusedRequest(request.signature);
    if (!refused.has_value()) {
      WB_ASSIGN_OR_RETURN(refused, Offer(source, std::move(request.row), split));
    }
    if (refused.has_value()) {
      ++account->dropped[*refused];
      continue;
    }
    ++account->taken;
    requests_.Add(std::move(request.signature));
  }
  NoteShortage(source);
  return absl::OkStatus();
}

// Those that have a place for the request and are no near duplicates of each other.
absl::StatusOr<std::vector<Request>> Mixer::UsableTemplates(const proto::DataSource& source) {
  const proto::Wrap& wrap = source.wrap();
  const std::vector<std::string> placeholders(wrap.placeholder().begin(), wrap.placeholder().end());
  Account* const account = AddPart(source.name(), "templates");
  WB_ASSIGN_OR_RETURN(std::vector<Request> ranked, Ranked(wrap.templates(), 0, account));
  DuplicateIndex seen(recipe_.near_duplicates().threshold());
  std::vector<Request> usable;
  for (Request& one : ranked) {
    const Match match = seen.Find(one.signature);
    if (!wrap.append() && !HasPlaceholder(one.row.text, placeholders)) {
      ++account->dropped[Drop::kNoPlaceholder];
    } else if (match != Match::kNone) {
      ++account->dropped[match == Match::kSame ? Drop::kDuplicate : Drop::kNearDuplicate];
    } else {
      seen.Add(one.signature);
      usable.push_back(std::move(one));
    }
  }
  account->taken = static_cast<int64_t>(usable.size());
  return usable;
}

absl::StatusOr<std::vector<Request>> Mixer::UsableRequests(const proto::DataSource& source) {
  Account* const account = AddPart(source.name(), "requests");
  WB_ASSIGN_OR_RETURN(std::vector<Request> ranked,
                      Ranked(source.files(), source.max_unreadable(), account));
  std::vector<Request> usable;
  for (Request& request : ranked) {
    if (const auto refused = RefusedRequest(request.signature)) {
      ++account->dropped[*refused];
      continue;
    }
    requests_.Add(request.signature);
    usable.push_back(std::move(request));
  }
  account->taken = static_cast<int64_t>(usable.size());
  return usable;
}

absl::Status Mixer::DrawWrapped(const proto::DataSource& source) {
  WB_ASSIGN_OR_RETURN(const std::vector<Request> requests, UsableRequests(source));
  WB_ASSIGN_OR_RETURN(const std::vector<Request> templates, UsableTemplates(source));
  // With roots as weights each split has as large a share of all pairs as of the prompts wanted.
  const double test = std::sqrt(source.num_test()), train = std::sqrt(source.num_train());
  WB_ASSIGN_OR_RETURN(const size_t test_requests,
                      TestShare(requests.size(), test, train, source, "usable requests"));
  WB_ASSIGN_OR_RETURN(const size_t test_templates,
                      TestShare(templates.size(), test, train, source, "usable templates"));
  const std::vector<std::string> placeholders(source.wrap().placeholder().begin(),
                                              source.wrap().placeholder().end());
  Account* const account = AddPart(source.name(), "prompts");
  for (Split split : {kTest, kTrain}) {
    const size_t request_0 = split == kTest ? 0 : test_requests;
    const size_t template_0 = split == kTest ? 0 : test_templates;
    const int64_t n = (split == kTest ? test_templates : templates.size()) - template_0;
    const int64_t m = (split == kTest ? test_requests : requests.size()) - request_0;
    for (int64_t i = 0; i < n * m && !IsFull(source, split); ++i) {
      const auto [which_template, which_request] = BalancedPair(i, n, m);
      Row row = requests[request_0 + which_request].row;
      row.id.clear();  // The request's, not the prompt's.
      row.text = PutInto(templates[template_0 + which_template].row.text, placeholders, row.text);
      ++account->read;
      WB_ASSIGN_OR_RETURN(const absl::optional<Drop> refused, Offer(source, std::move(row), split));
      ++(refused.has_value() ? account->dropped[*refused] : account->taken);
    }
  }
  NoteShortage(source);
  return absl::OkStatus();
}

absl::Status Mixer::ReadFiller(const proto::DataSource& source) {
  if (!source.has_long_context()) return absl::OkStatus();
  std::vector<Row> rows;
  Account* const account = AddPart(source.name(), "filler");
  WB_RETURN_IF_ERROR(ReadRows(source.long_context().filler(), root_, 0, &rows, account, &inputs_));
  account->taken = static_cast<int64_t>(rows.size());
  WB_ASSIGN_OR_RETURN(const size_t num_test,
                      TestShare(rows.size(), source.num_test(), source.num_train(), source,
                                "paragraphs of filler"));
  std::vector<std::string> paragraphs[2];
  for (size_t i = 0; i < rows.size(); ++i)
    paragraphs[i < num_test ? kTest : kTrain].push_back(std::move(rows[i].text));
  for (Split split : {kTest, kTrain})
    filler_[split] = std::make_unique<Filler>(std::move(paragraphs[split]), count_tokens_);
  return absl::OkStatus();
}

void Mixer::NoteShortage(const proto::DataSource& source) {
  if (IsFull(source, kTest) && IsFull(source, kTrain)) return;
  const std::string sentence = absl::StrFormat(
      "source \"%s\" gives %d training and %d test prompts, num_train %d and num_test %d are "
      "wanted "
      "(",
      source.name(), num_taken_[kTrain], num_taken_[kTest], source.num_train(), source.num_test());
  std::vector<std::string> accounts;
  for (const Mix::Part& part : parts_) {
    if (part.source == source.name() && part.name != "filler")
      accounts.push_back(absl::StrCat(part.name, ": ", part.account.ToString()));
  }
  shortages_.push_back(absl::StrCat(sentence, absl::StrJoin(accounts, "; "), ")"));
}

absl::Status Mixer::DrawSource(const proto::DataSource& source) {
  num_taken_[kTest] = num_taken_[kTrain] = 0;
  WB_RETURN_IF_ERROR(ReadFiller(source));
  return source.has_wrap() ? DrawWrapped(source) : DrawPlain(source);
}

absl::StatusOr<Mix> Mixer::Run(const std::function<void(const std::string&)>& progress) {
  WB_RETURN_IF_ERROR(ValidateRecipe(recipe_, count_tokens_ != nullptr));
  WB_RETURN_IF_ERROR(DrawStayClear());
  for (const proto::DataSource& source : recipe_.source()) {
    WB_RETURN_IF_ERROR(DrawSource(source));
    progress(absl::StrFormat("%s: %d training and %d test prompts", source.name(),
                             num_taken_[kTrain], num_taken_[kTest]));
  }
  if (!shortages_.empty()) return absl::FailedPreconditionError(absl::StrJoin(shortages_, "\n"));
  for (std::vector<MixedPrompt>& prompts : prompts_) {
    std::sort(prompts.begin(), prompts.end(), [&](const MixedPrompt& a, const MixedPrompt& b) {
      return Draw("order", a.id) < Draw("order", b.id);
    });
  }
  Mix mix;
  mix.train = std::move(prompts_[kTrain]);
  mix.test = std::move(prompts_[kTest]);
  mix.parts.assign(parts_.begin(), parts_.end());
  mix.inputs = std::move(inputs_);
  return mix;
}

}  // namespace

absl::StatusOr<Mix> MakeMix(const proto::DataRecipe& recipe, const std::string& root,
                            const TokenCounter& count_tokens,
                            const std::function<void(const std::string&)>& progress) {
  return Mixer(recipe, root, count_tokens).Run(progress);
}

}  // namespace wideberth::data
