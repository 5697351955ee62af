// SPDX-License-Identifier: Apache-2.0
#include "launch/looks.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cstdio>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "actor/policy.h"
#include "base/status.h"
#include "launch/flags.h"
#include "launch/json_lines.h"
#include "model/catch_torch.h"
#include "model/generate.h"
#include "model/logprobs.h"
#include "model/runtime.h"
#include "model/tokenizer.h"

namespace wideberth::launch {
namespace {

using Json = nlohmann::ordered_json;

// The flags of everything that runs a model.
struct ModelFlags {
  std::string model;
  std::string adapter;
  std::string dtype = "float32";
  std::string device = "cpu";
  int32_t threads = 0;

  void AddTo(FlagTable& flags) {
    flags.AddRequired("model", &model, "a Hugging Face folder");
    flags.Add("adapter", &adapter, "a PEFT LoRA folder to apply (default: the base model)");
    flags.Add("dtype", &dtype, "float32, bfloat16 or float64 (default float32)");
    flags.Add("device", &device, "cpu or cuda:N (default cpu)");
    flags.Add("threads", &threads, "intra-op threads (default 1)");
  }
  absl::StatusOr<proto::ModelConfig> Config() const {
    proto::ModelConfig config;
    config.set_path(model);
    config.set_device(device);
    config.set_num_threads(threads);
    const std::vector<std::pair<std::string, proto::DType>> names = {{"float32", proto::FLOAT32},
                                                                     {"bfloat16", proto::BFLOAT16},
                                                                     {"bf16", proto::BFLOAT16},
                                                                     {"float64", proto::FLOAT64}};
    for (const auto& [name, value] : names) {
      if (name != dtype) continue;
      config.set_dtype(value);
      return config;
    }
    return absl::InvalidArgumentError(
        absl::StrCat("--dtype is \"", dtype, "\", expected float32, bfloat16 or float64"));
  }
};

struct LoadedModel {
  std::unique_ptr<model::CausalLm> lm;
  std::shared_ptr<model::Adapter> adapter;
};

absl::StatusOr<LoadedModel> LoadModel(const ModelFlags& flags) {
  WB_ASSIGN_OR_RETURN(const proto::ModelConfig config, flags.Config());
  model::ConfigureRuntime(config.num_threads());
  LoadedModel loaded;
  WB_ASSIGN_OR_RETURN(loaded.lm, model::CausalLm::Load(config));
  if (!flags.adapter.empty()) {
    WB_ASSIGN_OR_RETURN(loaded.adapter,
                        model::Adapter::Load(flags.adapter, loaded.lm->spec(), loaded.lm->dtype(),
                                             loaded.lm->device()));
  }
  return loaded;
}

// A line of `wideberth generate` as token ids.
class PromptReader {
 public:
  static absl::StatusOr<PromptReader> Create(const std::string& folder, bool chat, int64_t vocab) {
    PromptReader reader(chat, vocab);
    WB_ASSIGN_OR_RETURN(reader.tokenizer_, model::Tokenizer::FromFolder(folder));
    WB_ASSIGN_OR_RETURN(reader.chat_template_, model::ChatTemplateOf(folder));
    if (chat && !reader.chat_template_) {
      return absl::InvalidArgumentError(
          absl::StrCat(folder, ": has no chat template, --chat needs one"));
    }
    return reader;
  }

  absl::StatusOr<std::vector<int32_t>> Read(const InputLine& line) const {
    if (line.text[0] != '{') return FromText(line.text);
    WB_ASSIGN_OR_RETURN(const nlohmann::json object, ParseObject(line));
    if (object.contains("prompt_ids")) return TokenIds(object, "prompt_ids", line, vocab_);
    if (object.contains("prompt") && object["prompt"].is_string())
      return FromText(object["prompt"].get<std::string>());
    if (object.contains("messages") && object["messages"].is_array())
      return FromMessages(object["messages"], line);
    return absl::InvalidArgumentError(absl::StrCat(
        line.origin, ": has no \"prompt\" (text), \"messages\" or \"prompt_ids\" (lists)"));
  }
  const model::Tokenizer& tokenizer() const { return *tokenizer_; }
  const absl::optional<model::ChatTemplate>& chat_template() const { return chat_template_; }

 private:
  PromptReader(bool chat, int64_t vocab) : chat_(chat), vocab_(vocab) {}
  absl::StatusOr<std::vector<int32_t>> FromText(const std::string& text) const {
    if (chat_) return model::EncodeConversation(*tokenizer_, chat_template_, {{"user", text}});
    return tokenizer_->Encode(text, /*add_special_tokens=*/true);
  }
  absl::StatusOr<std::vector<int32_t>> FromMessages(const nlohmann::json& list,
                                                    const InputLine& line) const {
    std::vector<model::Message> messages;
    for (const nlohmann::json& message : list) {
      if (!message.is_object() || !message.value("role", nlohmann::json()).is_string() ||
          !message.value("content", nlohmann::json()).is_string()) {
        return absl::InvalidArgumentError(
            absl::StrCat(line.origin, ": messages[", messages.size(),
                         "] must have the texts \"role\" and \"content\""));
      }
      messages.push_back(
          {message["role"].get<std::string>(), message["content"].get<std::string>()});
    }
    auto ids = model::EncodeConversation(*tokenizer_, chat_template_, messages);
    if (!ids.ok()) return Annotate(ids.status(), line.origin);
    return ids;
  }

  bool chat_;
  int64_t vocab_;
  std::unique_ptr<model::Tokenizer> tokenizer_;
  absl::optional<model::ChatTemplate> chat_template_;
};

absl::Status CheckLength(const InputLine& line, size_t prompt, int64_t further, int64_t context) {
  if (prompt == 0)
    return absl::InvalidArgumentError(absl::StrCat(line.origin, ": the prompt has no tokens"));
  if (static_cast<int64_t>(prompt) + further <= context) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(line.origin, ": the prompt has ", prompt, " tokens and ", further,
                   " more are to follow, the model's context holds ", context));
}

absl::Status CheckSampling(const proto::GenerationConfig& sampling, int32_t num_completions) {
  if (sampling.max_new_tokens() < 1)
    return absl::InvalidArgumentError(
        absl::StrCat("--max_new_tokens is ", sampling.max_new_tokens(), ", must be at least 1"));
  if (num_completions < 1)
    return absl::InvalidArgumentError(
        absl::StrCat("--num_completions is ", num_completions, ", must be at least 1"));
  if (!(sampling.temperature() >= 0))
    return absl::InvalidArgumentError(
        absl::StrCat("--temperature is ", sampling.temperature(), ", must be 0 (greedy) or more"));
  if (!(sampling.top_p() > 0 && sampling.top_p() <= 1))
    return absl::InvalidArgumentError(
        absl::StrCat("--top_p is ", sampling.top_p(), ", must be above 0 and at most 1"));
  return absl::OkStatus();
}

}  // namespace

absl::Status Tokenize(const std::vector<std::string>& arguments) {
  std::string folder, file;
  bool json = false, special = false;
  FlagTable flags(
      "wideberth tokenize", "--model=DIR [FILE]",
      "A line of text in, {\"ids\": [...], \"text\": decoded} out. Empty lines are skipped.");
  flags.AddRequired("model", &folder, "a Hugging Face folder (its tokenizer.json)");
  flags.Add("json", &json, "lines are {\"text\": \"...\"}, for texts with line ends in them");
  flags.Add("add_special_tokens", &special,
            "add what the tokenizer puts around one sequence (a BOS, say)");
  WB_ASSIGN_OR_RETURN(const bool go, flags.ParseWithFile(arguments, &file));
  if (!go) return absl::OkStatus();
  WB_ASSIGN_OR_RETURN(const auto tokenizer, model::Tokenizer::FromFolder(folder));
  return ForLines(file, 1, [&](const std::vector<InputLine>& lines) -> absl::Status {
    std::string text = lines[0].text;
    if (json) {
      WB_ASSIGN_OR_RETURN(const nlohmann::json object, ParseObject(lines[0]));
      if (!object.contains("text") || !object["text"].is_string()) {
        return absl::InvalidArgumentError(absl::StrCat(lines[0].origin, ": has no text \"text\""));
      }
      text = object["text"].get<std::string>();
    }
    const std::vector<int32_t> ids = tokenizer->Encode(text, special);
    return PrintLine(
        Json{{"ids", ids}, {"text", tokenizer->Decode(ids, /*skip_special_tokens=*/false)}});
  });
}

absl::Status Generate(const std::vector<std::string>& arguments) {
  ModelFlags model_flags;
  proto::GenerationConfig sampling;
  std::string file;
  bool chat = false;
  uint64_t seed = 0;
  double temperature = 0, top_p = 1, min_p = 0, repetition_penalty = 1;
  int32_t max_new_tokens = 64, top_k = 0, num_completions = 1, batch = 8;
  FlagTable flags("wideberth generate", "--model=DIR [--chat] [FILE]",
                  "Lines of text, or of {\"prompt\": ...}, {\"messages\": [...]} or "
                  "{\"prompt_ids\": [...]}, in;\n"
                  "{\"prompt_ids\", \"completion_ids\", \"logprobs\", \"finish_reason\", \"text\"} "
                  "out, one line a completion.");
  model_flags.AddTo(flags);
  flags.Add("chat", &chat, "a text is the user's turn in the model's chat template");
  flags.Add("temperature", &temperature, "0: greedy (default)");
  flags.Add("max_new_tokens", &max_new_tokens, "at most so many (default 64)");
  flags.Add("top_k", &top_k, "0: off (default)");
  flags.Add("top_p", &top_p, "default 1");
  flags.Add("min_p", &min_p, "default 0");
  flags.Add("repetition_penalty", &repetition_penalty, "default 1");
  flags.Add("num_completions", &num_completions, "of each prompt (default 1)");
  flags.Add("seed", &seed,
            "of the random numbers, with the line's number and the completion's (default 0)");
  flags.Add("batch", &batch, "prompts decoded together (default 8)");
  WB_ASSIGN_OR_RETURN(const bool go, flags.ParseWithFile(arguments, &file));
  if (!go) return absl::OkStatus();
  sampling.set_temperature(temperature);
  sampling.set_max_new_tokens(max_new_tokens);
  sampling.set_top_k(top_k);
  sampling.set_top_p(top_p);
  sampling.set_min_p(min_p);
  sampling.set_repetition_penalty(repetition_penalty);
  WB_RETURN_IF_ERROR(CheckSampling(sampling, num_completions));
  WB_ASSIGN_OR_RETURN(const LoadedModel loaded, LoadModel(model_flags));
  const model::ModelSpec& spec = loaded.lm->spec();
  WB_ASSIGN_OR_RETURN(const PromptReader reader,
                      PromptReader::Create(model_flags.model, chat, spec.vocab));
  model::GenerateOptions options;
  options.sampling = sampling;
  options.seed = seed;
  options.adapter = loaded.adapter.get();
  options.stop_tokens = actor::StopTokens(spec, reader.tokenizer(), reader.chat_template());
  return ForLines(
      file, std::max(1, batch), [&](const std::vector<InputLine>& lines) -> absl::Status {
        std::vector<model::PromptGroup> groups;
        absl::Status bad_line;  // Told after the results of the lines before it.
        for (const InputLine& line : lines) {
          absl::StatusOr<std::vector<int32_t>> prompt = reader.Read(line);
          bad_line = prompt.status();
          if (bad_line.ok())
            bad_line = CheckLength(line, prompt->size(), max_new_tokens, spec.max_positions);
          if (!bad_line.ok()) break;
          groups.push_back({line.index, *std::move(prompt), num_completions});
        }
        if (groups.empty()) return bad_line;
        std::vector<std::vector<model::Sampled>> sampled;
        WB_RETURN_IF_ERROR(model::CatchTorch("generate", [&]() -> absl::Status {
          WB_ASSIGN_OR_RETURN(sampled, model::Generate(*loaded.lm, groups, options));
          return absl::OkStatus();
        }));
        for (size_t i = 0; i < groups.size(); ++i) {
          for (const model::Sampled& completion : sampled[i]) {
            WB_RETURN_IF_ERROR(PrintLine(
                Json{{"prompt_ids", groups[i].prompt},
                     {"completion_ids", completion.tokens},
                     {"logprobs", completion.logprobs},
                     {"finish_reason", completion.finish == proto::STOP ? "stop" : "length"},
                     {"text", reader.tokenizer().Decode(completion.tokens)}}));
          }
        }
        return bad_line;
      });
}

absl::Status LogProbs(const std::vector<std::string>& arguments) {
  ModelFlags model_flags;
  std::string file;
  double temperature = 1;
  FlagTable flags("wideberth logprobs", "--model=DIR [FILE]",
                  "{\"prompt_ids\": [...], \"completion_ids\": [...]} in, {\"logprobs\": [...]} of "
                  "the completion's tokens out.\n"
                  "Needs no tokenizer.");
  model_flags.AddTo(flags);
  flags.Add("temperature", &temperature, "logits are divided by it (default 1)");
  WB_ASSIGN_OR_RETURN(const bool go, flags.ParseWithFile(arguments, &file));
  if (!go) return absl::OkStatus();
  if (!(temperature > 0))
    return absl::InvalidArgumentError(
        absl::StrCat("--temperature is ", temperature, ", must be above 0"));
  WB_ASSIGN_OR_RETURN(const LoadedModel loaded, LoadModel(model_flags));
  const model::ModelSpec& spec = loaded.lm->spec();
  return ForLines(file, 1, [&](const std::vector<InputLine>& lines) -> absl::Status {
    WB_ASSIGN_OR_RETURN(const nlohmann::json object, ParseObject(lines[0]));
    WB_ASSIGN_OR_RETURN(const std::vector<int32_t> prompt,
                        TokenIds(object, "prompt_ids", lines[0], spec.vocab));
    WB_ASSIGN_OR_RETURN(const std::vector<int32_t> completion,
                        TokenIds(object, "completion_ids", lines[0], spec.vocab));
    WB_RETURN_IF_ERROR(CheckLength(lines[0], prompt.size(), static_cast<int64_t>(completion.size()),
                                   spec.max_positions));
    std::vector<double> logprobs;
    if (!completion.empty()) {
      WB_RETURN_IF_ERROR(model::CatchTorch("logprobs", [&] {
        const c10::NoGradGuard no_grad;
        const model::GroupTree group = model::MakeGroupTree(prompt, {completion});
        model::ForwardOptions options;
        options.adapter = loaded.adapter.get();
        const at::Tensor hidden = loaded.lm->Hidden(group.tree, options);
        const at::Tensor logprob =
            model::LogProbsOfTokens(hidden, loaded.lm->HeadOf(loaded.adapter.get()), group.rows,
                                    group.targets, temperature)
                .logprob.to(at::kCPU, at::kDouble);
        logprobs.assign(logprob.data_ptr<double>(), logprob.data_ptr<double>() + logprob.numel());
      }));
    }
    return PrintLine(Json{{"logprobs", logprobs}});
  });
}

}  // namespace wideberth::launch
