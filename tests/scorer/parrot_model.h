// SPDX-License-Identifier: Apache-2.0
// A tiny model that answers every question of a GENERATIVE scorer or a JUDGE with one given text.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/tokenizer.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::scorer {

// Writes a Llama of which the next token follows from the last one alone: behind a question come
// the bytes of `answer`, which are all different, then the end. `question_end` is how questions
// end.
inline absl::Status WriteParrotModel(const std::string& answer, const std::string& folder,
                                     const std::string& question_end = "AI assistant:\nx\n\n") {
  WB_RETURN_IF_ERROR(testing::WriteTinyModel("llama", folder));
  WB_ASSIGN_OR_RETURN(const auto tokenizer, model::Tokenizer::FromFolder(folder));
  std::vector<int32_t> chain = {tokenizer->Encode(question_end).back()};
  for (const char c : answer) chain.push_back(tokenizer->Encode(std::string(1, c)).at(0));
  chain.push_back(2);  // <|im_end|>
  std::vector<testing::TinyTensor> tensors = testing::TinyModelTensors("llama");
  for (testing::TinyTensor& tensor : tensors) {
    const bool norm = absl::StrContains(tensor.name, "norm");
    std::fill(tensor.data.begin(), tensor.data.end(), norm ? 1.0f : 0.0f);
    const int64_t hidden = tensor.shape.back();
    for (size_t i = 0; i + 1 < chain.size(); ++i) {
      if (tensor.name == "model.embed_tokens.weight") tensor.data[chain[i] * hidden + i] = 1.0f;
      if (tensor.name == "lm_head.weight") tensor.data[chain[i + 1] * hidden + i] = 1.0f;
    }
  }
  return testing::WriteSafetensors(tensors, absl::StrCat(folder, "/model.safetensors"));
}

}  // namespace wideberth::scorer
