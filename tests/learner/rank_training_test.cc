// SPDX-License-Identifier: Apache-2.0
// Two and four ranks as threads over loopback train the adapter of one.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <random>
#include <thread>

#include "learner/rank_share.h"
#include "learner/rank_sync.h"
#include "learner/train_step.h"
#include "tests/testing/fake_wire.h"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"
#include "transport/learner_service.h"
#include "transport/rank_client.h"
#include "transport/rank_hub.h"

namespace wideberth::learner {
namespace {

using model::Adapter;
using model::CausalLm;
using proto::LearnerConfig;
using ::testing::HasSubstr;

constexpr int kSteps = 3;

// Groups of very different sizes; some completions without a reward, some cut off by length.
std::vector<TrainGroup> RandomGroups(uint32_t seed, int num_groups) {
  std::mt19937 random(seed);
  const auto below = [&](int n) { return static_cast<int>(random() % n); };
  std::vector<TrainGroup> groups;
  for (int g = 0; g < num_groups; ++g) {
    TrainGroup& group = groups.emplace_back();
    group.group_id = 10 * seed + g;
    group.source = absl::StrCat("actor-", g);
    for (int i = 3 + below(20); i > 0; --i) group.prompt.push_back(below(300));
    for (int c = 0; c < 4; ++c) {
      TrainCompletion& completion = group.completions.emplace_back();
      completion.index = c;
      for (int i = 1 + below(12); i > 0; --i) {
        completion.tokens.push_back(below(300));
        completion.sampler_logprobs.push_back(-5.0f - static_cast<float>(below(100)) / 100);
      }
      completion.finish = below(4) == 0 ? proto::LENGTH : proto::STOP;
      if (below(6) > 0) completion.reward = below(1000) / 500.0;
    }
  }
  return groups;
}

// What a rank has in the end.
struct Trained {
  absl::Status status;
  std::vector<at::Tensor> adapter;
  std::vector<StepMetrics> metrics;
};

class RankTraining : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(testing::WriteTinyModel("llama", dir_.Join("model")).ok());
    learner_.set_max_logprob_difference(0);
    learner_.set_learning_rate(1e-2);
    learner_.set_micro_batch_tokens(64);
    learner_.set_rank_timeout(60);
  }

  // One rank's part, from a model of its own; the adapter also where it fails.
  Trained Train(transport::Collective* ranks, uint64_t adapter_seed = 17,
                int num_steps = kSteps) const {
    Trained trained;
    trained.status = [&]() -> absl::Status {
      proto::ModelConfig config;
      config.set_path(dir_.Join("model"));
      config.set_dtype(proto::FLOAT64);
      WB_ASSIGN_OR_RETURN(const auto model, CausalLm::Load(config));
      proto::LoraConfig lora;
      lora.set_rank(4);
      lora.set_alpha(8);
      WB_ASSIGN_OR_RETURN(
          const std::shared_ptr<Adapter> adapter,
          Adapter::Initialize(model->spec(), lora, adapter_seed, at::kDouble, at::kCPU));
      Trainer::Options options;
      options.learner = learner_;
      options.max_completion_length = 16;
      WB_ASSIGN_OR_RETURN(const auto trainer, Trainer::Create(model.get(), adapter, options));
      if (ranks != nullptr) {
        trainer->ShareWith(ranks, nullptr);
        WB_RETURN_IF_ERROR(ShareState(*ranks, trainer->adapter(), trainer->optimizer()));
      }
      absl::Status failed;
      for (int step = 0; step < num_steps && failed.ok(); ++step) {
        const absl::StatusOr<StepMetrics> metrics = trainer->Step(RandomGroups(step, num_groups_));
        if (metrics.ok()) trained.metrics.push_back(*metrics);
        failed = metrics.status();
      }
      for (const at::Tensor& tensor : adapter->Parameters())
        trained.adapter.push_back(tensor.detach().clone());
      return failed;
    }();
    return trained;
  }

  // By rank. `quits`: a rank that leaves after its first step; -1: none.
  std::vector<Trained> TrainOnRanks(int world_size, int quits = -1) {
    transport::RankHub::Options options;
    options.world_size = world_size;
    options.run_id = "run-1";
    options.rank_timeout = absl::Seconds(60);
    options.config.mutable_learner()->set_rank_timeout(60);
    transport::RankHub hub(std::move(options), &Clock::Real());
    testing::FakeLearner nobody;
    auto server = transport::LearnerServer::Start("127.0.0.1:0", &nobody, &hub);
    EXPECT_TRUE(server.ok()) << server.status();
    std::vector<Trained> all(world_size);
    std::vector<std::jthread> threads;
    for (int rank = 1; rank < world_size; ++rank) {
      threads.emplace_back([&, rank] {
        transport::RankClient::Options mine;
        mine.rank = rank;
        auto client = transport::RankClient::Connect((*server)->address(), absl::Seconds(30), mine);
        ASSERT_TRUE(client.ok()) << client.status();
        proto::JoinRankRequest hello;
        hello.set_base_fingerprint("");
        ASSERT_TRUE((*client)->Join(hello).ok());
        // With chunks this small a gradient is many of them.
        transport::StarCollective ranks(rank, world_size, client->get(), 4096);
        // Another start: rank 0's state has to replace it.
        all[rank] = Train(&ranks, /*adapter_seed=*/100 + rank, rank == quits ? 1 : kSteps);
        if (rank == quits) (*client)->Leave("out of memory");
      });
    }
    transport::StarCollective ranks(0, world_size, &hub, 4096);
    all[0] = Train(&ranks);
    threads.clear();
    hub.End();
    return all;
  }

  void ExpectTheAdapterOfOneRank(absl::string_view what) {
    SCOPED_TRACE(what);
    const Trained one = Train(nullptr);
    ASSERT_TRUE(one.status.ok()) << one.status;
    for (const int world_size : {2, 4}) {
      SCOPED_TRACE(world_size);
      const std::vector<Trained> all = TrainOnRanks(world_size);
      double largest = 0;
      for (const Trained& rank : all) {
        ASSERT_TRUE(rank.status.ok()) << rank.status;
        for (size_t i = 0; i < one.adapter.size(); ++i) {
          EXPECT_TRUE(at::equal(rank.adapter[i], all[0].adapter[i])) << "not rank 0's, bit for bit";
          largest =
              std::max(largest, (rank.adapter[i] - one.adapter[i]).abs().max().item<double>());
        }
        for (int step = 0; step < kSteps; ++step) {
          const StepMetrics& mine = rank.metrics[step];
          const StepMetrics& ones = one.metrics[step];
          EXPECT_NEAR(mine.loss, ones.loss, 1e-9);
          EXPECT_NEAR(mine.grad_norm, ones.grad_norm, 1e-9);
          EXPECT_NEAR(mine.kl, ones.kl, 1e-9);
          EXPECT_NEAR(mine.entropy, ones.entropy, 1e-9);
          EXPECT_NEAR(mine.logprob_difference_max, ones.logprob_difference_max, 1e-9);
          EXPECT_NEAR(mine.importance_ratio_mean, ones.importance_ratio_mean, 1e-9);
          EXPECT_GT(ones.ratio_deviation_max, 0);
          EXPECT_NEAR(mine.ratio_deviation_max, ones.ratio_deviation_max, 1e-9);
          EXPECT_EQ(mine.logprob_difference_worst, ones.logprob_difference_worst);
          EXPECT_EQ(mine.num_trained, ones.num_trained);
          EXPECT_EQ(mine.num_completion_tokens, ones.num_completion_tokens);
          EXPECT_EQ(mine.clipping.clipped_high, ones.clipping.clipped_high);
          EXPECT_NEAR(mine.clipping.clipped_high_max, ones.clipping.clipped_high_max, 1e-12);
        }
      }
      std::printf("%s, %d ranks: largest difference to one rank %.3g\n", std::string(what).c_str(),
                  world_size, largest);
      EXPECT_LT(largest, 1e-9);
      // It trained at all.
      EXPECT_GT(one.metrics[kSteps - 1].grad_norm, 1e-6);
    }
  }

  testing::TempDir dir_;
  LearnerConfig learner_;
  int num_groups_ = 7;
};

TEST_F(RankTraining, DapoWithKl) { ExpectTheAdapterOfOneRank("dapo"); }

TEST_F(RankTraining, GrpoOverSeveralIterationsWithMaskedTruncations) {
  learner_.set_loss_type(LearnerConfig::GRPO);
  learner_.set_num_iterations(2);
  learner_.set_mask_truncated_completions(true);
  ExpectTheAdapterOfOneRank("grpo");
}

TEST_F(RankTraining, BnpoInSlicesWithAccumulation) {
  learner_.set_loss_type(LearnerConfig::BNPO);
  learner_.set_gradient_accumulation_steps(2);
  learner_.set_steps_per_generation(4);
  ExpectTheAdapterOfOneRank("bnpo");
}

TEST_F(RankTraining, TheEntropyThresholdIsOneForAllRanks) {
  learner_.set_top_entropy_quantile(0.4);
  learner_.set_entropy_coef(0.01);
  ExpectTheAdapterOfOneRank("entropy mask");
}

TEST_F(RankTraining, RanksWithoutAGroupTakePart) {
  num_groups_ = 1;
  learner_.set_top_entropy_quantile(0.5);
  ExpectTheAdapterOfOneRank("one group");
}

TEST_F(RankTraining, AnActorThatSamplesAnotherPolicyIsNamedOnEveryRank) {
  learner_.set_max_logprob_difference(0.01);
  const Trained one = Train(nullptr);
  EXPECT_THAT(std::string(one.status.message()), HasSubstr(" of actor-"));
  for (const Trained& rank : TrainOnRanks(2)) EXPECT_EQ(rank.status, one.status);
}

TEST_F(RankTraining, NothingOfAStepIsAppliedWhenARankQuits) {
  const std::vector<Trained> all = TrainOnRanks(3, /*quits=*/2);
  ASSERT_TRUE(all[2].status.ok()) << all[2].status;
  for (const int rank : {0, 1}) {
    EXPECT_THAT(std::string(all[rank].status.message()), HasSubstr("learner rank 2 (on "));
    EXPECT_THAT(std::string(all[rank].status.message()), HasSubstr(": out of memory"));
    EXPECT_EQ(all[rank].metrics.size(), 1u);
    for (size_t i = 0; i < all[2].adapter.size(); ++i)
      EXPECT_TRUE(at::equal(all[rank].adapter[i], all[2].adapter[i]));
  }
}

}  // namespace
}  // namespace wideberth::learner
