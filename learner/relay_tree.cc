// SPDX-License-Identifier: Apache-2.0
#include "learner/relay_tree.h"

#include <algorithm>
#include <deque>
#include <map>
#include <set>
#include <utility>

namespace wideberth::learner {

int RelayTree::fan_out() const {
  if (fan_out_ > 0) return fan_out_;
  return wide_ ? kFanOut : kMaxDirect;
}

int RelayTree::NumChildren(const std::string& name) const {
  if (name.empty()) return static_cast<int>(direct_.size());
  const auto node = nodes_.find(name);
  return node == nodes_.end() ? 0 : static_cast<int>(node->second.children.size());
}

std::string RelayTree::Parent(const std::string& name) const {
  const auto node = nodes_.find(name);
  return node == nodes_.end() ? "" : node->second.parent;
}

std::string RelayTree::ParentAddress(const std::string& name) const {
  const std::string parent = Parent(name);
  return parent.empty() ? "" : nodes_.at(parent).address;
}

int RelayTree::Depth(const std::string& name) const {
  int depth = 0;
  for (auto node = nodes_.find(name); node != nodes_.end(); node = nodes_.find(node->second.parent))
    ++depth;
  return depth;
}

bool RelayTree::HasRoom(const std::string& name) const {
  if (NumChildren(name) >= fan_out()) return false;
  if (name.empty()) return true;
  const Node& node = nodes_.at(name);
  return !node.address.empty() && !node.barred;
}

std::string RelayTree::BestParent(const std::string& name) const {
  // Level by level, so that the first with room is the nearest.
  std::deque<std::string> open = {""};
  while (!open.empty()) {
    const std::string candidate = std::move(open.front());
    open.pop_front();
    if (candidate == name && !name.empty()) continue;
    if (HasRoom(candidate)) return candidate;
    const std::set<std::string>& children =
        candidate.empty() ? direct_ : nodes_.at(candidate).children;
    open.insert(open.end(), children.begin(), children.end());
  }
  return "";
}

void RelayTree::Detach(const std::string& name) {
  const std::string& parent = nodes_.at(name).parent;
  (parent.empty() ? direct_ : nodes_.at(parent).children).erase(name);
}

void RelayTree::Attach(const std::string& name, const std::string& parent) {
  nodes_.at(name).parent = parent;
  (parent.empty() ? direct_ : nodes_.at(parent).children).insert(name);
  ++num_placements_;
}

std::string RelayTree::DeepestLeaf(const std::string& other_than, bool can_relay) const {
  std::string deepest;
  int depth = 0;
  for (const auto& [name, node] : nodes_) {
    if (!node.children.empty() || name == other_than) continue;
    if (can_relay && (node.address.empty() || node.barred)) continue;
    if (const int its = Depth(name); its > depth) {
      depth = its;
      deepest = name;
    }
  }
  return deepest;
}

void RelayTree::GiveUpPlace(const std::string& name) {
  // A leaf in its place keeps everybody else as near to the learner as before.
  const std::string successor = nodes_.at(name).children.empty() ? "" : DeepestLeaf(name, true);
  if (!successor.empty()) Detach(successor);
  const std::set<std::string> children = std::exchange(nodes_.at(name).children, {});
  Detach(name);
  if (!successor.empty()) Attach(successor, nodes_.at(name).parent);
  for (const std::string& child : children)
    Attach(child, successor.empty() ? BestParent(child) : successor);
}

void RelayTree::BecomeLeaf(const std::string& name) {
  GiveUpPlace(name);
  Attach(name, BestParent(name));
}

void RelayTree::MoveUp() {
  while (true) {
    const std::string deepest = DeepestLeaf("", false);
    if (deepest.empty()) return;
    const std::string parent = BestParent(deepest);
    if (!HasRoom(parent) || Depth(parent) + 1 >= Depth(deepest) - 1) return;
    Detach(deepest);
    Attach(deepest, parent);
  }
}

void RelayTree::Update(const std::vector<Actor>& alive) {
  std::map<std::string, std::string> address_of;
  for (const Actor& actor : alive) address_of[actor.name] = actor.address;
  wide_ = alive.size() > kMaxDirect || (wide_ && alive.size() > kFanOut);

  std::vector<std::string> lost;
  for (const auto& [name, node] : nodes_) {
    if (address_of.count(name) == 0) lost.push_back(name);
  }
  while (!lost.empty()) {
    // Leaves first: none of the lost takes the place of another.
    auto next = std::find_if(lost.begin(), lost.end(), [&](const std::string& name) {
      return nodes_.at(name).children.empty();
    });
    if (next == lost.end()) next = lost.begin();
    GiveUpPlace(*next);
    nodes_.erase(*next);
    lost.erase(next);
  }
  for (auto& [name, node] : nodes_) {
    const std::string& address = address_of.at(name);
    // Started again, it serves elsewhere; its children are told where.
    if (node.address != address) node.barred = false;
    node.address = address;
  }
  for (const auto& [name, address] : address_of) {
    if (address.empty() && NumChildren(name) > 0) BecomeLeaf(name);
  }
  // The fan-out may have shrunk, and too many may have been put to the learner for want of relays.
  std::vector<std::string> direct(direct_.begin(), direct_.end());
  for (; static_cast<int>(direct.size()) > fan_out(); direct.pop_back()) {
    Detach(direct.back());
    Attach(direct.back(), BestParent(direct.back()));
  }
  for (const Actor& actor : alive) {
    if (nodes_.count(actor.name) > 0) continue;
    nodes_[actor.name].address = actor.address;
    Attach(actor.name, BestParent(actor.name));
  }
  MoveUp();
}

std::string RelayTree::Bar(absl::string_view address) {
  for (auto& [name, node] : nodes_) {
    if (node.address != address || address.empty()) continue;
    if (!std::exchange(node.barred, true) && !node.children.empty()) BecomeLeaf(name);
    return name;
  }
  return "";
}

void RelayTree::Readmit(absl::string_view name) {
  if (const auto node = nodes_.find(std::string(name)); node != nodes_.end())
    node->second.barred = false;
}

}  // namespace wideberth::learner
