// SPDX-License-Identifier: Apache-2.0
// Chat templates against transformers (tests/golden/chat_template.json) and the renderings of the
// shared data.
#include "model/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/file.h"
#include "model/tokenizer.h"
#include "tests/testing/paths.h"

namespace wideberth::model {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using Json = nlohmann::json;

Json ReadJson(const std::string& path) {
  std::ifstream file(path);
  return file.good() ? Json::parse(file) : Json();
}

std::vector<Message> Conversation(const Json& json) {
  std::vector<Message> messages;
  for (const Json& message : json) {
    messages.push_back(message.is_array() ? Message{message[0], message[1]}
                                          : Message{message["role"], message["content"]});
  }
  return messages;
}

void ExpectPrompts(const ChatTemplate& chat_template, const Json& golden, const Json& prompts) {
  for (size_t i = 0; i < prompts.size(); ++i) {
    const std::vector<Message> messages = Conversation(golden["conversations"][i]);
    for (int flag = 0; flag < 2; ++flag) {
      const auto prompt = chat_template.Render(messages, flag != 0);
      if (prompts[i].is_null()) {
        EXPECT_THAT(std::string(prompt.status().message()),
                    HasSubstr("message 0 has the role \"system\", which a chat template of"));
        continue;
      }
      ASSERT_TRUE(prompt.ok()) << prompt.status();
      EXPECT_EQ(*prompt, prompts[i][flag].get<std::string>()) << "conversation " << i;
    }
  }
}

TEST(ChatTemplateTest, ByNameAndByTextRendersLikeTransformers) {
  const Json golden = ReadJson(testing::GoldenPath("chat_template.json"));
  ASSERT_EQ(golden["templates"].size(), 9u);
  for (const Json& entry : golden["templates"]) {
    SCOPED_TRACE(entry["name"].dump());
    if (entry["name"].is_string()) {
      const auto named = ChatTemplate::FromName(entry["name"].get<std::string>());
      ASSERT_TRUE(named.ok()) << named.status();
      ExpectPrompts(*named, golden, entry["prompts"]);
    }
    if (entry["jinja"].is_string()) {
      const auto read =
          ChatTemplate::FromJinja(entry["jinja"].get<std::string>(), "<|begin_of_text|>", "");
      ASSERT_TRUE(read.ok()) << read.status();
      ExpectPrompts(*read, golden, entry["prompts"]);
    }
  }
}

// Templates of the shared data that are none of ours, and what of them the error must show.
const std::map<std::string, std::string>& RefusedTemplates() {
  static const auto* const templates = new std::map<std::string, std::string>{
      {"jinja/Qwen-Qwen3-0.6B.jinja", "# Tools"},
      {"jinja/google-gemma-2-2b-it.jinja", "System role not supported"},
      {"jinja/microsoft-Phi-3.5-mini-instruct.jinja", "<|assistant|>\\n"},
      {"jinja-chujiezheng/gemma-it.jinja", "<start_of_turn>model\\n"},
      {"jinja-chujiezheng/llama-2-chat.jinja", "<</SYS>>"},
      {"jinja-chujiezheng/vicuna.jinja", "ASSISTANT: "}};
  return *templates;
}

TEST(ChatTemplateTest, EqualsTheRenderingsOfThePublishedTemplates) {
  const std::string folder = testing::SharedDir() + "/data/fixture-chat-templates/";
  const Json reference = ReadJson(folder + "rendered_reference.json");
  if (reference.is_null()) GTEST_SKIP() << "no shared data";
  int num_equal = 0;
  for (const Json& rendering : reference["renderings"]) {
    const std::string name = rendering["template"];
    if (RefusedTemplates().count(name) > 0) continue;
    SCOPED_TRACE(name);
    auto chat_template =
        ChatTemplate::FromJinja(*ReadFile(folder + name), rendering["bos_token"].get<std::string>(),
                                rendering["eos_token"].get<std::string>());
    ASSERT_TRUE(chat_template.ok()) << chat_template.status();
    chat_template->set_date(rendering["date_string"].get<std::string>());
    const auto prompt = chat_template->Render(
        Conversation(reference["conversations"][rendering["conversation"].get<std::string>()]),
        rendering["add_generation_prompt"].get<bool>());
    ASSERT_TRUE(prompt.ok()) << prompt.status();
    EXPECT_EQ(*prompt, rendering["rendered"].get<std::string>());
    ++num_equal;
  }
  EXPECT_EQ(num_equal, 50);  // Qwen2.5, Llama-3.1, Llama-3.2 and two by a third party, ten each.
}

TEST(ChatTemplateTest, RefusesTemplatesItDoesNotKnowAndNamesTheFolder) {
  const std::string data = testing::SharedDir() + "/data/fixture-chat-templates/";
  for (const auto& [name, part] : RefusedTemplates()) {
    const auto jinja = ReadFile(data + name);
    if (!jinja.ok()) GTEST_SKIP() << "no shared data";
    const testing::TempDir folder;
    ASSERT_TRUE(WriteFileAtomically(folder.Join("chat_template.jinja"), *jinja).ok());
    const absl::Status status = ChatTemplate::FromFolder(folder.path()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    for (const std::string& expected :
         {folder.path(), part, std::string("supported templates: ChatML (Qwen2")}) {
      EXPECT_THAT(std::string(status.message()), HasSubstr(expected)) << name;
    }
  }
}

// An edit that changes prompts must not pass for the original.
TEST(ChatTemplateTest, RefusesEditedTemplates) {
  const Json golden = ReadJson(testing::GoldenPath("chat_template.json"));
  const std::string chatml = golden["templates"][3]["jinja"],
                    llama = golden["templates"][4]["jinja"];
  const auto refused = [](const std::string& jinja) {
    return !ChatTemplate::FromJinja(jinja, "", "").ok();
  };
  EXPECT_FALSE(refused(chatml));
  EXPECT_FALSE(refused(llama));
  EXPECT_TRUE(refused(absl::StrReplaceAll(chatml, {{"'\\n' + message", "' ' + message"}})));
  EXPECT_TRUE(
      refused(absl::StrReplaceAll(chatml, {{"message['content']", "message['content'] | upper"}})));
  EXPECT_TRUE(refused(absl::StrReplaceAll(chatml, {{"'<|im_end|>'", "eos_token"}})));
  EXPECT_TRUE(refused(absl::StrReplaceAll(chatml, {{"{% endfor %}", "{% endfor %}Answer:"}})));
  EXPECT_TRUE(
      refused(absl::StrReplaceAll(chatml, {{"{% endfor %}", "{{ '<think>' }}{% endfor %}"}})));
  EXPECT_TRUE(refused(absl::StrReplaceAll(llama, {{" | trim", ""}})));
  EXPECT_TRUE(refused(absl::StrReplaceAll(llama, {{"bos_token + ", ""}})));
  EXPECT_TRUE(refused(chatml.substr(0, chatml.size() - 3)));
  EXPECT_TRUE(refused(absl::StrReplaceAll(chatml, {{"{% endif %}", ""}})));
  EXPECT_TRUE(refused(absl::StrReplaceAll(chatml, {{"{% endfor %}", "{% endif %}"}})));
  EXPECT_TRUE(refused(""));
}

TEST(ChatTemplateTest, ASeparatorsTemplateIsRecognisedAsAWhole) {
  const Json golden = ReadJson(testing::GoldenPath("chat_template.json"));
  const std::string jinja = golden["templates"][8]["jinja"];
  const auto read = ChatTemplate::FromJinja(jinja + "\n", "", "<pad>");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->kind(), ChatTemplate::Kind::kSeparator);
  EXPECT_EQ(read->stop_tokens(), (std::vector<std::string>{"</s>", "<pad>"}));
  EXPECT_EQ(*read->Render({Message{"user", "how"}, Message{"assistant", "so"}}, false),
            "<s>how<sep>so</s>");
  const auto other = [&](absl::string_view from, absl::string_view to) {
    return ChatTemplate::FromJinja(absl::StrReplaceAll(jinja, {{from, to}}), "", "");
  };
  ASSERT_TRUE(other("<sep>", "|").ok());
  EXPECT_NE(other("<sep>", "|")->fingerprint(), read->fingerprint());
  EXPECT_NE(other("</s>", "|")->fingerprint(), read->fingerprint());
  EXPECT_FALSE(other("<sep>", "").ok());
  EXPECT_FALSE(other("<sep>", "\\n").ok());
  EXPECT_FALSE(other("'user'", "'human'").ok());
  EXPECT_FALSE(other("{% endfor %}", "{% endfor %}{{ '<s>' }}").ok());
  EXPECT_FALSE(other("{% endfor %}", " {% endfor %}").ok());
}

TEST(ChatTemplateTest, TakesTheDefaultSystemMessageFromTheTemplate) {
  const Json golden = ReadJson(testing::GoldenPath("chat_template.json"));
  const std::string jinja = absl::StrReplaceAll(golden["templates"][2]["jinja"].get<std::string>(),
                                                {{"a helpful assistant", "a careful judge"}});
  const auto chat_template = ChatTemplate::FromJinja(jinja, "", "");
  ASSERT_TRUE(chat_template.ok()) << chat_template.status();
  EXPECT_EQ(chat_template->default_system(), "You are a careful judge.");
  EXPECT_THAT(
      *chat_template->Render({Message{"user", "hi"}}, true),
      HasSubstr("<|im_start|>system\nYou are a careful judge.<|im_end|>\n<|im_start|>user\nhi<"));
  EXPECT_NE(chat_template->fingerprint(), ChatTemplate::FromName("qwen2")->fingerprint());
}

TEST(ChatTemplateTest, ReadsFoldersInEachOfTheFormsTheyHave) {
  const Json golden = ReadJson(testing::GoldenPath("chat_template.json"));
  const std::string chatml = golden["templates"][3]["jinja"],
                    llama = golden["templates"][4]["jinja"];
  const testing::TempDir folder;
  EXPECT_EQ(ChatTemplate::FromFolder(folder.path()).status().code(), absl::StatusCode::kNotFound);
  const auto kind_of = [&](const Json& config) {
    EXPECT_TRUE(WriteFileAtomically(folder.Join("tokenizer_config.json"), config.dump()).ok());
    const auto found = ChatTemplate::FromFolder(folder.path());
    EXPECT_TRUE(found.ok()) << found.status();
    return *found;
  };
  const Json bos = {{"content", "<B>"}, {"lstrip", false}};
  const ChatTemplate text =
      kind_of({{"chat_template", llama}, {"bos_token", bos}, {"eos_token", "<E>"}});
  EXPECT_EQ(text.kind(), ChatTemplate::Kind::kLlama3);
  EXPECT_THAT(*text.Render({Message{"user", "hi"}}, false),
              HasSubstr("<B><|start_header_id|>user"));
  EXPECT_THAT(text.stop_tokens(), Contains("<E>"));
  EXPECT_THAT(text.stop_tokens(), Contains("<|eot_id|>"));
  const Json list = {{{"name", "tool_use"}, {"template", "{{ tools }}"}},
                     {{"name", "default"}, {"template", chatml}}};
  EXPECT_EQ(kind_of({{"chat_template", list}}).kind(), ChatTemplate::Kind::kChatMl);
  ASSERT_TRUE(WriteFileAtomically(folder.Join("chat_template.jinja"), llama).ok());
  EXPECT_EQ(kind_of({{"chat_template", chatml}}).kind(), ChatTemplate::Kind::kLlama3)
      << "the file comes first";
}

TEST(ChatTemplateTest, ConversationsItCannotRenderAreErrors) {
  const auto chat_template = ChatTemplate::FromName("qwen2.5");
  EXPECT_FALSE(chat_template->Render({}, true).ok());
  EXPECT_THAT(std::string(chat_template->Render({Message{"user", "a"}, Message{"tool", "b"}}, true)
                              .status()
                              .message()),
              HasSubstr("message 1 has the role \"tool\", supported: system, user, assistant"));
  EXPECT_THAT(std::string(ChatTemplate::FromName("gemma").status().message()),
              HasSubstr("supported: qwen2.5"));
}

TEST(ChatTemplateTest, SmolLm2sFolderGivesItsTemplateAndStopToken) {
  const std::string folder = testing::SmolLm2Dir();
  if (folder.empty()) GTEST_SKIP() << "SmolLM2 is not on this machine";
  const auto chat_template = ChatTemplate::FromFolder(folder);
  ASSERT_TRUE(chat_template.ok()) << chat_template.status();
  EXPECT_EQ(chat_template->default_system(), ChatTemplate::FromName("smollm2")->default_system());
  const auto tokenizer = Tokenizer::FromFolder(folder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->TokenToId(chat_template->stop_tokens()[0]), 2);
  const auto prompt =
      chat_template->Render({Message{"user", "What is the capital of France?"}}, true);
  const std::vector<int32_t> ids = (*tokenizer)->Encode(*prompt);
  EXPECT_EQ(ids[0], 1);
  EXPECT_EQ((*tokenizer)->Decode(ids, false), *prompt);
}

}  // namespace
}  // namespace wideberth::model
