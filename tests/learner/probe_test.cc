// SPDX-License-Identifier: Apache-2.0
// Actors that sample with another policy than the one they claim: each is caught before a step is
// trained on what it handed in, and the run goes on as if it had never been there.
#include "learner/probe.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/learner/learner_fixture.h"

namespace wideberth::learner {
namespace {

using ::testing::HasSubstr;

class ProbeTest : public LearnerTest {
 protected:
  void SetUp() override {
    LearnerTest::SetUp();
    config_.mutable_learner()->set_deterministic(true);
    config_.mutable_evaluation()->set_num_prompts(0);
    RunDir("honest");
    auto learner = Make();
    TestActor actor(learner->handler(), "actor-0", dir_.Join("model"));
    ASSERT_TRUE(RunWith(*learner, {&actor}).ok());
    honest_ = SummaryOf(config_.run_dir())["adapter"]["fingerprint"];
  }
  // The run with `wicked` alone until it is sent away, then with an honest actor. What the wicked
  // one was told.
  std::string CaughtWith(const std::function<void(TestActor&)>& make_wicked) {
    RunDir("wicked");
    auto learner = Make();
    TestActor wicked(learner->handler(), "actor-0", dir_.Join("model"));
    make_wicked(wicked);
    TestActor honest(learner->handler(), "actor-1", dir_.Join("model"));
    absl::Status told;
    std::thread actors([&] {
      told = wicked.Run();
      EXPECT_TRUE(honest.Run().ok());
    });
    const absl::Status status = learner->Run();
    actors.join();
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_TRUE(absl::IsDataLoss(told)) << told;
    const json summary = SummaryOf(config_.run_dir());
    EXPECT_EQ(summary["adapter"]["fingerprint"], honest_) << "nothing of it was trained on";
    EXPECT_GE(summary["totals"]["groups_refused"].get<int>(), 1);
    for (const json& step : Metrics(config_.run_dir()))
      EXPECT_LT(step["logprob_difference_max"].get<double>(), 1e-4);
    return std::string(told.message());
  }
  std::string honest_;
};

TEST_F(ProbeTest, AnActorThatIgnoresAnUpdateIsNamedWithTheVersionItSampledWith) {
  std::shared_ptr<model::Adapter> first;
  int sent = 0;
  const std::string told = CaughtWith([&](TestActor& actor) {
    actor.substitute = [&](const model::CausalLm&, std::shared_ptr<model::Adapter> adapter) {
      if (++sent == 1) first = adapter;
      return sent == 2 ? first : adapter;
    };
  });
  EXPECT_EQ(sent, 2) << "caught in the step after the update it ignored";
  EXPECT_THAT(told, HasSubstr("actor-0 sampled group "));
  EXPECT_THAT(told, HasSubstr("with another policy than version 1, which it claims"));
  EXPECT_THAT(told, HasSubstr("; they are those of "));
}

TEST_F(ProbeTest, AnActorWithAnotherAdapterIsCaughtAtItsFirstStep) {
  int sent = 0;
  const std::string told = CaughtWith([&](TestActor& actor) {
    actor.substitute = [&](const model::CausalLm& model, std::shared_ptr<model::Adapter>) {
      ++sent;
      auto other = model::Adapter::Initialize(model.spec(), config_.policy().lora(), 77, at::kFloat,
                                              at::kCPU);
      for (at::Tensor parameter : (*other)->Parameters()) parameter.normal_(0.0, 0.05);
      return *other;
    };
  });
  EXPECT_EQ(sent, 1);
  EXPECT_THAT(told, HasSubstr("with another policy than version 0, which it claims"));
}

TEST_F(ProbeTest, AnActorWithAnotherBaseIsCaughtAtItsFirstStep) {
  // The same weights, rounded: as near as a wrong base comes.
  ASSERT_TRUE(
      wideberth::testing::WriteTinyModel("llama", dir_.Join("other"), {.bfloat16 = true}).ok());
  const std::string told =
      CaughtWith([&](TestActor& actor) { actor.sampled_folder = dir_.Join("other"); });
  EXPECT_THAT(told, HasSubstr("with another policy than version 0, which it claims"));
}

TEST_F(ProbeTest, AnActorWithAnotherTokenizerIsCaughtAtItsFirstGroup) {
  std::filesystem::create_directory(dir_.Join("other"));
  const std::string json_text = ReadFile(dir_.Join("model/tokenizer.json")).value_or("");
  json tokenizer = json::parse(json_text);
  // Two tokens that the prompts have change places.
  json& vocab = tokenizer["model"]["vocab"];
  std::swap(vocab["e"], vocab["o"]);
  std::ofstream(dir_.Join("other/tokenizer.json")) << tokenizer.dump();
  for (const char* name : {"tokenizer_config.json", "chat_template.jinja"}) {
    if (std::filesystem::exists(dir_.Join(absl::StrCat("model/", name))))
      std::filesystem::copy_file(dir_.Join(absl::StrCat("model/", name)),
                                 dir_.Join(absl::StrCat("other/", name)));
  }
  const std::string told =
      CaughtWith([&](TestActor& actor) { actor.tokenizer_folder = dir_.Join("other"); });
  EXPECT_THAT(told, HasSubstr("tokens that is not the policy's tokenizer's"));
}

TEST_F(ProbeTest, ALogProbThatIsNoNumberIsAnotherPolicys) {
  const std::string told = CaughtWith([&](TestActor& actor) {
    actor.tamper = [](proto::SubmitGroupRequest& request) {
      for (proto::Completion& completion : *request.mutable_completion())
        completion.set_logprob(0, -1e30f);
    };
  });
  EXPECT_THAT(told, HasSubstr("its log-probs differ by"));
}

}  // namespace
}  // namespace wideberth::learner
