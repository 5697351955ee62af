// SPDX-License-Identifier: Apache-2.0
// A Jinja template, tokenizer_config.json and a conversation, divided by zero bytes; without a
// template that of tokenizer_config.json counts.
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "model/chat_template.h"
#include "tests/fuzz/fuzz.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::fuzz {
namespace {

constexpr char kLlama3[] =
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
    "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim "
    "+ "
    "'<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ "
    "content }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}";
constexpr char kSeparator[] =
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<s>' + message['content'] "
    "+ "
    "'<a>' }}{% else %}{{ message['content'] + '</s>' }}{% endif %}{% endfor %}";
constexpr char kTurns[] = "user Hello\nassistant  Hi \nuser Bye";

}  // namespace

std::vector<std::string> Seeds() {
  static const Folder folder;
  WB_CHECK(testing::WriteTinyTokenizer(folder.path()).ok(), "no tokenizer");
  return {
      Joined({kLlama3, R"({"bos_token":{"content":"<|begin_of_text|>"},"eos_token":"e"})", kTurns}),
      Joined({kSeparator, "", kTurns}),
      Joined({"", FileBytes(folder.path() + "/tokenizer_config.json"), "system Be kind.\nuser Hi"}),
      Joined({"", R"({"chat_template":[{"name":"default","template":"{# c #}{{ 'a' -}} b"}]})",
              "user x"})};
}

bool TryOne(absl::string_view input) {
  static const Folder folder;
  const std::vector<absl::string_view> parts = Parts(input, 3);
  for (size_t i = 0; i < 2; ++i) {
    const char* const name = i == 0 ? "chat_template.jinja" : "tokenizer_config.json";
    if (parts[i].empty()) {
      folder.Remove(name);
    } else {
      folder.Write(name, parts[i]);
    }
  }
  const auto chat = model::ChatTemplate::FromFolder(folder.path());
  ExpectNames(chat.status(), folder.path());
  if (!chat.ok()) return false;
  std::vector<model::Message> messages;
  for (absl::string_view line : absl::StrSplit(parts[2], '\n')) {
    const std::pair<std::string, std::string> turn = absl::StrSplit(line, absl::MaxSplits(' ', 1));
    messages.push_back({turn.first, turn.second});
  }
  (void)chat->fingerprint();
  return chat->Render(messages, false).ok() && chat->Render(messages, true).ok();
}

}  // namespace wideberth::fuzz
