// SPDX-License-Identifier: Apache-2.0
// Who has versions from whom. The learner sends each version to a few actors, these pass it on:
// with many actors nobody's uplink carries it more than `fan_out` times. Asked by service.h on
// every heartbeat. No clock, no RPC.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace wideberth::learner {

// A tree with the learner at its root. Actors join where the way from the learner is shortest. A
// leaf takes the place of a relay that is lost or barred; beside it and the relay's children only
// those move that come nearer to the learner by more than one step. Not thread-safe.
class RelayTree {
 public:
  struct Actor {
    std::string name;
    std::string address;  // Where it serves versions; empty: it cannot pass any on.
  };
  // Children of one process. 0: all actors are the learner's own up to kMaxDirect, kFanOut beyond;
  // benchmarks/relay_simulation.cc says why.
  explicit RelayTree(int fan_out) : fan_out_(fan_out) {}
  static constexpr int kMaxDirect = 8;
  static constexpr int kFanOut = 3;

  // The actors that are alive now; names are unique.
  void Update(const std::vector<Actor>& alive);
  // The actor at `address` did not pass a version on: it has no children until Readmit. Nothing
  // happens where nobody is known to be there. Its name, or an empty string.
  std::string Bar(absl::string_view address);
  void Readmit(absl::string_view name);

  // Address of the actor that passes versions on to `name`; empty: the learner does.
  std::string ParentAddress(const std::string& name) const;
  std::string Parent(const std::string& name) const;  // Its name.
  // 1: directly from the learner; 0: not an actor of the tree.
  int Depth(const std::string& name) const;
  int NumChildren(const std::string& name) const;  // "": of the learner.
  int fan_out() const;
  // Changes of a parent so far, first ones included.
  int64_t num_placements() const { return num_placements_; }

 private:
  struct Node {
    std::string address;
    std::string parent;  // A name; empty: the learner.
    std::set<std::string> children;
    bool barred = false;
  };
  bool HasRoom(const std::string& name) const;
  // The nearest to the learner with room outside the tree under `name`; the learner where there is
  // none.
  std::string BestParent(const std::string& name) const;
  void Detach(const std::string& name);
  void Attach(const std::string& name, const std::string& parent);
  // Empty: none. `can_relay`: of those that may have children.
  std::string DeepestLeaf(const std::string& other_than, bool can_relay) const;
  // Leaves the tree, its parent's and its children's alike.
  void GiveUpPlace(const std::string& name);
  void BecomeLeaf(const std::string& name);
  void MoveUp();

  const int fan_out_;
  bool wide_ = false;  // More actors than kMaxDirect have been here.
  std::map<std::string, Node> nodes_;
  std::set<std::string> direct_;  // The learner's children.
  int64_t num_placements_ = 0;
};

}  // namespace wideberth::learner
