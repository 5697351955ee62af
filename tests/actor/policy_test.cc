// SPDX-License-Identifier: Apache-2.0
#include "actor/policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::actor {
namespace {

using ::testing::HasSubstr;

class ModelPolicyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(testing::WriteTinyModel("llama", folder_.Join("model")).ok());
    config_.mutable_policy()->mutable_model()->set_path(folder_.Join("model"));
    config_.mutable_generation()->set_max_new_tokens(6);
    config_.set_seed(3);
    prompt_.add_message()->set_role("user");
    prompt_.mutable_message(0)->set_content("the thing");
  }
  // An adapter version as the learner would publish it, with B not zero.
  transport::AdapterBlob Version(const ModelPolicy& policy, uint64_t version) {
    transport::AdapterBlob blob;
    auto adapter = model::Adapter::Initialize(policy.model().spec(), config_.policy().lora(),
                                              version, at::kFloat, at::kCPU);
    EXPECT_TRUE(adapter.ok()) << adapter.status();
    for (at::Tensor parameter : (*adapter)->Parameters()) parameter.normal_(0.0, 0.5);
    blob.bytes = (*adapter)->Pack(at::kFloat, &blob.manifest);
    blob.manifest.set_version(version);
    blob.manifest.set_base_fingerprint(policy.fingerprint());
    return blob;
  }

  testing::TempDir folder_;
  proto::RunConfig config_;
  proto::Prompt prompt_;
};

TEST_F(ModelPolicyTest, SamplesTheAdapterThatWasSwappedInAndTheBaseWhenItIsOff) {
  const auto policy = ModelPolicy::Load(config_);
  ASSERT_TRUE(policy.ok()) << policy.status();
  const auto ids = (*policy)->Encode(prompt_);
  ASSERT_TRUE(ids.ok()) << ids.status();
  const auto sample = [&](bool adapter_off) {
    EXPECT_TRUE((*policy)->Add({{1, *ids, 2}}, adapter_off).ok());
    while (true) {
      const auto finished = (*policy)->TakeFinished();
      if (!finished.empty()) return finished[0].completions[0];
      EXPECT_TRUE((*policy)->Step().ok());
    }
  };
  const model::Sampled base = sample(/*adapter_off=*/true);
  ASSERT_TRUE((*policy)->Use(Version(**policy, 1)).ok());
  const model::Sampled adapted = sample(/*adapter_off=*/false), off = sample(/*adapter_off=*/true);
  EXPECT_EQ(base.tokens, off.tokens);
  EXPECT_EQ(base.logprobs, off.logprobs);
  EXPECT_NE(base.logprobs, adapted.logprobs);
  ASSERT_EQ(adapted.versions.size(), 1u);
  EXPECT_EQ(adapted.versions[0].version, 1u);
  EXPECT_EQ(adapted.versions[0].num_tokens, static_cast<int>(adapted.tokens.size()));
}

TEST_F(ModelPolicyTest, APreparedVersionIsOnlySwappedInAndSamplesTheSame) {
  const auto policy = ModelPolicy::Load(config_), other = ModelPolicy::Load(config_);
  ASSERT_TRUE(policy.ok()) << policy.status();
  const auto ids = (*policy)->Encode(prompt_);
  const auto sample = [&](ModelPolicy& by) {
    EXPECT_TRUE(by.Add({{1, *ids, 2}}, /*adapter_off=*/false).ok());
    std::vector<model::Generator::Finished> finished;
    while ((finished = by.TakeFinished()).empty()) EXPECT_TRUE(by.Step().ok());
    return finished[0].completions[0].logprobs;
  };
  const transport::AdapterBlob first = Version(**policy, 1), second = Version(**policy, 2);
  auto blob = std::make_shared<transport::AdapterBlob>(first);
  (*policy)->Prepare(blob);
  blob->bytes.clear();  // Use has no need of them any more.
  ASSERT_TRUE((*policy)->Use(*blob).ok());
  ASSERT_TRUE((*other)->Use(first).ok());
  const auto of_first = sample(**other);
  EXPECT_EQ(sample(**policy), of_first);
  EXPECT_FALSE((*policy)->Use(*blob).ok()) << "a prepared version is there once";

  (*policy)->Prepare(std::make_shared<transport::AdapterBlob>(first));
  ASSERT_TRUE((*policy)->Use(second).ok()) << "another than the prepared one";
  ASSERT_TRUE((*other)->Use(second).ok());
  const auto of_second = sample(**other);
  EXPECT_NE(of_second, of_first);
  EXPECT_EQ(sample(**policy), of_second);
}

TEST_F(ModelPolicyTest, WhatCannotBePreparedIsRefusedWhenItIsUsed) {
  const auto policy = ModelPolicy::Load(config_);
  ASSERT_TRUE(policy.ok()) << policy.status();
  auto blob = std::make_shared<transport::AdapterBlob>(Version(**policy, 1));
  blob->bytes.resize(blob->bytes.size() / 2);
  (*policy)->Prepare(blob);
  EXPECT_THAT(std::string((*policy)->Use(*blob).message()), HasSubstr("ends past the buffer"));
}

TEST_F(ModelPolicyTest, AnAdapterOfAnotherBaseIsRefused) {
  const auto policy = ModelPolicy::Load(config_);
  ASSERT_TRUE(policy.ok()) << policy.status();
  transport::AdapterBlob blob = Version(**policy, 1);
  blob.manifest.set_base_fingerprint("another");
  EXPECT_THAT(std::string((*policy)->Use(blob).message()),
              HasSubstr("is for a base with fingerprint another"));
}

TEST_F(ModelPolicyTest, AModelWithoutAChatTemplateReadsPlainText) {
  std::filesystem::remove(folder_.Join("model/tokenizer_config.json"));
  std::filesystem::remove(folder_.Join("model/chat_template.jinja"));
  const auto policy = ModelPolicy::Load(config_);
  ASSERT_TRUE(policy.ok()) << policy.status();
  const auto ids = (*policy)->Encode(prompt_);
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ((*policy)->Decode(*ids), "the thing");
}

TEST_F(ModelPolicyTest, ATokenizerOfALargerVocabularyIsRefused) {
  const auto tokenizer = model::Tokenizer::FromFolder(folder_.Join("model"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  testing::TempDir other;
  if (testing::SmolLm2Dir().empty())
    GTEST_SKIP() << "SmolLM2 is not there; run launch/get_smollm2.sh";
  std::filesystem::copy_file(testing::SmolLm2Dir() + "/tokenizer.json",
                             folder_.Join("model/tokenizer.json"),
                             std::filesystem::copy_options::overwrite_existing);
  const auto policy = ModelPolicy::Load(config_);
  EXPECT_THAT(std::string(policy.status().message()), HasSubstr("they belong to different models"));
}

}  // namespace
}  // namespace wideberth::actor
