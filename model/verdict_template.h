// SPDX-License-Identifier: Apache-2.0
// The question a verdict or generative scorer or a judge asks about a conversation: a text with
// {prompt} and {completion}, built in or configured. No torch here.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/config.pb.h"
#include "proto/wire.pb.h"

namespace wideberth::model {

// Verdict tokens as texts: those configured, or a built-in template's own where none is configured
// at all.
struct VerdictTokens {
  std::vector<std::string> positive;
  std::vector<std::string> negative;
};
VerdictTokens VerdictTokensOf(const proto::ScorerConfig& config);

class VerdictTemplate {
 public:
  // "llama_guard_2", or any text with {completion}; of a GENERATIVE scorer GuardReasoner's
  // instruction or the configured one, then the conversation in GuardReasoner's form, where "None"
  // stands for an empty completion; of a judge its rubric, read from its file where it has one.
  // InvalidArgument or NotFound names the scorer and what was found.
  static absl::StatusOr<VerdictTemplate> From(const proto::ScorerConfig& config);

  // Each placeholder replaced once, in one pass: braces within a conversation stay as they are.
  // {prompt} is the content of a single user message as it is; of several messages the turns "User:
  // ..." and "Agent: ..." with blank lines between, the first without its "User: ", so that "User:
  // {prompt}\n\nAgent: {completion}" is right for both. System messages are left out. A built-in
  // trims contents as the original does.
  std::string Render(const proto::ScoreItem& item) const;

  const std::string& text() const { return text_; }

 private:
  VerdictTemplate(std::string text, bool trim) : text_(std::move(text)), trim_(trim) {}

  std::string text_;
  bool trim_;
  std::string no_completion_;  // Stands for an empty completion.
};

// One sentence where there is nothing to score (no prompt, or a completion of white space only
// where one is needed), else empty.
std::string WhyNothingToScore(const proto::ScoreItem& item, bool prompt_only = false);

}  // namespace wideberth::model
