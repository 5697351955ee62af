// SPDX-License-Identifier: Apache-2.0
// Whom a client asks next.
#include "transport/replicas.h"

#include <gtest/gtest.h>

namespace wideberth::transport {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(1);

class ReplicasTest : public ::testing::Test {
 protected:
  ReplicasTest() { replicas_.Set({{"127.0.0.1:1"}, {"127.0.0.1:2"}}); }
  std::string Pick(const std::set<std::string>& except = {}, bool trusted = false) const {
    const auto replica = replicas_.Pick(except, now_, kPatience, trusted);
    return replica == nullptr ? "none" : replica->address;
  }
  std::shared_ptr<Replica> At(const std::string& address) const {
    std::set<std::string> others = {"127.0.0.1:1", "127.0.0.1:2"};
    others.erase(address);
    return replicas_.Pick(others, now_, kPatience, false);
  }

  Replicas replicas_;
  absl::Time now_ = absl::UnixEpoch();
};

TEST_F(ReplicasTest, TheLeastBusyOneIsAsked) {
  At("127.0.0.1:1")->NoteCall(5, now_);
  EXPECT_EQ(Pick(), "127.0.0.1:2");
  At("127.0.0.1:2")->NoteCall(6, now_);
  EXPECT_EQ(Pick(), "127.0.0.1:1");
  At("127.0.0.1:2")->NoteEnd(6);
  EXPECT_EQ(Pick(), "127.0.0.1:2");
  EXPECT_EQ(Pick({"127.0.0.1:2"}), "127.0.0.1:1");
  EXPECT_EQ(Pick({"127.0.0.1:1", "127.0.0.1:2"}), "none");
}

TEST_F(ReplicasTest, ASilentOneIsPassedOverAndTriedByOneCallOnly) {
  const auto silent = At("127.0.0.1:1");
  silent->NoteCall(1, now_);
  At("127.0.0.1:2")->NoteCall(8, now_);
  now_ += kPatience / 2;
  EXPECT_EQ(Pick(), "127.0.0.1:1") << "not silent yet";
  At("127.0.0.1:2")->NoteAnswer(now_);
  now_ += kPatience / 2;
  EXPECT_EQ(Pick(), "127.0.0.1:2");
  EXPECT_EQ(Pick({"127.0.0.1:2"}), "127.0.0.1:1") << "better than none";
  EXPECT_EQ(Pick({"127.0.0.1:2"}, true), "none");
  silent->NoteEnd(1);  // Cancelled: that is no answer.
  silent->Avoid(now_ + kPatience);
  EXPECT_EQ(Pick(), "127.0.0.1:2");
  now_ += kPatience;
  At("127.0.0.1:2")->NoteAnswer(now_);
  EXPECT_EQ(Pick(), "127.0.0.1:1");
  silent->NoteCall(1, now_);
  EXPECT_TRUE(silent->Silent(now_, kPatience)) << "so that what it got is asked of others as well";
  EXPECT_EQ(Pick(), "127.0.0.1:2");
  silent->NoteEnd(1);
  silent->NoteAnswer(now_);
  EXPECT_EQ(Pick(), "127.0.0.1:1");
  EXPECT_FALSE(silent->Silent(now_ + absl::Hours(1), kPatience)) << "nothing was asked of it";
}

TEST_F(ReplicasTest, EqualOnesTakeTurns) {
  for (const char* expected : {"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:1"}) {
    EXPECT_EQ(Pick(), expected);
    At(expected)->NoteCall(1, now_);
    At(expected)->NoteEnd(1);
    At(expected)->NoteAnswer(now_);
    now_ += absl::Milliseconds(1);
  }
}

TEST_F(ReplicasTest, AFullOneIsPassedOverThoughItIsTheLeastBusy) {
  const auto full = At("127.0.0.1:1");
  At("127.0.0.1:2")->NoteCall(8, now_);
  full->NoteCall(1, now_);
  full->NoteEnd(1);
  full->NoteRefusal(now_ + absl::Milliseconds(50));
  EXPECT_EQ(Pick(), "127.0.0.1:2");
  EXPECT_EQ(Pick({"127.0.0.1:2"}), "127.0.0.1:1");
  now_ += absl::Milliseconds(50);
  EXPECT_EQ(Pick(), "127.0.0.1:1");
  EXPECT_FALSE(full->Silent(now_ + absl::Hours(1), kPatience)) << "it has nothing of ours";
}

TEST_F(ReplicasTest, ARefusalIsNoSignOfWorkDone) {
  const auto stuck = At("127.0.0.1:1");
  stuck->NoteCall(8, now_);
  stuck->NoteCall(1, now_);
  stuck->NoteEnd(1);
  stuck->NoteRefusal(now_);
  EXPECT_TRUE(stuck->Silent(now_ + kPatience, kPatience));
}

TEST_F(ReplicasTest, OneThatStaysOnTheListKeepsWhatIsKnownOfIt) {
  At("127.0.0.1:1")->NoteCall(5, now_);
  replicas_.Set({{"127.0.0.1:1"}, {"127.0.0.1:3"}});
  EXPECT_EQ(Pick(), "127.0.0.1:3");
  EXPECT_EQ(Pick({"127.0.0.1:3"}), "127.0.0.1:1");
  replicas_.Set({});
  EXPECT_EQ(Pick(), "none");
}

}  // namespace
}  // namespace wideberth::transport
