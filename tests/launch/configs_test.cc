// SPDX-License-Identifier: Apache-2.0
// Every configuration in the repository parses and validates, and what its prompts need is there.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "base/text_proto.h"
#include "launch/node_placement.h"
#include "launch/placement.h"
#include "launch/run.h"
#include "learner/prompts.h"
#include "scorer/scorer_config.h"

namespace wideberth::launch {
namespace {

std::vector<std::string> TextProtosIn(const std::string& folder) {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".txtpb") files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  return files;
}

TEST(ConfigsTest, EveryRunIsValidAndItsPromptsAreThere) {
  const std::vector<std::string> files = TextProtosIn("configs");
  ASSERT_FALSE(files.empty());
  for (const std::string& file : files) {
    const auto config = LoadRunConfig({file}, {}, /*look_at_models=*/false);
    ASSERT_TRUE(config.ok()) << config.status().message();
    if (config->learner().task() != proto::RL) {
      EXPECT_EQ(PlaceLocally(*config, {"bin", {file}, {}, "runs/x"}).size(), 1u) << file;
      continue;
    }
    EXPECT_GE(PlaceLocally(*config, {"bin", {file}, {}, "runs/x"}).size(), 3u) << file;
    // Those of smollm2_boundary.txtpb are made by its script.
    if (absl::StartsWith(config->prompts().path(0), "runs/")) continue;
    const auto prompts = learner::PromptSet::Load(config->prompts(), config->seed());
    EXPECT_TRUE(prompts.ok()) << file << ": " << prompts.status().message();
  }
}

TEST(ConfigsTest, EveryScorerIsValid) {
  const std::vector<std::string> files = TextProtosIn("configs/scorers");
  ASSERT_FALSE(files.empty());
  for (const std::string& file : files) {
    proto::ScorerConfig scorer;
    const absl::Status merged = MergeTextProtoFile(file, &scorer);
    ASSERT_TRUE(merged.ok()) << merged.message();
    const absl::Status valid = scorer::ValidateScorerConfig(scorer);
    EXPECT_TRUE(valid.ok()) << file << ": " << valid.message();
  }
}

TEST(ConfigsTest, EveryClusterHoldsTheQuickstart) {
  const std::vector<std::string> files = TextProtosIn("configs/clusters");
  ASSERT_FALSE(files.empty());
  for (const std::string& file : files) {
    const auto config =
        LoadRunConfig({"configs/quickstart.txtpb", file}, {}, /*look_at_models=*/false);
    ASSERT_TRUE(config.ok()) << config.status().message();
    const auto placed = PlaceOnNodes(*config, {"bin", {file}, {}, "runs/x"}, 2);
    EXPECT_TRUE(placed.ok()) << file << ": " << placed.status().message();
  }
}

TEST(ConfigsTest, TheQuickstartIsTheMainJob) {
  const auto config = LoadRunConfig({"configs/quickstart.txtpb"}, {"learner { max_steps: 2 }"},
                                    /*look_at_models=*/false);
  ASSERT_TRUE(config.ok()) << config.status().message();
  EXPECT_EQ(config->policy().lora().rank(), 16);
  EXPECT_EQ(config->policy().lora().alpha(), 32);
  EXPECT_EQ(config->learner().learning_rate(), 2e-5);
  EXPECT_EQ(config->learner().max_steps(), 2);
  EXPECT_LE(config->generation().max_new_tokens(), 48);
  EXPECT_EQ(config->scorer_size(), 2);
  const auto processes = PlaceLocally(*config, {"bin", {"configs/quickstart.txtpb"}, {}, "runs/x"});
  ASSERT_EQ(processes.size(), 4u);
  EXPECT_EQ(processes[0].name, "learner-0");
  EXPECT_EQ(processes[1].name, "scorer-safety-0");
  EXPECT_EQ(processes[2].name, "scorer-helpfulness-0");
  EXPECT_EQ(processes[3].name, "actor-0");
  for (const PlacedProcess& process : processes) EXPECT_EQ(process.num_threads, 1);
  const auto prompts = learner::PromptSet::Load(config->prompts(), config->seed());
  ASSERT_TRUE(prompts.ok()) << prompts.status().message();
}

}  // namespace
}  // namespace wideberth::launch
