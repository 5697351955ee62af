// SPDX-License-Identifier: Apache-2.0
// One Score call = pieces of the batch, each either in flight at one replica or waiting for its
// next attempt. The calling thread only waits and starts attempts; answers arrive on the library's
// threads.
#include "transport/scorer_client.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/mutex.h"
#include "proto/wire.grpc.pb.h"
#include "transport/message_limits.h"
#include "transport/rpc.h"

namespace wideberth::transport {
namespace {

struct Replica {
  Replica(const std::string& address, const Credentials& own)
      : address(address),
        channel(MakeChannel(address, own, proto::SCORER, kMaxScoreAnswerBytes)),
        stub(proto::Scorer::NewStub(channel)) {}
  const std::string address;
  const std::shared_ptr<grpc::Channel> channel;
  const std::unique_ptr<proto::Scorer::Stub> stub;
  int64_t num_outstanding = 0;  // Items.
};

// One attempt at one replica. It holds the channel, so it may not be destroyed by the library's
// threads: a channel that ends on one of them makes that thread wait for itself.
struct Attempt {
  grpc::ClientContext context;
  proto::ScoreRequest request;
  proto::ScoreResponse response;
  std::shared_ptr<Replica> replica;
};

// Items of a batch that travel together, and how far they are.
struct Piece {
  Piece(std::vector<size_t> items, const ScorerClient::Options& options)
      : items(std::move(items)), backoff(options.first_backoff, options.max_backoff) {}
  std::vector<size_t> items;
  Backoff backoff;
  std::shared_ptr<Attempt> attempt;  // In flight; null: waiting for `next_try`.
  absl::Time next_try = absl::InfinitePast();
  absl::Time unreachable_since = absl::InfiniteFuture();
  int num_failures = 0;
  std::string failed_address;  // Avoided at the next attempt if there is another.
  std::string last_trouble;
  bool overloaded = false;  // The last trouble was a full queue.
};

// Whether the request never reached the replica: such an attempt cannot be the fault of its items.
bool NeverConnected(const absl::Status& status) {
  return absl::IsUnavailable(status) &&
         absl::StrContains(absl::AsciiStrToLower(status.message()), "failed to connect");
}

// Another attempt can help: the connection broke, the replica stopped or fell over. The rest are
// verdicts about the request.
bool MayPass(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
      return true;
    default:
      return false;
  }
}

class GrpcScorerClient final : public ScorerClient {
 public:
  GrpcScorerClient(absl::string_view scorer_name, const Options& options)
      : name_(scorer_name), options_(options), shared_(std::make_shared<Shared>()) {}
  ~GrpcScorerClient() override {
    Cancel();
    MutexLock lock(shared_->mutex);
    // Cancelled calls end at once, here, whatever their replica does.
    for (const auto& [attempt, owned] : abandoned_) owned->context.TryCancel();
    while (Reap(), !abandoned_.empty()) shared_->changed.Wait(shared_->mutex);
  }

  std::vector<proto::Score> Score(const std::vector<proto::ScoreItem>& items,
                                  absl::Duration timeout) override {
    Batch batch{items,
                std::vector<proto::Score>(items.size()),
                std::vector<bool>(items.size()),
                absl::Now() + timeout,
                timeout,
                {}};
    const size_t piece_items = std::max(options_.max_items_per_call, 1);
    for (size_t first = 0; first < items.size(); first += piece_items) {
      std::vector<size_t> indices;
      for (size_t i = first; i < std::min(items.size(), first + piece_items); ++i)
        indices.push_back(i);
      batch.pieces.push_back(std::make_shared<Piece>(std::move(indices), options_));
    }
    MutexLock lock(shared_->mutex);
    Reap();
    while (!batch.pieces.empty()) {
      if (shared_->cancelled || absl::Now() >= batch.deadline) {
        GiveUp(batch, shared_->cancelled);
        break;
      }
      absl::Time wake = batch.deadline;
      CollectAnswers(batch);
      for (const std::shared_ptr<Piece>& piece : batch.pieces) {
        if (piece->attempt != nullptr) continue;
        if (piece->next_try <= absl::Now()) StartAttempt(*piece, batch);
        if (piece->attempt == nullptr && piece->next_try > absl::Now())
          wake = std::min(wake, piece->next_try);
      }
      // Answers that came while attempts were started are in `answered` already.
      if (!batch.pieces.empty() && !HasAnswer(batch))
        shared_->changed.WaitFor(shared_->mutex, wake - absl::Now());
    }
    return std::move(batch.scores);
  }

  void SetEndpoints(std::vector<std::string> addresses) override {
    MutexLock lock(shared_->mutex);
    std::map<std::string, std::shared_ptr<Replica>> replicas;
    for (const std::string& address : addresses) {
      const auto known = replicas_.find(address);
      replicas[address] = known != replicas_.end()
                              ? known->second
                              : std::make_shared<Replica>(address, options_.own);
    }
    replicas_ = std::move(replicas);
    shared_->changed.SignalAll();
  }

  void Cancel() override {
    MutexLock lock(shared_->mutex);
    shared_->cancelled = true;
    shared_->changed.SignalAll();
  }

 private:
  // What the library's threads touch, and all they touch.
  struct Shared {
    Mutex mutex;
    CondVar changed;
    std::map<const Attempt*, absl::Status> answered ABSL_GUARDED_BY(mutex);
    bool cancelled ABSL_GUARDED_BY(mutex) = false;
  };

  // Lives on the stack of one Score call.
  struct Batch {
    const std::vector<proto::ScoreItem>& items;
    std::vector<proto::Score> scores;
    std::vector<bool> answered;
    absl::Time deadline;
    absl::Duration timeout;
    std::vector<std::shared_ptr<Piece>> pieces;  // Those with an item unanswered.
  };

  std::shared_ptr<Replica> LeastBusy(const std::string& avoid)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared_->mutex) {
    std::shared_ptr<Replica> best;
    for (const auto& [address, replica] : replicas_) {
      if (address == avoid && replicas_.size() > 1) continue;
      if (best == nullptr || replica->num_outstanding < best->num_outstanding) best = replica;
    }
    return best;
  }

  void StartAttempt(Piece& piece, const Batch& batch)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared_->mutex) {
    const std::shared_ptr<Replica> replica = LeastBusy(piece.failed_address);
    if (replica == nullptr) {
      piece.last_trouble = "no replica is registered";
      return;  // SetEndpoints wakes the caller.
    }
    auto attempt = std::make_shared<Attempt>();
    attempt->context.set_deadline(absl::ToChronoTime(batch.deadline));
    for (const size_t i : piece.items) *attempt->request.add_item() = batch.items[i];
    attempt->replica = replica;
    replica->num_outstanding += attempt->request.item_size();
    piece.attempt = attempt;
    replica->stub->async()->Score(
        &attempt->context, &attempt->request, &attempt->response,
        [shared = shared_, key = attempt.get()](const grpc::Status& status) {
          MutexLock lock(shared->mutex);
          shared->answered[key] = FromGrpc(status);
          shared->changed.SignalAll();
        });
  }

  // Forgets abandoned attempts whose call is over.
  void Reap() ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared_->mutex) {
    for (auto it = abandoned_.begin(); it != abandoned_.end();) {
      if (shared_->answered.erase(it->first) == 0) {
        ++it;
        continue;
      }
      it->second->replica->num_outstanding -= it->second->request.item_size();
      it = abandoned_.erase(it);
    }
  }

  bool HasAnswer(const Batch& batch) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared_->mutex) {
    for (const std::shared_ptr<Piece>& piece : batch.pieces) {
      if (shared_->answered.count(piece->attempt.get()) > 0) return true;
    }
    return false;
  }

  void CollectAnswers(Batch& batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared_->mutex) {
    for (const std::shared_ptr<Piece>& piece : batch.pieces) {
      const auto answer = shared_->answered.find(piece->attempt.get());
      if (answer == shared_->answered.end()) continue;
      const std::shared_ptr<Attempt> attempt = std::move(piece->attempt);
      piece->attempt = nullptr;
      attempt->replica->num_outstanding -= attempt->request.item_size();
      absl::Status status = std::move(answer->second);
      shared_->answered.erase(answer);
      if (status.ok() && attempt->response.score_size() != static_cast<int>(piece->items.size())) {
        status = absl::InternalError(absl::StrCat("answered ", attempt->response.score_size(),
                                                  " scores to ", piece->items.size(), " items"));
      }
      if (status.ok()) {
        TakeScores(*piece, *attempt, batch);
      } else {
        Judge(*piece, *attempt, status, batch);
      }
    }
    batch.pieces.erase(std::remove_if(batch.pieces.begin(), batch.pieces.end(),
                                      [](const auto& p) { return p->items.empty(); }),
                       batch.pieces.end());
  }

  // Items whose result is OVERLOADED stay in the piece and are tried again.
  void TakeScores(Piece& piece, Attempt& attempt, Batch& batch) {
    std::vector<size_t> again;
    for (size_t k = 0; k < piece.items.size(); ++k) {
      proto::Score& score = *attempt.response.mutable_score(static_cast<int>(k));
      if (score.status() == proto::OVERLOADED) {
        again.push_back(piece.items[k]);
        piece.last_trouble =
            absl::StrCat("replica at ", attempt.replica->address, ": ", score.message());
      } else {
        if (!score.has_scorer_name()) score.set_scorer_name(name_);
        batch.scores[piece.items[k]].Swap(&score);
      }
    }
    piece.items = std::move(again);
    piece.failed_address.clear();
    piece.overloaded = true;
    piece.num_failures = 0;
    piece.unreachable_since = absl::InfiniteFuture();
    piece.next_try = absl::Now() + piece.backoff.Next();
  }

  // What a failed attempt means for its piece: another try, or a typed result.
  void Judge(Piece& piece, const Attempt& attempt, const absl::Status& status, Batch& batch) {
    piece.failed_address = attempt.replica->address;
    piece.next_try = absl::Now() + piece.backoff.Next();
    if (absl::IsDeadlineExceeded(status)) {
      if (!piece.overloaded)
        piece.last_trouble =
            absl::StrCat("replica at ", attempt.replica->address, " did not answer");
      return;  // The batch's own deadline has come too.
    }
    piece.last_trouble =
        absl::StrCat("replica at ", attempt.replica->address, ": ", status.message());
    piece.overloaded = absl::IsResourceExhausted(status);
    if (piece.overloaded) return;
    if (NeverConnected(status)) {
      piece.unreachable_since = std::min(piece.unreachable_since, absl::Now());
      if (absl::Now() - piece.unreachable_since < options_.unreachable_timeout) return;
    } else if (MayPass(status) && ++piece.num_failures < options_.max_attempts) {
      return;
    }
    Settle(piece, proto::MODEL_ERROR, absl::StrCat("scorer ", name_, ": ", piece.last_trouble),
           batch);
  }

  void Settle(Piece& piece, proto::ScoreStatus status, const std::string& message, Batch& batch) {
    for (const size_t i : piece.items) {
      proto::Score& score = batch.scores[i];
      score.set_scorer_name(name_);
      score.set_status(status);
      score.set_message(message);
    }
    piece.items.clear();
  }

  // The end of the time: what is not answered gets its type, what is in flight is left to itself.
  void GiveUp(Batch& batch, bool cancelled) ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared_->mutex) {
    CollectAnswers(batch);
    for (const std::shared_ptr<Piece>& piece : batch.pieces) {
      if (piece->attempt != nullptr) {
        // After a full queue the last attempt only had no time left to be told the same.
        if (!piece->overloaded) {
          piece->last_trouble =
              absl::StrCat("replica at ", piece->attempt->replica->address, " did not answer");
        }
        piece->attempt->context.TryCancel();
        abandoned_[piece->attempt.get()] = piece->attempt;
      }
      const std::string within = absl::StrCat(" within ", absl::FormatDuration(batch.timeout));
      if (cancelled) {
        Settle(*piece, proto::MODEL_ERROR, absl::StrCat("scorer ", name_, ": cancelled here"),
               batch);
      } else if (piece->overloaded) {
        Settle(*piece, proto::OVERLOADED,
               absl::StrCat("scorer ", name_, ": no room", within, "; ", piece->last_trouble),
               batch);
      } else {
        Settle(*piece, proto::TIMED_OUT,
               absl::StrCat("scorer ", name_, ": no score", within, "; ", piece->last_trouble),
               batch);
      }
    }
  }

  const std::string name_;
  const Options options_;
  const std::shared_ptr<Shared> shared_;
  std::map<std::string, std::shared_ptr<Replica>> replicas_ ABSL_GUARDED_BY(shared_->mutex);
  std::map<const Attempt*, std::shared_ptr<Attempt>> abandoned_ ABSL_GUARDED_BY(shared_->mutex);
};

}  // namespace

std::unique_ptr<ScorerClient> ScorerClient::Create(absl::string_view scorer_name,
                                                   const Options& options) {
  return std::make_unique<GrpcScorerClient>(scorer_name, options);
}
std::unique_ptr<ScorerClient> ScorerClient::Create(absl::string_view scorer_name) {
  return Create(scorer_name, Options());
}

}  // namespace wideberth::transport
