// SPDX-License-Identifier: Apache-2.0
#include "base/text_proto.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/message.h>
#include <google/protobuf/text_format.h>

#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/nearest_name.h"
#include "base/status.h"

namespace wideberth {
namespace {

using ::google::protobuf::Descriptor;

void CollectMessages(const Descriptor* descriptor, std::set<const Descriptor*>* seen) {
  if (!seen->insert(descriptor).second) return;
  for (int i = 0; i < descriptor->field_count(); ++i) {
    if (const Descriptor* child = descriptor->field(i)->message_type())
      CollectMessages(child, seen);
  }
}

std::string Quoted(absl::string_view text, size_t which) {
  size_t begin = 0;
  for (size_t skipped = 0;; ++skipped) {
    begin = text.find('"', begin);
    if (begin == absl::string_view::npos) return "";
    const size_t end = text.find('"', begin + 1);
    if (end == absl::string_view::npos) return "";
    if (skipped == which) return std::string(text.substr(begin + 1, end - begin - 1));
    begin = end + 1;
  }
}

// protobuf says: Message type "pkg.Type" has no field named "name".
std::string NearestField(const Descriptor* root, absl::string_view message) {
  const std::string type = Quoted(message, 0), name = Quoted(message, 1);
  std::set<const Descriptor*> all;
  CollectMessages(root, &all);
  std::vector<std::string> fields;
  for (const Descriptor* descriptor : all) {
    if (descriptor->full_name() != type) continue;
    for (int i = 0; i < descriptor->field_count(); ++i) {
      fields.push_back(descriptor->field(i)->name());
    }
  }
  const std::string best = NearestName(name, fields);
  return best.empty() ? std::string() : absl::StrCat("; the nearest valid name is \"", best, "\"");
}

class FirstError final : public google::protobuf::io::ErrorCollector {
 public:
  FirstError(absl::string_view origin, const Descriptor* root) : origin_(origin), root_(root) {}
  void AddError(int line, int column, const std::string& message) override {
    if (!text_.empty()) return;
    text_ = absl::StrCat(origin_, ":", line + 1, ":", column + 1, ": ", message);
    if (message.find("has no field named") != std::string::npos) {
      while (!text_.empty() && text_.back() == '.') text_.pop_back();
      absl::StrAppend(&text_, NearestField(root_, message));
    }
  }
  const std::string& text() const { return text_; }

 private:
  const std::string origin_;
  const Descriptor* const root_;
  std::string text_;
};

}  // namespace

absl::Status MergeTextProto(absl::string_view text, absl::string_view origin,
                            google::protobuf::Message* message) {
  FirstError errors(origin, message->GetDescriptor());
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&errors);
  std::unique_ptr<google::protobuf::Message> overlay(message->New());
  if (!parser.ParseFromString(std::string(text), overlay.get())) {
    return absl::InvalidArgumentError(
        errors.text().empty() ? absl::StrCat(origin, ": not a text proto") : errors.text());
  }
  message->MergeFrom(*overlay);
  return absl::OkStatus();
}

absl::Status MergeTextProtoFile(absl::string_view path, google::protobuf::Message* message) {
  WB_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  return MergeTextProto(text, path, message);
}

std::string TextProto(const google::protobuf::Message& message) {
  std::string text;
  google::protobuf::TextFormat::Printer printer;
  printer.SetUseUtf8StringEscaping(true);
  printer.PrintToString(message, &text);
  return text;
}

}  // namespace wideberth
