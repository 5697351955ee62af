// SPDX-License-Identifier: Apache-2.0
// Training on given data with real processes: `wideberth check` and `run` of SFT and of a guard, a
// learner that is killed, one that is stopped and resumed, and data that is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/file.h"
#include "tests/integration/tiny_run.h"

namespace wideberth {
namespace {

using nlohmann::json;
using testing::Eventually;
using testing::Execute;
using testing::Finished;
using ::testing::HasSubstr;
using testing::NoProcessLeft;
using testing::Process;
using testing::TinyRun;

constexpr char kGuard[] = R"(name: "guard"
seed: 5
policy { model { path: "$D/model" } lora { rank: 4 alpha: 8 dropout: 0.1 } }
data { path: "$D/rows.jsonl" validation_path: "$D/rows.jsonl" batch_size: 4 num_epochs: 40 }
scorer {
  name: "g"
  model { path: "$D/model" }
  template: "{prompt} {completion}"
  positive_id: 101
  negative_id: 100
}
learner { task: GUARD learning_rate: 1e-3 checkpoint_every: 7 }
supervisor { restart_backoff: 0.1 drain_timeout: 20 }
)";
constexpr char kSft[] = R"(name: "sft"
policy { model { path: "$D/model" } lora { rank: 4 alpha: 8 } }
data { path: "$D/chats.jsonl" batch_size: 2 num_epochs: 3 }
learner { task: SFT learning_rate: 1e-2 }
)";
constexpr char kChats[] =
    R"({"messages": [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]}
{"prompt": "in the", "completion": " end"}
)";

class SupervisedRun {
 public:
  explicit SupervisedRun(const char* config) {
    std::string rows;
    for (int i = 0; i < 16; ++i) {
      absl::StrAppend(&rows, "{\"prompt\": \"p", i, "\", \"response\": \"", i % 2 ? "yes " : "no ",
                      i, "\", \"label\": ", i % 2, "}\n");
    }
    Write("rows.jsonl", rows);
    Write("chats.jsonl", kChats);
    Write("tiny.txtpb", absl::StrReplaceAll(config, {{"$D/model", run_.Join("model")},
                                                     {"$D/rows", run_.Join("rows")},
                                                     {"$D/chats", run_.Join("chats")}}));
  }
  void Write(const std::string& name, const std::string& text) const {
    EXPECT_TRUE(WriteFileAtomically(run_.Join(name), text).ok());
  }
  // What a run without a disturbance gives.
  std::string Undisturbed() const {
    const std::string folder = run_.Join("undisturbed");
    const Finished finished =
        Execute({"wideberth", "run", "--config=" + run_.config(), "--run_dir=" + folder});
    EXPECT_EQ(finished.code, 0) << finished.err;
    return ReadFile(folder + "/adapter/adapter_model.safetensors").value_or("");
  }
  std::string Adapter() const { return run_.File("adapter/adapter_model.safetensors"); }
  const TinyRun* operator->() const { return &run_; }

 private:
  TinyRun run_;
};

TEST(SupervisedTest, AnSftRunIsALearnerAlone) {
  const SupervisedRun run(kSft);
  const Finished check = Execute({"wideberth", "check", "--config=" + run->config()});
  EXPECT_EQ(check.code, 0) << check.err;
  EXPECT_EQ(check.out, "sft can run: SFT, 3 epoch(s) in steps of 2 rows\n");
  const Finished finished = Execute(run->Command());
  EXPECT_EQ(finished.code, 0) << finished.err << run->File("logs/learner-0.log");
  EXPECT_THAT(finished.out, HasSubstr("Run sft (SFT): completed\n  3 of 3 steps, 3.00 epochs"));
  ASSERT_EQ(run->Metrics().size(), 3u);
  EXPECT_LT(run->Metrics()[2]["loss"], run->Metrics()[0]["loss"]);
  EXPECT_TRUE(run->Metrics()[2].contains("mean_token_accuracy"));
  EXPECT_FALSE(run.Adapter().empty());
  EXPECT_EQ(run->TimesStarted("actor-0"), 0);
  const Finished replay = Execute({"wideberth", "replay", "--run=" + run->run_dir()});
  EXPECT_NE(replay.code, 0);
  EXPECT_THAT(replay.err, HasSubstr("is a run of task SFT, which has no journal to replay"));
  EXPECT_TRUE(NoProcessLeft());
}

TEST(SupervisedTest, AKilledLearnerGoesOnToTheSameAdapter) {
  const SupervisedRun run(kGuard);
  const std::string expected = run.Undisturbed();
  ASSERT_FALSE(expected.empty());
  Process process(run->Command(), run->Join(""));
  for (const size_t steps : {3, 40, 90}) {
    ASSERT_TRUE(Eventually([&] { return run->Metrics().size() >= steps; })) << process.err();
    const pid_t victim = run->PidOf("learner-0");
    ::kill(victim, SIGKILL);
    ASSERT_TRUE(Eventually([&] { return run->PidOf("learner-0") != victim; })) << process.err();
  }
  EXPECT_EQ(process.Wait(), 0) << process.err() << run->File("logs/learner-0.log");
  EXPECT_EQ(run->TimesStarted("learner-0"), 4);
  EXPECT_EQ(run.Adapter(), expected);
  const std::vector<json> metrics = run->Metrics();
  ASSERT_EQ(metrics.size(), 161u);  // Every step once, and the validation.
  for (size_t i = 0; i < 160; ++i) EXPECT_EQ(metrics[i]["step"].get<size_t>(), i + 1);
  EXPECT_THAT(run->File("summary.txt"), HasSubstr("Validation, 16 rows: AUROC"));
  EXPECT_TRUE(run->Exists("adapter/calibration.json"));
  EXPECT_THAT(process.out(), HasSubstr(absl::StrCat("--scorer=g --override='adapter: \"",
                                                    run->run_dir(), "/adapter\"'")));
  EXPECT_TRUE(NoProcessLeft());
}

TEST(SupervisedTest, ARunThatASignalEndedIsResumed) {
  const SupervisedRun run(kGuard);
  const std::string expected = run.Undisturbed();
  {
    Process process(run->Command(), run->Join(""));
    ASSERT_TRUE(Eventually([&] { return run->Metrics().size() >= 5; })) << process.err();
    process.Signal(SIGTERM);
    EXPECT_EQ(process.Wait(), 0) << process.err();
    const json summary = json::parse(run->File("summary.json"));
    EXPECT_EQ(summary["ended"], "stopped");
    EXPECT_LT(summary["steps"], 160);
    EXPECT_TRUE(run->Exists(absl::StrCat("checkpoints/step-", summary["steps"].get<int>())));
  }
  const Finished resumed = Execute({"wideberth", "run", "--resume=" + run->run_dir()});
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_EQ(run.Adapter(), expected);
  EXPECT_TRUE(NoProcessLeft());
}

TEST(SupervisedTest, ABadRowIsRefusedBeforeARunBegins) {
  const SupervisedRun run(kGuard);
  run.Write("rows.jsonl",
            "{\"prompt\": \"p\", \"response\": \"r\", \"label\": 1}\n\n{\"prompt\": \"p\"}\n");
  const std::string sentence =
      absl::StrCat(run->Join("rows.jsonl"), ":2: the line is empty, expected a JSON object\n");
  for (const char* command : {"check", "run"}) {
    const Finished finished = Execute({"wideberth", command, "--config=" + run->config()});
    EXPECT_EQ(finished.code, 2) << finished.out;
    EXPECT_THAT(finished.err, HasSubstr(sentence));
  }
  const Finished learner =
      Execute({"wideberth-learner", "--config=" + run->config(), "--run_dir=" + run->run_dir()});
  EXPECT_EQ(learner.code, 2);
  EXPECT_FALSE(std::filesystem::exists(run->run_dir()));
  EXPECT_TRUE(NoProcessLeft());
}

TEST(SupervisedTest, ASecondRunDoesNotTouchTheFirst) {
  const SupervisedRun run(kSft);
  ASSERT_EQ(Execute(run->Command()).code, 0);
  const std::string adapter = run.Adapter();
  const Finished again = Execute(run->Command());
  EXPECT_EQ(again.code, 2);
  EXPECT_THAT(again.err, HasSubstr("holds a run already"));
  EXPECT_EQ(run.Adapter(), adapter);
}

}  // namespace
}  // namespace wideberth
