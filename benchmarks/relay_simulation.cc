// SPDX-License-Identifier: Apache-2.0
// How long a version takes to reach everybody through the relay tree, by fan-out: a simulation with
// a bandwidth per link, no clock and no randomness. A node's uplink is shared by the children that
// still have to be sent something, its downlink is as fast. Store-and-forward: a relay sends once
// it has the whole version, as the actors do. Pipelined: it sends each chunk as it comes.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "learner/relay_tree.h"

namespace wideberth {
namespace {

constexpr double kBytes = 138e6;
constexpr double kChunkBytes = 1 << 20;
constexpr double kHopSeconds = 0.001;  // Waking the child, its call and the first answer.

struct Times {
  double last = 0;
  double median = 0;
};

// All children of a node have the version together after num_children * bytes / rate, since they
// share its uplink from the same moment on.
Times Simulate(int num_actors, int fan_out, double bytes_per_second, bool pipelined) {
  learner::RelayTree tree(fan_out);
  std::vector<learner::RelayTree::Actor> actors;
  for (int i = 0; i < num_actors; ++i) actors.push_back({absl::StrCat(i), absl::StrCat(i)});
  tree.Update(actors);
  std::vector<std::vector<std::string>> levels;
  for (const auto& actor : actors) {
    const size_t depth = static_cast<size_t>(tree.Depth(actor.name));
    if (levels.size() < depth) levels.resize(depth);
    levels[depth - 1].push_back(actor.name);
  }
  // Finished, and the rate at which it came in, of every node; the learner is "".
  std::vector<double> finished;
  std::map<std::string, std::pair<double, double>> state = {{"", {0.0, INFINITY}}};
  for (const auto& level : levels) {
    for (const std::string& name : level) {
      const std::string parent = tree.ParentAddress(name);
      const auto [parent_finished, parent_rate] = state.at(parent);
      const double share = bytes_per_second / tree.NumChildren(parent);
      const double rate = std::min(share, parent_rate);
      // Pipelined it trails by a hop and a chunk; a slower link than the parent's stretches it all.
      const double whole = pipelined && !parent.empty() ? parent_finished - kBytes / parent_rate +
                                                              kBytes / rate + kChunkBytes / share
                                                        : parent_finished + kBytes / share;
      state[name] = {whole + kHopSeconds, pipelined ? rate : share};
      finished.push_back(whole + kHopSeconds);
    }
  }
  std::sort(finished.begin(), finished.end());
  return {finished.back(), finished[finished.size() / 2]};
}

int Main() {
  std::printf("seconds until the last of N receivers has 138 MB (until half of them have)\n");
  std::printf("| Gbit/s | N | way | direct | k=2 | k=3 | k=4 | k=8 | k=16 | k=32 |\n");
  std::printf("|---|---|---|---|---|---|---|---|---|---|\n");
  for (const double gigabits : {10.0, 100.0}) {
    for (const int n : {1, 10, 100, 1000}) {
      for (const bool pipelined : {false, true}) {
        std::printf("| %.0f | %d | %s |", gigabits, n, pipelined ? "pipelined" : "whole");
        for (const int fan_out : {n, 2, 3, 4, 8, 16, 32}) {
          const Times times = Simulate(n, fan_out, gigabits / 8 * 1e9, pipelined);
          std::printf(" %.2f (%.2f) |", times.last, times.median);
        }
        std::printf("\n");
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace wideberth

int main() { return wideberth::Main(); }
