// SPDX-License-Identifier: Apache-2.0
#include "learner/checkpoint.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace wideberth::learner {
namespace {

using ::testing::HasSubstr;

class CheckpointTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(wideberth::testing::WriteTinyModel("llama", dir_.Join("model")).ok());
    config_.mutable_policy()->mutable_model()->set_path(dir_.Join("model"));
    config_.mutable_policy()->mutable_lora()->set_rank(4);
    auto model = model::CausalLm::Load(config_.policy().model());
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    adapter_ = Adapter(3);
    optimizer_ = std::make_unique<AdamW>(adapter_->NamedTensors(), AdamW::Options());
    optimizer_->NamedState()[0].second.fill_(0.25);
  }
  std::shared_ptr<model::Adapter> Adapter(uint64_t seed) const {
    return *model::Adapter::Initialize(model_->spec(), config_.policy().lora(), seed, at::kFloat,
                                       at::kCPU);
  }
  absl::Status Write(int64_t step) const {
    proto::TrainingState state;
    state.set_step(step);
    state.set_optimizer_updates(step);
    state.set_reward_statistics("3 0x1p+0 0x1p-1");
    state.mutable_fingerprints()->set_base(model_->fingerprint());
    return store_.Write(state, *adapter_, *optimizer_, config_);
  }
  static CheckpointStore::Fit Fit(const proto::LoraConfig& lora, const std::string& start = "") {
    return {lora, /*seed=*/0, start};
  }
  absl::StatusOr<absl::optional<CheckpointStore::Loaded>> Newest() const {
    return store_.LoadNewest(*model_, Fit(config_.policy().lora()));
  }
  std::string Path(const std::string& name) const { return dir_.Join("checkpoints/" + name); }

  wideberth::testing::TempDir dir_;
  proto::RunConfig config_;
  std::unique_ptr<model::CausalLm> model_;
  std::shared_ptr<model::Adapter> adapter_;
  std::unique_ptr<AdamW> optimizer_;
  CheckpointStore store_{dir_.Join("checkpoints"), 2};
};

TEST_F(CheckpointTest, NothingIsThereBeforeTheFirst) {
  const auto loaded = Newest();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_FALSE(loaded->has_value());
}

TEST_F(CheckpointTest, WhatWasWrittenComesBackBitForBitAndOnlyTheNewestStay) {
  for (const int64_t step : {2, 4, 10}) ASSERT_TRUE(Write(step).ok());
  EXPECT_FALSE(std::filesystem::exists(Path("step-2")));
  EXPECT_TRUE(std::filesystem::exists(Path("step-4")));
  const auto loaded = Newest();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ASSERT_TRUE(loaded->has_value());
  EXPECT_EQ((*loaded)->state.step(), 10) << "by number, not by name";
  EXPECT_EQ((*loaded)->state.reward_statistics(), "3 0x1p+0 0x1p-1");
  const auto mine = adapter_->NamedTensors(), theirs = (*loaded)->adapter->NamedTensors();
  ASSERT_EQ(mine.size(), theirs.size());
  for (size_t i = 0; i < mine.size(); ++i) {
    EXPECT_EQ(mine[i].first, theirs[i].first);
    EXPECT_TRUE(at::equal(mine[i].second, theirs[i].second)) << mine[i].first;
  }
  AdamW restored(Adapter(1)->NamedTensors(), AdamW::Options());
  ASSERT_TRUE(restored.Restore((*loaded)->optimizer, 10).ok());
  for (size_t i = 0; i < optimizer_->NamedState().size(); ++i)
    EXPECT_TRUE(at::equal(optimizer_->NamedState()[i].second, restored.NamedState()[i].second));
}

TEST_F(CheckpointTest, AStepWrittenAgainReplacesItself) {
  ASSERT_TRUE(Write(5).ok());
  adapter_->Parameters()[0].data().fill_(7);
  ASSERT_TRUE(Write(5).ok());
  EXPECT_TRUE(at::equal((*Newest())->adapter->Parameters()[0], adapter_->Parameters()[0]));
  EXPECT_FALSE(std::filesystem::exists(Path("step-5.partial")));
}

TEST_F(CheckpointTest, EveryKindOfDamageFallsBackToTheOneBefore) {
  const auto truncate = [](const std::string& file) {
    std::filesystem::resize_file(file, std::filesystem::file_size(file) - 1);
  };
  const auto flip = [](const std::string& file) {
    std::string bytes = ReadFile(file).value();
    bytes[bytes.size() / 2] ^= 1;
    ASSERT_TRUE(WriteFileAtomically(file, bytes).ok());
  };
  const auto remove = [](const std::string& file) { std::filesystem::remove(file); };
  for (const char* name :
       {"adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors", "state.txtpb",
        "config.txtpb", "MANIFEST.txtpb"}) {
    for (int kind = 0; kind < 3; ++kind) {
      ASSERT_TRUE(Write(1).ok());
      ASSERT_TRUE(Write(2).ok());
      const std::string file = Path(absl::StrCat("step-2/", name));
      if (kind == 0) truncate(file);
      if (kind == 1) flip(file);
      if (kind == 2) remove(file);
      const auto loaded = Newest();
      ASSERT_TRUE(loaded.ok()) << name << " " << kind << ": " << loaded.status();
      ASSERT_TRUE(loaded->has_value());
      // A manifest that lost its last byte, a line end, still says everything.
      const bool harmless = kind == 0 && absl::string_view(name) == "MANIFEST.txtpb";
      EXPECT_EQ((*loaded)->state.step(), harmless ? 2 : 1) << name << " " << kind;
    }
  }
}

TEST_F(CheckpointTest, AnotherBaseRankAlphaOrTargetSetIsASentence) {
  ASSERT_TRUE(Write(1).ok());
  const auto refusal = [&](const proto::LoraConfig& lora) {
    return std::string(store_.LoadNewest(*model_, Fit(lora)).status().message());
  };
  proto::LoraConfig lora = config_.policy().lora();
  lora.set_rank(8);
  EXPECT_THAT(refusal(lora), HasSubstr("is of LoRA rank 4, policy.lora.rank is 8"));
  lora = config_.policy().lora();
  lora.set_alpha(1);
  EXPECT_THAT(refusal(lora), HasSubstr("has alpha 32, policy.lora.alpha is 1"));
  lora = config_.policy().lora();
  lora.add_target("q_proj");
  EXPECT_THAT(refusal(lora), HasSubstr("is of another set of targets"));
  lora = config_.policy().lora();
  lora.set_rslora(true);
  EXPECT_THAT(refusal(lora), HasSubstr("is not scaled by rslora, policy.lora.rslora is true"));
  EXPECT_THAT(
      std::string(
          store_.LoadNewest(*model_, Fit(config_.policy().lora(), "f00d")).status().message()),
      HasSubstr("started from no adapter, policy.adapter gives an adapter with fingerprint f00d"));
  ASSERT_TRUE(wideberth::testing::WriteTinyModel("llama3_rope", dir_.Join("other")).ok());
  ASSERT_TRUE(wideberth::testing::WriteTinyModel("qwen2", dir_.Join("qwen2")).ok());
  proto::ModelConfig qwen2;
  qwen2.set_path(dir_.Join("qwen2"));
  const auto other = model::CausalLm::Load(qwen2);
  EXPECT_THAT(
      std::string(store_.LoadNewest(**other, Fit(config_.policy().lora())).status().message()),
      HasSubstr("was trained on base weights with fingerprint"));
}

TEST_F(CheckpointTest, ADiskThatTakesNoMoreLeavesTheOneBeforeAndNoPart) {
  ASSERT_TRUE(Write(1).ok());
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  ::signal(SIGXFSZ, SIG_IGN);
  struct rlimit small = before;
  small.rlim_cur = 4096;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status status = Write(2);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("step-2.partial/"));
  EXPECT_FALSE(std::filesystem::exists(Path("step-2.partial")));
  EXPECT_EQ((*Newest())->state.step(), 1);
  EXPECT_TRUE(Write(2).ok());
}

}  // namespace
}  // namespace wideberth::learner
