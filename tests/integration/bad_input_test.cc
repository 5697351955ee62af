// SPDX-License-Identifier: Apache-2.0
// Bad input of every kind: one sentence that says what and where, an exit code that is not 0,
// nothing left on the disk or running.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "tests/integration/tiny_run.h"
#include "tests/testing/tiny_model.h"

namespace wideberth {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using testing::Execute;
using testing::Finished;
using ::testing::HasSubstr;
using testing::NoProcessLeft;
using ::testing::StartsWith;
using testing::TinyRun;

// The run is refused before it has begun: one line, and no folder.
std::string Refusal(const TinyRun& run, const std::vector<std::string>& more = {}) {
  const Finished finished = Execute(run.Command(more));
  EXPECT_NE(finished.code, 0) << finished.out;
  EXPECT_EQ(std::count(finished.err.begin(), finished.err.end(), '\n'), 1) << finished.err;
  EXPECT_THAT(finished.err, StartsWith("wideberth run: "));
  EXPECT_FALSE(std::filesystem::exists(run.run_dir())) << "a run that never began left its folder";
  EXPECT_TRUE(NoProcessLeft());
  return finished.err;
}

TEST(BadInputTest, ATypoNamesFileLineColumnAndTheNearestField) {
  const TinyRun run;
  run.Replace("group_size", "groupsize");
  EXPECT_EQ(Refusal(run), absl::StrCat("wideberth run: ", run.config(),
                                       ":28:12: Message type \"wideberth.proto.LearnerConfig\" has "
                                       "no field named \"groupsize\"; "
                                       "the nearest valid name is \"group_size\"\n"));
}

TEST(BadInputTest, ATypoInAnOverrideIsFoundAsWell) {
  const TinyRun run;
  EXPECT_THAT(
      Refusal(run, {"--override=learner { max_step: 2 }"}),
      AllOf(HasSubstr("--override:1:"), HasSubstr("the nearest valid name is \"max_steps\"")));
}

TEST(BadInputTest, AGroupOfOneHasNoAdvantage) {
  const TinyRun run;
  run.Replace("group_size: 3", "group_size: 1");
  EXPECT_EQ(Refusal(run), absl::StrCat("wideberth run: ", run.config(),
                                       ":28: learner.group_size is 1, must be at least 2\n"));
}

TEST(BadInputTest, AConfigurationThatIsNotThere) {
  EXPECT_THAT(Execute({"wideberth", "run", "--config=/nowhere.txtpb"}).err,
              HasSubstr("/nowhere.txtpb"));
  EXPECT_EQ(Execute({"wideberth", "run", "--config=/nowhere.txtpb"}).code, 2);
}

TEST(BadInputTest, AMissingModelFolder) {
  const TinyRun run;
  std::filesystem::remove_all(run.Join("model"));
  EXPECT_THAT(Refusal(run), AllOf(HasSubstr(run.Join("model")),
                                  HasSubstr("expected a Hugging Face model folder")));
}

TEST(BadInputTest, AMissingAdapterToStartFrom) {
  const TinyRun run;
  EXPECT_THAT(Refusal(run, {"--override=policy { adapter: '/nowhere' }"}),
              HasSubstr("policy.adapter: there is no /nowhere/adapter_config.json, expected a PEFT "
                        "LoRA folder"));
}

TEST(BadInputTest, AMissingWeightsFile) {
  const TinyRun run;
  std::filesystem::remove(run.Join("model/model.safetensors"));
  EXPECT_THAT(Refusal(run), HasSubstr("model.safetensors"));
}

TEST(BadInputTest, ATruncatedWeightsFile) {
  const TinyRun run;
  const std::string path = run.Join("model/model.safetensors");
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 100);
  EXPECT_THAT(Refusal(run), HasSubstr(path));
}

TEST(BadInputTest, AShapeThatDoesNotFit) {
  const TinyRun run;
  std::vector<testing::TinyTensor> tensors = testing::TinyModelTensors("llama");
  for (testing::TinyTensor& tensor : tensors) {
    if (tensor.name == "model.norm.weight") {
      tensor.shape[0] -= 1;
      tensor.data.pop_back();
    }
  }
  ASSERT_TRUE(testing::WriteSafetensors(tensors, run.Join("model/model.safetensors")).ok());
  EXPECT_THAT(Refusal(run), HasSubstr("model.norm.weight"));
}

TEST(BadInputTest, ATokenizerOfAnotherKind) {
  const TinyRun run;
  ASSERT_TRUE(
      WriteFileAtomically(
          run.Join("model/tokenizer.json"),
          R"({"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
                                      "decoder": null, "model": {"type": "Unigram", "vocab": [["a", 0.0]]}})")
          .ok());
  EXPECT_THAT(Refusal(run), AllOf(HasSubstr("tokenizer.json"), HasSubstr("Unigram")));
}

TEST(BadInputTest, APromptLongerThanTheContext) {
  const TinyRun run;
  const std::string prompts = ReadFile(run.Join("prompts.jsonl")).value();
  ASSERT_TRUE(
      WriteFileAtomically(run.Join("prompts.jsonl"),
                          absl::StrCat(prompts, "{\"prompt\": \"", std::string(9000, 'x'), "\"}\n"))
          .ok());
  EXPECT_THAT(Refusal(run),
              AllOf(HasSubstr(absl::StrCat(run.Join("prompts.jsonl"), ":11: prompt has ")),
                    HasSubstr("must have at most")));
}

TEST(BadInputTest, PromptsThatAreNoJson) {
  const TinyRun run;
  ASSERT_TRUE(WriteFileAtomically(run.Join("prompts.jsonl"), "{\"prompt\": \"a\"}\nhello\n").ok());
  EXPECT_THAT(Refusal(run),
              HasSubstr(absl::StrCat(run.Join("prompts.jsonl"), ":2: not a JSON object")));
}

TEST(BadInputTest, AScorerWhoseModelDoesNotFitEndsTheRunAtOnce) {
  const TinyRun run;
  ASSERT_TRUE(testing::WriteTinyModel("llama", run.Join("other")).ok());
  std::vector<testing::TinyTensor> tensors = testing::TinyModelTensors("llama");
  tensors.pop_back();
  ASSERT_TRUE(testing::WriteSafetensors(tensors, run.Join("other/model.safetensors")).ok());
  run.Replace("  template: \"Is this good? {prompt} {completion}\"",
              "  model { path: \"" + run.Join("other") +
                  "\" }\n  template: \"Is this good? {prompt} {completion}\"");
  run.Replace("  name: \"helpfulness\"\n  model { path: \"" + run.Join("model") + "\" }\n",
              "  name: \"helpfulness\"\n");
  const Finished finished = Execute(run.Command());
  EXPECT_EQ(finished.code, 11) << finished.err;
  EXPECT_THAT(finished.err, AllOf(HasSubstr("scorer-helpfulness-0 ended (exit code 2): "),
                                  HasSubstr(tensors.empty() ? "" : "other")));
  EXPECT_EQ(run.TimesStarted("scorer-helpfulness-0"), 1);
  EXPECT_TRUE(NoProcessLeft());
}

TEST(BadInputTest, APromptThatOnlyTheLearnerCanJudgeIsBadInputToo) {
  const TinyRun run;
  const std::string prompts = ReadFile(run.Join("prompts.jsonl")).value_or("");
  const std::string longer(2000, 'x');  // One token a letter; the model has 512 positions.
  ASSERT_TRUE(
      WriteFileAtomically(run.Join("prompts.jsonl"), prompts + "{\"prompt\": \"" + longer + "\"}\n")
          .ok());
  const Finished finished = Execute(run.Command());
  EXPECT_EQ(finished.code, 2) << finished.err;
  EXPECT_THAT(finished.err, HasSubstr("prompts.jsonl:11"));
  EXPECT_FALSE(run.Exists("run.db"));
  EXPECT_TRUE(NoProcessLeft());
}

TEST(BadInputTest, AnUnreachableLearnerIsToldInBoundedTime) {
  for (const std::vector<std::string>& role :
       {std::vector<std::string>{"wideberth-actor"},
        std::vector<std::string>{"wideberth-scorer", "--scorer=safety"}}) {
    std::vector<std::string> argv = role;
    argv.insert(argv.end(), {"--learner=127.0.0.1:1", "--connect_timeout=1s"});
    const Finished finished = Execute(argv);
    EXPECT_EQ(finished.code, 1) << role[0];
    EXPECT_THAT(finished.err, AllOf(HasSubstr(" E "), HasSubstr("127.0.0.1:1"))) << role[0];
    EXPECT_EQ(std::count(finished.err.begin(), finished.err.end(), '\n'), 1) << finished.err;
  }
}

TEST(BadInputTest, AFullDiskEndsTheRunWithASentenceAndWholeFilesOnly) {
  const TinyRun run;
  const std::string mount = run.Join("disk");
  ASSERT_EQ(::mkdir(mount.c_str(), 0755), 0);
  if (::mount("tmpfs", mount.c_str(), "tmpfs", 0, "size=320k") != 0)
    GTEST_SKIP() << "mounting a small disk takes root";
  const std::string run_dir = mount + "/run";
  const Finished finished =
      Execute({"wideberth", "run", "--config=" + run.config(), "--run_dir=" + run_dir,
               "--override=learner { max_steps: 200 }"});
  EXPECT_EQ(finished.code, 10) << finished.out;
  EXPECT_THAT(finished.err, AllOf(StartsWith("wideberth run: learner-0 ended (exit code 1): "),
                                  HasSubstr(run_dir)));
  EXPECT_TRUE(NoProcessLeft());
  for (const auto& entry : std::filesystem::recursive_directory_iterator(run_dir)) {
    EXPECT_THAT(entry.path().string(), ::testing::Not(EndsWith(".partial")));
  }
  const std::string metrics = ReadFile(run_dir + "/metrics.jsonl").value_or("");
  EXPECT_TRUE(metrics.empty() || metrics.back() == '\n') << "half a line";
  ::umount(mount.c_str());
}

}  // namespace
}  // namespace wideberth
