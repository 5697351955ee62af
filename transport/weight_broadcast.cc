// SPDX-License-Identifier: Apache-2.0
#include "transport/weight_broadcast.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status.h"

namespace wideberth::transport {
namespace {
constexpr uint64_t kMaxManifestBytes = uint64_t{64} << 20;
}  // namespace

absl::Status SendBlob(Communicator* communicator, const AdapterBlob& blob,
                      const BroadcastWait& wait) {
  std::string manifest = blob.manifest.SerializeAsString();
  uint64_t manifest_bytes = manifest.size();
  WB_RETURN_IF_ERROR(communicator->Broadcast(reinterpret_cast<char*>(&manifest_bytes),
                                             sizeof(manifest_bytes), wait));
  WB_RETURN_IF_ERROR(communicator->Broadcast(manifest.data(), manifest_bytes, wait));
  // Rank 0 only reads.
  return communicator->Broadcast(const_cast<char*>(blob.bytes.data()), blob.bytes.size(), wait);
}

absl::StatusOr<std::shared_ptr<const AdapterBlob>> ReceiveBlob(Communicator* communicator,
                                                               const BroadcastWait& wait) {
  auto blob = std::make_shared<AdapterBlob>();
  uint64_t manifest_bytes = 0;
  WB_RETURN_IF_ERROR(communicator->Broadcast(reinterpret_cast<char*>(&manifest_bytes),
                                             sizeof(manifest_bytes), wait));
  if (manifest_bytes == 0 || manifest_bytes > kMaxManifestBytes)
    return absl::DataLossError(absl::StrCat("a manifest of ", manifest_bytes, " bytes"));
  std::string manifest(manifest_bytes, '\0');
  WB_RETURN_IF_ERROR(communicator->Broadcast(manifest.data(), manifest_bytes, wait));
  if (!blob->manifest.ParseFromString(manifest))
    return absl::DataLossError("what came as a manifest is none");
  WB_RETURN_IF_ERROR(VerifyAdapterManifest(blob->manifest));
  blob->bytes.resize(blob->manifest.num_bytes());
  WB_RETURN_IF_ERROR(communicator->Broadcast(blob->bytes.data(), blob->bytes.size(), wait));
  WB_RETURN_IF_ERROR(VerifyAdapterBlob(*blob));
  return blob;
}

// ---- learner ----

BroadcastCarrier::BroadcastCarrier(std::unique_ptr<Communicators> communicators,
                                   BroadcastTimes times)
    : communicators_(std::move(communicators)),
      times_(times),
      generation_(static_cast<uint64_t>(absl::ToUnixMicros(absl::Now()))) {
  thread_ = std::thread([this] { Run(); });
}

BroadcastCarrier::~BroadcastCarrier() {
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    interrupted_ = true;
    changed_.SignalAll();
  }
  thread_.join();
}

std::optional<proto::WeightGroup> BroadcastCarrier::Heartbeat(const std::string& member_id,
                                                              uint64_t generation) {
  MutexLock lock(mutex_);
  Member& member = members_[member_id];
  // A group that stands has been joined by all: who says another generation has left it.
  const bool left = offer_.size() > 0 && member.rank > 0 && generation != generation_ &&
                    (standing_ || member.generation == generation_);
  member.generation = generation;
  member.heard = true;
  if (left) {
    broken_ = true;
    interrupted_ = true;
  }
  changed_.SignalAll();
  if (offer_.size() == 0 || member.rank == 0) return std::nullopt;
  proto::WeightGroup group = offer_;
  group.set_rank(member.rank);
  return group;
}

void BroadcastCarrier::Lose(const std::string& member_id) {
  MutexLock lock(mutex_);
  const auto member = members_.find(member_id);
  if (member == members_.end()) return;
  if (offer_.size() > 0 && member->second.rank > 0) {
    broken_ = true;
    interrupted_ = true;
  }
  members_.erase(member);
  changed_.SignalAll();
}

void BroadcastCarrier::Publish(std::shared_ptr<const AdapterBlob> blob) {
  MutexLock lock(mutex_);
  if (!standing_ || broken_) return;
  next_ = std::move(blob);
  changed_.SignalAll();
}

bool BroadcastCarrier::Carries(uint64_t generation, const AdapterBlob& blob) const {
  MutexLock lock(mutex_);
  return standing_ && !broken_ && generation == generation_ &&
         (next_.get() == &blob || sending_.get() == &blob);
}

int BroadcastCarrier::num_members() const {
  MutexLock lock(mutex_);
  return standing_ && !broken_ ? offer_.size() - 1 : 0;
}

bool BroadcastCarrier::Free(const Member& member) const {
  return member.heard &&
         (member.generation == 0 || (standing_ && member.generation == generation_));
}

bool BroadcastCarrier::ShouldRegroup() {
  int num_free = 0;
  bool new_member = false;
  for (const auto& [id, member] : members_) {
    if (!Free(member)) continue;
    ++num_free;
    new_member |= member.rank == 0;
  }
  if (num_free == 0 || (standing_ && !new_member)) return false;
  return num_free == static_cast<int>(members_.size()) || absl::Now() >= regroup_at_;
}

void BroadcastCarrier::Fail(absl::string_view what, const absl::Status& why) {
  if (!stopped_) {
    WB_LOG(WARNING) << "weight group " << generation_ << ": " << what
                    << " failed, versions go by stream: " << why.message();
  }
  offer_.Clear();
  standing_ = broken_ = false;
  next_ = sending_ = nullptr;
  for (auto& [id, member] : members_) {
    member.heard = false;
    member.rank = 0;
  }
  ++num_failures_;
  absl::Duration pause = times_.regroup;
  for (int i = 1; i < num_failures_ && pause < times_.max_regroup; ++i) pause *= 2;
  regroup_at_ = absl::Now() + std::min(pause, times_.max_regroup);
}

void BroadcastCarrier::Regroup() {
  auto id = communicators_->NewUniqueId();
  proto::WeightGroup group;
  {
    MutexLock lock(mutex_);
    if (stopped_) return;
    if (!id.ok()) return Fail("its unique id", id.status());
    std::map<std::string, Member*> members;
    for (auto& [name, member] : members_) {
      if (Free(member)) members[name] = &member;
    }
    for (auto& [name, member] : members_) member.rank = 0;
    ++generation_;
    standing_ = broken_ = false;
    interrupted_ = false;
    int rank = 0;
    for (auto& [name, member] : members) member->rank = ++rank;
    offer_.Clear();
    offer_.set_generation(generation_);
    offer_.set_unique_id(*id);
    offer_.set_rank(0);
    offer_.set_size(rank + 1);
    group = offer_;
  }
  communicator_ = communicators_->Make(group);
  const absl::Status joined =
      communicator_->Open(group.unique_id(), {absl::Now() + times_.join, &interrupted_});
  if (!joined.ok()) communicator_.reset();
  MutexLock lock(mutex_);
  if (!joined.ok()) return Fail("joining", joined);
  standing_ = true;
  WB_LOG(INFO) << "weight group " << generation_ << " of " << group.size() << " stands";
}

void BroadcastCarrier::SendNext() {
  std::shared_ptr<const AdapterBlob> blob;
  {
    MutexLock lock(mutex_);
    blob = sending_ = std::exchange(next_, nullptr);
  }
  const absl::Time start = absl::Now();
  const absl::Status sent =
      SendBlob(communicator_.get(), *blob, {start + times_.send, &interrupted_});
  if (!sent.ok()) communicator_.reset();
  MutexLock lock(mutex_);
  sending_ = nullptr;
  if (!sent.ok()) return Fail(absl::StrCat("version ", blob->manifest.version()), sent);
  num_failures_ = 0;
  WB_LOG(INFO) << "weight group " << generation_ << ": version " << blob->manifest.version()
               << " broadcast to " << offer_.size() - 1 << " in " << absl::Now() - start;
}

void BroadcastCarrier::Run() {
  while (true) {
    bool send = false;
    {
      MutexLock lock(mutex_);
      while (!stopped_ && !broken_ && next_ == nullptr && !ShouldRegroup()) {
        const absl::Duration left = regroup_at_ - absl::Now();
        if (left > absl::ZeroDuration())
          changed_.WaitFor(mutex_, left);
        else
          changed_.Wait(mutex_);
      }
      if (stopped_) break;
      send = next_ != nullptr && !broken_;
      if (broken_)
        Fail("a member", absl::UnavailableError("it left or was lost"));
      else if (!send && !ShouldRegroup())
        continue;
    }
    if (send) {
      SendNext();
      continue;
    }
    communicator_.reset();
    bool regroup = false;
    {
      MutexLock lock(mutex_);
      regroup = ShouldRegroup();
    }
    if (regroup) Regroup();
  }
  communicator_.reset();
}

// ---- member ----

struct BroadcastSource::Session {
  proto::WeightGroup group;
  std::unique_ptr<Communicator> communicator;
  std::atomic<bool> interrupted = false;
  bool ready = false;  // Guarded by the source's mutex.
};

BroadcastSource::BroadcastSource(AdapterSource* fallback, LearnerClient* client,
                                 std::function<std::string()> member_id,
                                 std::unique_ptr<Communicators> communicators, BroadcastTimes times)
    : fallback_(fallback),
      client_(client),
      member_id_(std::move(member_id)),
      communicators_(std::move(communicators)),
      times_(times) {
  thread_ = std::thread([this] { Run(); });
}

BroadcastSource::~BroadcastSource() {
  Cancel();
  thread_.join();
}

void BroadcastSource::Cancel() {
  MutexLock lock(mutex_);
  stopped_ = true;
  if (session_ != nullptr) session_->interrupted = true;
  session_ = nullptr;
  changed_.SignalAll();
}

void BroadcastSource::Offer(const proto::HeartbeatResponse& response) {
  MutexLock lock(mutex_);
  offer_ = response.weight_group();
  if (session_ != nullptr && session_->group.generation() != offer_.generation()) {
    session_->interrupted = true;
    session_ = nullptr;
  }
  changed_.SignalAll();
}

uint64_t BroadcastSource::generation() const {
  MutexLock lock(mutex_);
  const std::shared_ptr<Session> last = last_.lock();
  return last == nullptr ? 0 : last->group.generation();
}

bool BroadcastSource::joined() const {
  MutexLock lock(mutex_);
  return session_ != nullptr && session_->ready;
}

void BroadcastSource::Leave(const std::shared_ptr<Session>& session, const absl::Status& why) {
  MutexLock lock(mutex_);
  if (!session->interrupted) {
    WB_LOG(WARNING) << "weight group " << session->group.generation()
                    << ": left, versions come by stream: " << why.message();
  }
  if (session_ == session) session_ = nullptr;
}

void BroadcastSource::Run() {
  while (true) {
    auto session = std::make_shared<Session>();
    {
      MutexLock lock(mutex_);
      while (!stopped_ && (offer_.size() == 0 || offer_.generation() == tried_))
        changed_.Wait(mutex_);
      if (stopped_) return;
      session->group = offer_;
      tried_ = offer_.generation();
      session_ = session;
      last_ = session;
    }
    session->communicator = communicators_->Make(session->group);
    const absl::Status joined = session->communicator->Open(
        session->group.unique_id(), {absl::Now() + times_.join, &session->interrupted});
    if (!joined.ok()) {
      Leave(session, joined);
      continue;
    }
    MutexLock lock(mutex_);
    session->ready = true;
    WB_LOG(INFO) << "weight group " << session->group.generation() << ": joined as rank "
                 << session->group.rank() << " of " << session->group.size();
  }
}

absl::StatusOr<std::shared_ptr<const AdapterBlob>> BroadcastSource::Receive(
    std::optional<uint64_t> have) {
  std::shared_ptr<Session> session;
  {
    MutexLock lock(mutex_);
    if (session_ != nullptr && session_->ready) session = session_;
  }
  if (session == nullptr) return fallback_->Receive(have);
  proto::FetchAdapterRequest request = FetchRequest(member_id_(), have);
  request.set_weight_generation(session->group.generation());
  WB_ASSIGN_OR_RETURN(std::shared_ptr<const AdapterBlob> announced, client_->FetchAdapter(request));
  // Nothing newer, or a version that this group does not carry.
  if (announced == nullptr || !announced->bytes.empty()) return announced;
  auto blob =
      ReceiveBlob(session->communicator.get(), {absl::Now() + times_.send, &session->interrupted});
  if (!blob.ok()) {
    Leave(session, blob.status());
    session.reset();  // Aborts, before the stream: the others shall not wait for us.
    return fallback_->Receive(have);
  }
  if (have && (*blob)->manifest.version() <= *have) return std::shared_ptr<const AdapterBlob>();
  return blob;
}

}  // namespace wideberth::transport
