// SPDX-License-Identifier: Apache-2.0
// See chat_template.h. A template is recognised by its strings and words: each must be one that the
// kind is known to have, so that an edited template is refused rather than misread.
#include "model/chat_template.h"

#include <algorithm>
#include <initializer_list>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/status.h"
#include "model/jinja_inventory.h"
#include "model/tokenizer_json.h"
#include "model/unicode_text.h"

namespace wideberth::model {
namespace {

constexpr absl::string_view kSupported =
    "ChatML (Qwen2, Qwen2.5, SmolLM2, plain), Llama-3 (3.0, 3.1, 3.2) and "
    "<bos>PROMPT<sep>COMPLETION<eos>";
constexpr absl::string_view kQwen25System =
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";
constexpr absl::string_view kQwen2System = "You are a helpful assistant.";
constexpr absl::string_view kSmolLm2System =
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
constexpr absl::string_view kAlternate =
    "Conversation roles must alternate user/assistant/user/assistant/...";
constexpr absl::string_view kSystemBlock = "<|im_start|>system\n";
constexpr absl::string_view kEndBlock = "<|im_end|>\n";

using Set = std::set<std::string>;

const Set& ChatMlLiterals() {
  static const auto* const set = new Set{
      "role", "content", "system", "user", "assistant", "tool", "\n", "<|im_start|>", "<|im_end|>",
      "<|im_end|>\n", "<|im_start|>assistant\n", "<|im_start|>system\n", std::string(kAlternate),
      // Qwen2.5, for conversations with tools.
      "<|im_start|>user", "\n<tool_call>\n{\"name\": \"", "\", \"arguments\": ", "}\n</tool_call>",
      "\n<tool_response>\n", "\n</tool_response>",
      "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are "
      "provided with function signatures within <tools></tools> XML tags:\n<tools>",
      "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
      "within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, "
      "\"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n"};
  return *set;
}

const Set& ChatMlWords() {
  static const auto* const set = new Set(absl::StrSplit(
      "for in if elif else endif endfor set not and or is defined true false message "
      "messages role content loop first last index0 add_generation_prompt bos_token "
      "trim raise_exception offset tools tool tool_calls tool_call function name "
      "arguments tojson",
      ' '));
  return *set;
}

const Set& Llama3Literals() {
  static const auto* const set = new Set{"role",
                                         "content",
                                         "system",
                                         "user",
                                         "assistant",
                                         "<|start_header_id|>",
                                         "<|end_header_id|>\n\n",
                                         "<|eot_id|>",
                                         "<|start_header_id|>assistant<|end_header_id|>\n\n",
                                         std::string(kAlternate)};
  return *set;
}

const Set& Llama3Words() {
  static const auto* const set = new Set(absl::StrSplit(
      "for in if else endif endfor set not is defined true false loop_messages message "
      "messages content loop first index0 bos_token trim add_generation_prompt offset "
      "raise_exception",
      ' '));
  return *set;
}

const Set& Llama31Literals() {
  static const auto* const set =
      new Set{"role",
              "content",
              "system",
              "tool",
              "ipython",
              "tool_calls",
              "equalto",
              "code_interpreter",
              "",
              "26 Jul 2024",
              "%d %b %Y",
              "<|start_header_id|>system<|end_header_id|>\n\n",
              "Environment: ipython\n",
              "Tools: ",
              ", ",
              "\n\n",
              "Cutting Knowledge Date: December 2023\n",
              "Today Date: ",
              "<|eot_id|>",
              "<|eom_id|>",
              "<|python_tag|>",
              ".call(",
              "=\"",
              "\"",
              ")",
              "}",
              "{\"name\": \"",
              "\", ",
              "\"parameters\": ",
              "Do not use variables.\n\n",
              "You have access to the following functions. To call a function, please respond with "
              "JSON for a "
              "function call.",
              "Respond in the format {\"name\": function name, \"parameters\": dictionary of "
              "argument name and "
              "its value}.",
              "Cannot put tools in the first user message when there's no first user message!",
              "Given the following functions, please respond with a JSON for a function call ",
              "with its proper arguments that best answers the given prompt.\n\n",
              "This model only supports single tool-calls at once!",
              "<|start_header_id|>",
              "<|end_header_id|>\n\n",
              "<|start_header_id|>user<|end_header_id|>\n\n",
              "<|start_header_id|>assistant<|end_header_id|>\n\n",
              "<|start_header_id|>ipython<|end_header_id|>\n\n"};
  return *set;
}

const Set& Llama31Words() {
  static const auto* const set = new Set(absl::StrSplit(
      "for in if elif else endif endfor set not and or is defined none true false "
      "mapping iterable message messages role content loop last length items trim "
      "tojson indent join reject raise_exception bos_token add_generation_prompt "
      "custom_tools tools tools_in_user_message date_string strftime_now builtin_tools "
      "system_message first_user_message t tool_call tool_calls function name arguments "
      "arg_name arg_val",
      ' '));
  return *set;
}

// Blank text between tags that reaches the prompt in templates written over several lines without
// "-": before BOS, behind it, before and behind each message, behind the last, before and behind
// the generation prompt.
const std::vector<std::string>& LooseTexts() {
  static const auto* const texts = new std::vector<std::string>{
      "\n", "\n", "        ", "\n", "\n    ", "\n", "\n", "    ", "\n"};
  return *texts;
}

absl::Status Unknown(absl::string_view what, absl::string_view thing) {
  return absl::InvalidArgumentError(absl::StrCat("the chat template has the unknown ", what, " \"",
                                                 absl::Utf8SafeCEscape(thing.substr(0, 200)),
                                                 "\", supported templates: ", kSupported));
}

absl::Status OnlyKnown(const JinjaInventory& found, const Set& literals, const Set& words) {
  // Of several unknown strings the longest says most about what the template is.
  const std::string* unknown = nullptr;
  for (const std::string& literal : found.literals) {
    if (literals.count(literal) > 0) continue;
    if (unknown == nullptr || literal.size() > unknown->size()) unknown = &literal;
  }
  if (unknown != nullptr) return Unknown("text", *unknown);
  for (const std::string& word : found.words) {
    if (words.count(word) == 0) return Unknown("word", word);
  }
  return absl::OkStatus();
}

absl::Status Requires(const JinjaInventory& found,
                      std::initializer_list<absl::string_view> literals,
                      std::initializer_list<absl::string_view> words) {
  const auto lacks = [](absl::string_view what, absl::string_view thing) {
    return absl::InvalidArgumentError(absl::StrCat("the chat template lacks the ", what, " \"",
                                                   thing, "\", supported templates: ", kSupported));
  };
  for (absl::string_view literal : literals) {
    if (found.literals.count(std::string(literal)) == 0) return lacks("text", literal);
  }
  for (absl::string_view word : words) {
    if (found.words.count(std::string(word)) == 0) return lacks("word", word);
  }
  return absl::OkStatus();
}

// What Python's str.strip takes away.
bool IsPythonSpace(uint32_t c) { return IsWhiteSpace(c) || (c >= 0x1C && c <= 0x1F); }

std::string Trim(absl::string_view content) {
  const std::string text = ReplaceInvalidUtf8(content);
  size_t begin = text.size(), end = 0, length = 0;
  for (size_t at = 0; at < text.size(); at += length) {
    if (IsPythonSpace(CodePointAt(text, at, &length))) continue;
    begin = std::min(begin, at);
    end = at + length;
  }
  return begin < end ? text.substr(begin, end - begin) : "";
}

absl::StatusOr<std::string> TokenText(const JsonNode& node) {
  return node.value().is_object() ? node.Field("content").StringOr("") : node.StringOr("");
}

}  // namespace

absl::Status ChatTemplate::RecogniseChatMl(JinjaInventory found) {
  kind_ = Kind::kChatMl;
  // The default system message is the one thing free to differ: it stands between the block's start
  // and end in one string.
  for (const std::string& literal : found.literals) {
    absl::string_view text = literal;
    if (text != kSystemBlock && absl::ConsumePrefix(&text, kSystemBlock) &&
        absl::ConsumeSuffix(&text, kEndBlock) && !absl::StrContains(text, "<|")) {
      default_system_ = std::string(text);
      writes_default_system_ = true;
    }
  }
  if (writes_default_system_) {
    found.literals.erase(absl::StrCat(kSystemBlock, default_system_, kEndBlock));
    found.literals.erase(default_system_);
  }
  WB_RETURN_IF_ERROR(OnlyKnown(found, ChatMlLiterals(), ChatMlWords()));
  WB_RETURN_IF_ERROR(Requires(found, {"<|im_start|>", "<|im_start|>assistant\n", "content"},
                              {"add_generation_prompt", "messages"}));
  trims_ = found.words.count("trim") > 0;
  writes_bos_ = found.words.count("bos_token") > 0;
  return absl::OkStatus();
}

absl::Status ChatTemplate::RecogniseLlama3(const JinjaInventory& found) {
  const bool with_date = found.literals.count("Cutting Knowledge Date: December 2023\n") > 0;
  kind_ = with_date ? Kind::kLlama31 : Kind::kLlama3;
  WB_RETURN_IF_ERROR(with_date ? OnlyKnown(found, Llama31Literals(), Llama31Words())
                               : OnlyKnown(found, Llama3Literals(), Llama3Words()));
  WB_RETURN_IF_ERROR(
      Requires(found, {"<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>", "content"},
               {"trim", "bos_token", "messages"}));
  if (with_date) {
    WB_RETURN_IF_ERROR(Requires(found, {"Today Date: ", "26 Jul 2024"}, {"add_generation_prompt"}));
  }
  trims_ = writes_bos_ = true;
  always_prompts_ = found.words.count("add_generation_prompt") == 0;
  return absl::OkStatus();
}

// The one template that is compared as a whole: its tokens are all that may differ.
bool ChatTemplate::RecogniseSeparator(absl::string_view jinja) {
  std::string* const tokens[] = {&bos_token_, &separator_, &end_};
  const absl::string_view behind[] = {"' + message['content'] + '",
                                      "' }}{% else %}{{ message['content'] + '",
                                      "' }}{% endif %}{% endfor %}"};
  absl::ConsumeSuffix(&jinja, "\n");  // Jinja drops one newline at the very end.
  if (!absl::ConsumePrefix(&jinja,
                           "{% for message in messages %}{% if message['role'] == 'user' %}{{ '"))
    return false;
  for (int i = 0; i < 3; ++i) {
    const size_t length = jinja.find_first_of("'\\");
    if (length == 0 || length == absl::string_view::npos) return false;
    *tokens[i] = std::string(jinja.substr(0, length));
    jinja.remove_prefix(length);
    if (!absl::ConsumePrefix(&jinja, behind[i])) return false;
  }
  kind_ = Kind::kSeparator;
  return jinja.empty();
}

void ChatTemplate::SetStopTokens(absl::string_view eos_token) {
  switch (kind_) {
    case Kind::kChatMl:
      stop_tokens_ = {"<|im_end|>", "<|endoftext|>"};
      break;
    case Kind::kSeparator:
      stop_tokens_ = {end_};
      break;
    default:
      stop_tokens_ = {"<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"};
  }
  const std::string eos(eos_token);
  if (!eos.empty() &&
      std::find(stop_tokens_.begin(), stop_tokens_.end(), eos) == stop_tokens_.end()) {
    stop_tokens_.push_back(eos);
  }
}

absl::StatusOr<ChatTemplate> ChatTemplate::FromJinja(absl::string_view jinja,
                                                     absl::string_view bos_token,
                                                     absl::string_view eos_token) {
  ChatTemplate result;
  if (result.RecogniseSeparator(jinja)) {
    result.SetStopTokens(eos_token);
    return result;
  }
  WB_ASSIGN_OR_RETURN(const JinjaInventory found, ReadJinja(jinja));
  if (found.literals.count("<|start_header_id|>") > 0) {
    WB_RETURN_IF_ERROR(result.RecogniseLlama3(found));
  } else {
    WB_RETURN_IF_ERROR(result.RecogniseChatMl(found));
  }
  result.must_alternate_ = found.literals.count(std::string(kAlternate)) > 0;
  if (found.texts == LooseTexts() && result.must_alternate_) {
    result.loose_ = true;
  } else if (!found.texts.empty()) {
    return Unknown("text outside its tags", found.texts[0]);
  }
  result.bos_token_ = std::string(bos_token);
  result.SetStopTokens(eos_token);
  return result;
}

absl::StatusOr<ChatTemplate> ChatTemplate::FromFolder(absl::string_view folder) {
  const std::string config_path = absl::StrCat(folder, "/tokenizer_config.json");
  const std::string jinja_path = absl::StrCat(folder, "/chat_template.jinja");
  absl::StatusOr<std::string> jinja = ReadFile(jinja_path);
  if (!jinja.ok() && !absl::IsNotFound(jinja.status())) return jinja.status();
  absl::StatusOr<std::string> text = ReadFile(config_path);
  if (!text.ok() && !absl::IsNotFound(text.status())) return text.status();
  WB_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(text.ok() ? *text : "{}", config_path));
  const JsonNode config(json, absl::StrCat(config_path, ": "));
  const JsonNode node = config.Field("chat_template");
  if (!jinja.ok() && node.value().is_array()) {
    // Several named templates: "default" is the one for conversations.
    WB_ASSIGN_OR_RETURN(const std::vector<JsonNode> items, node.Items());
    for (const JsonNode& item : items) {
      if (item.Field("name").value() == "default") jinja = item.Field("template").String();
    }
  } else if (!jinja.ok() && !node.is_null()) {
    jinja = node.String();
  }
  if (absl::IsNotFound(jinja.status())) {
    return absl::NotFoundError(
        absl::StrCat(folder, " has no chat template: neither chat_template.jinja nor ",
                     "chat_template in tokenizer_config.json"));
  }
  WB_RETURN_IF_ERROR(jinja.status());
  WB_ASSIGN_OR_RETURN(const std::string bos, TokenText(config.Field("bos_token")));
  WB_ASSIGN_OR_RETURN(const std::string eos, TokenText(config.Field("eos_token")));
  absl::StatusOr<ChatTemplate> result = FromJinja(*jinja, bos, eos);
  if (!result.ok()) return Annotate(result.status(), folder);
  return result;
}

absl::StatusOr<ChatTemplate> ChatTemplate::FromName(absl::string_view name) {
  ChatTemplate result;
  if (name == "qwen2.5" || name == "qwen2" || name == "smollm2") {
    result.writes_default_system_ = true;
    result.default_system_ = std::string(name == "qwen2.5" ? kQwen25System
                                         : name == "qwen2" ? kQwen2System
                                                           : kSmolLm2System);
  } else if (name == "llama-3" || name == "llama-3.1" || name == "llama-3.2") {
    result.kind_ = name == "llama-3" ? Kind::kLlama3 : Kind::kLlama31;
    result.trims_ = result.writes_bos_ = true;
    result.bos_token_ = "<|begin_of_text|>";
  } else if (name != "chatml") {
    return absl::InvalidArgumentError(absl::StrCat(
        "the chat template name is \"", name,
        "\", supported: qwen2.5, qwen2, smollm2, chatml, llama-3, llama-3.1, llama-3.2"));
  }
  result.SetStopTokens("");
  return result;
}

absl::StatusOr<std::string> ChatTemplate::Render(absl::Span<const Message> messages,
                                                 bool add_generation_prompt) const {
  if (messages.empty())
    return absl::InvalidArgumentError("a conversation of no message has no prompt");
  const bool system_first = messages[0].role == "system";
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role != "system" && role != "user" && role != "assistant") {
      return absl::InvalidArgumentError(absl::StrCat("message ", i, " has the role \"", role,
                                                     "\", supported: system, user, assistant"));
    }
    if (kind_ == Kind::kSeparator && role == "system") {
      return absl::InvalidArgumentError(absl::StrCat(
          "message ", i, " has the role \"system\", which a chat template of the form ", bos_token_,
          "PROMPT", separator_, "COMPLETION", end_, " does not have, expected user or assistant"));
    }
    if (must_alternate_ && !(i == 0 && system_first) &&
        (role == "user") != ((i - (system_first ? 1 : 0)) % 2 == 0)) {
      return absl::InvalidArgumentError(
          absl::StrCat("message ", i, " has the role \"", role,
                       "\", the roles must be user and assistant in turn"));
    }
  }
  std::string prompt;
  if (kind_ == Kind::kSeparator) {
    for (const Message& message : messages) {
      if (message.role == "user") {
        absl::StrAppend(&prompt, bos_token_, message.content, separator_);
      } else {
        absl::StrAppend(&prompt, message.content, end_);
      }
    }
    return prompt;
  }
  const auto loose = [this](absl::string_view blanks) { return loose_ ? blanks : ""; };
  if (writes_bos_) absl::StrAppend(&prompt, loose("\n"), bos_token_, loose("\n"));
  if (kind_ == Kind::kLlama31) {
    absl::StrAppend(&prompt, "<|start_header_id|>system<|end_header_id|>\n\n",
                    "Cutting Knowledge Date: December 2023\nToday Date: ", date_, "\n\n",
                    system_first ? Trim(messages[0].content) : "", "<|eot_id|>");
    if (system_first) messages.remove_prefix(1);
  } else if (writes_default_system_ && !system_first) {
    absl::StrAppend(&prompt, kSystemBlock, default_system_, kEndBlock);
  }
  for (const Message& message : messages) {
    const std::string content = trims_ ? Trim(message.content) : message.content;
    absl::StrAppend(&prompt, loose("\n    "));
    if (kind_ == Kind::kChatMl) {
      absl::StrAppend(&prompt, "<|im_start|>", message.role, "\n", content, kEndBlock);
    } else {
      absl::StrAppend(&prompt, "<|start_header_id|>", message.role, "<|end_header_id|>\n\n",
                      content, "<|eot_id|>");
    }
    absl::StrAppend(&prompt, loose("\n"));
  }
  absl::StrAppend(&prompt, loose("\n"));
  if (add_generation_prompt || always_prompts_) {
    absl::StrAppend(&prompt, loose("    "),
                    kind_ == Kind::kChatMl ? "<|im_start|>assistant\n"
                                           : "<|start_header_id|>assistant<|end_header_id|>\n\n",
                    loose("\n"));
  }
  return prompt;
}

std::string ChatTemplate::fingerprint() const {
  if (kind_ == Kind::kSeparator)
    return Fingerprint(absl::StrCat("s", bos_token_, "\n", separator_, "\n", end_));
  const char kind = kind_ == Kind::kChatMl ? 'c' : kind_ == Kind::kLlama3 ? '3' : 'd';
  return Fingerprint(absl::StrCat(std::string(1, kind), writes_default_system_, must_alternate_,
                                  always_prompts_, trims_, writes_bos_, loose_, "\n",
                                  default_system_, "\n", bos_token_, "\n",
                                  kind_ == Kind::kLlama31 ? date_ : ""));
}

}  // namespace wideberth::model
