// SPDX-License-Identifier: Apache-2.0
// Files of rows: prompts, training data and what `wideberth data` reads. The first byte chooses the
// reader.
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "data/records.h"
#include "learner/dataset.h"
#include "learner/prompts.h"
#include "tests/fuzz/fuzz.h"

namespace wideberth::fuzz {
namespace {

bool Accepted(const absl::Status& status, const std::string& path) {
  ExpectNames(status, path);
  return status.ok();
}

bool TryPrompts(const std::string& path) {
  proto::PromptsConfig config;
  config.add_path(path);
  config.set_num_held_out(1);
  config.set_system("Be kind.");
  const auto prompts = learner::PromptSet::Load(config, 1);
  if (!prompts.ok()) return false;
  WB_CHECK(!prompts->Train(12345678901234567890u).prompt.message().empty(), "an empty prompt");
  (void)learner::LastUserText(prompts->HeldOut(0).prompt);
  (void)prompts->CheckLabels();
  return true;
}

bool TryRecords(const std::string& path, absl::string_view text, proto::DataFormat format) {
  proto::DataFiles files;
  files.set_format(format);
  if (format == proto::JSON) files.set_list("rows.0");
  const absl::Status status =
      data::ForRecords(files, path, text, [&](absl::StatusOr<data::Record> record) -> absl::Status {
        ExpectNames(record.status(), path);
        if (record.ok()) (void)data::FindField(record->fields, "a.b.0.c");
        return absl::OkStatus();
      });
  return Accepted(status, path);
}

}  // namespace

std::vector<std::string> Seeds() {
  return {
      "0{\"prompt\": \"a\", \"id\": 3, \"unsafe\": true}\n\n"
      "{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}], \"category\": \"c\"}\n",
      "1{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}, {\"role\": \"assistant\", "
      "\"content\": \"c\"}]}\n{\"prompt\": \"p\", \"completion\": \"q\"}\n",
      "2{\"prompt\": \"p\", \"chosen\": \"a\", \"rejected\": \"b\", \"weight\": 0.5, \"margin\": "
      "1}\n",
      "2{\"chosen\": \"\\n\\nHuman: a\\n\\nAssistant: b\", "
      "\"rejected\": \"\\n\\nHuman: a\\n\\nAssistant: c\"}\n",
      "3{\"prompt\": \"p\", \"response\": \"r\", \"response_harm\": \"unsafe\"}\n"
      "{\"prompt\": \"p\", \"response\": null, \"response_harm\": 1}\n",
      "4{\"a\": {\"b\": [{\"c\": 1.5}]}}\n{\"a.b\": null}\n",
      "5{\"rows\": [[{\"text\": \"t\"}]]}",
      "6{\"a\": {\"b\": [\"c\", \"d\"]}}",
      "7a,b\r\n1,\"2 \"\"x\"\"\"\n\"3\n4\",5\n",
      absl::StrCat("2{\"prompt\": ", DeepJson(), "}"),
      absl::StrCat("6{\"a\": ", DeepJson(), "}"),
      "8one\ntwo\n"};
}

bool TryOne(absl::string_view input) {
  if (input.empty()) return false;
  static const Folder folder;
  const absl::string_view text = input.substr(1);
  const std::string path = folder.Write("rows", text);
  google::protobuf::RepeatedPtrField<std::string> paths;
  *paths.Add() = path;
  switch (input[0]) {
    case '0':
      return TryPrompts(path);
    case '1':
      return Accepted(learner::ReadSftRows(paths).status(), path);
    case '2':
      return Accepted(learner::ReadPreferenceRows(paths).status(), path);
    case '3': {
      proto::DataConfig config;
      config.set_label_field("response_harm");
      return Accepted(learner::ReadGuardRows(paths, config).status(), path);
    }
    case '4':
      return TryRecords(path, text, proto::JSONL);
    case '5':
      return TryRecords(path, text, proto::JSON);
    case '6':
      return TryRecords(path, text, proto::JSON_TREE);
    case '7':
      return TryRecords(path, text, proto::CSV);
    default:
      return TryRecords(path, text, proto::LINES);
  }
}

}  // namespace wideberth::fuzz
