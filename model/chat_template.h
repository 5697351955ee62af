// SPDX-License-Identifier: Apache-2.0
// Conversations -> prompt text, the way a model was trained to see it. Templates are typed code: a
// model folder's Jinja text is recognised, never executed. Used by actors for prompts and by reward
// scorers for prompt and completion.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace wideberth::model {

struct JinjaInventory;

struct Message {
  std::string role;  // "system", "user" or "assistant".
  std::string content;
};

class ChatTemplate {
 public:
  enum class Kind {
    kChatMl,  // Qwen2, Qwen2.5, SmolLM2 and plain ChatML: they differ in the default system message
              // only.
    kLlama3,  // Llama-3.0 and Llama-Guard-like finetunes: messages trimmed, no system block of its
              // own.
    kLlama31,    // Llama-3.1 and 3.2: always a system block, with knowledge cut-off and date.
    kSeparator,  // <bos>PROMPT<sep>COMPLETION<eos> with tokens of any name; no system messages.
  };

  // Recognised from `folder`/chat_template.jinja or the field chat_template of
  // `folder`/tokenizer_config.json. InvalidArgument names the folder, what in the template is not
  // known, and what is supported. NotFound if the folder has no template.
  static absl::StatusOr<ChatTemplate> FromFolder(absl::string_view folder);
  // The same from a template's Jinja text; `bos_token` is what the template writes for {{ bos_token
  // }}.
  static absl::StatusOr<ChatTemplate> FromJinja(absl::string_view jinja,
                                                absl::string_view bos_token,
                                                absl::string_view eos_token);
  // "qwen2.5", "qwen2", "smollm2", "chatml", "llama-3", "llama-3.1" or "llama-3.2".
  static absl::StatusOr<ChatTemplate> FromName(absl::string_view name);

  // Conversation -> text for Tokenizer::Encode(text, add_special_tokens=false): BOS is in the text
  // where the model wants one. InvalidArgument: no message, a role other than the three (or one the
  // template has no form for), or one out of turn where the template insists on turns.
  absl::StatusOr<std::string> Render(absl::Span<const Message> messages,
                                     bool add_generation_prompt) const;

  // Tokens that end an assistant turn; those a tokenizer does not have may be ignored.
  const std::vector<std::string>& stop_tokens() const { return stop_tokens_; }
  Kind kind() const { return kind_; }
  // The system message written when a conversation has none; empty for none (Llama-3.1 and 3.2
  // still write their block).
  const std::string& default_system() const { return default_system_; }
  // Llama-3.1 and 3.2 only: "Today Date". Always the template's "26 Jul 2024" unless set, so that
  // prompts do not change over night (Llama-3.2's own template asks the clock).
  void set_date(absl::string_view date) { date_ = std::string(date); }
  // Of kind, default system message, date and BOS: what scores and rollouts record.
  std::string fingerprint() const;

 private:
  ChatTemplate() = default;
  absl::Status RecogniseChatMl(JinjaInventory found);
  absl::Status RecogniseLlama3(const JinjaInventory& found);
  bool RecogniseSeparator(absl::string_view jinja);
  void SetStopTokens(absl::string_view eos_token);

  Kind kind_ = Kind::kChatMl;
  bool writes_default_system_ = false;
  std::string default_system_;
  bool must_alternate_ = false;  // After a system message: user, assistant, user, ...
  bool always_prompts_ =
      false;  // The first Llama-3 template does not ask for add_generation_prompt.
  bool trims_ = false;
  bool writes_bos_ = false;
  bool loose_ = false;  // The template's own line breaks reach the prompt.
  std::string bos_token_;
  std::string separator_, end_;  // Of kSeparator, behind a prompt and behind a completion.
  std::string date_ = "26 Jul 2024";
  std::vector<std::string> stop_tokens_;
};

}  // namespace wideberth::model
