// SPDX-License-Identifier: Apache-2.0
// One Score call = pieces of the batch, each either in flight at one replica (at two, where the
// first is slow) or waiting for its next attempt. The calling thread only waits and starts
// attempts; answers arrive on the library's threads.
#include "transport/scorer_client.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/mutex.h"
#include "transport/hedging.h"
#include "transport/message_limits.h"
#include "transport/replicas.h"
#include "transport/score_piece.h"

namespace wideberth::transport {
namespace {

// How long a replica that failed or fell silent is passed over, where others are there.
constexpr absl::Duration kAvoid = absl::Seconds(2);
// Of a call's usual time: a replica that answers nothing for so many is silent.
constexpr int kSilentAfter = 4;

Hedging::Options HedgingOf(const ScorerClient::Options& options) {
  Hedging::Options hedging;
  hedging.quantile = options.hedge_quantile;
  return hedging;
}

class GrpcScorerClient final : public ScorerClient {
 public:
  GrpcScorerClient(absl::string_view scorer_name, const Options& options)
      : name_(scorer_name),
        options_(options),
        shared_(std::make_shared<Shared>()),
        hedging_(HedgingOf(options)),
        replicas_(options.own) {}
  ~GrpcScorerClient() override {
    Cancel();
    MutexLock lock(shared_->mutex);
    // Cancelled calls end at once, here, whatever their replica does.
    while (Reap(), !abandoned_.empty()) shared_->changed.Wait(shared_->mutex);
  }

  std::vector<proto::Score> Score(const std::vector<proto::ScoreItem>& items,
                                  absl::Duration timeout) override {
    Batch batch{items, std::vector<proto::Score>(items.size()), absl::Now() + timeout, timeout, {}};
    const size_t piece_items = std::max(options_.max_items_per_call, 1);
    for (size_t first = 0; first < items.size(); first += piece_items) {
      std::vector<size_t> indices;
      for (size_t i = first; i < std::min(items.size(), first + piece_items); ++i)
        indices.push_back(i);
      batch.pieces.push_back(std::make_shared<Piece>(std::move(indices), options_));
    }
    MutexLock lock(shared_->mutex);
    while (!batch.pieces.empty()) {
      if (shared_->cancelled || absl::Now() >= batch.deadline) {
        GiveUp(batch, shared_->cancelled);
        break;
      }
      Reap();
      CollectAnswers(batch);
      absl::Time wake = batch.deadline;
      for (const std::shared_ptr<Piece>& piece : batch.pieces)
        wake = std::min(wake, Advance(*piece, batch));
      // Answers that came while attempts were started are in `answered` already.
      if (!batch.pieces.empty() && !HasAnswer(batch))
        shared_->changed.WaitFor(shared_->mutex, wake - absl::Now());
    }
    return std::move(batch.scores);
  }

  void SetEndpoints(const std::vector<Endpoint>& endpoints) override {
    MutexLock lock(shared_->mutex);
    replicas_.Set(endpoints);
    shared_->changed.SignalAll();
  }

  void Cancel() override {
    MutexLock lock(shared_->mutex);
    shared_->cancelled = true;
    shared_->changed.SignalAll();
  }

  Stats stats() const override {
    MutexLock lock(shared_->mutex);
    return stats_;
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
    std::vector<proto::Score> scores;  // With a status where there is a result.
    absl::Time deadline;
    absl::Duration timeout;
    std::vector<std::shared_ptr<Piece>> pieces;  // Those with an item unanswered.
  };

  // How long a replica may answer nothing before it is silent.
  absl::Duration Patience(const Batch& batch) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared_->mutex) {
    const absl::Duration slow = kSilentAfter * hedging_.Typical();
    return std::max(options_.min_silence, std::min(slow, batch.timeout / 4));
  }

  // Starts what the piece needs now; when to look at it again.
  absl::Time Advance(Piece& piece, const Batch& batch)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared_->mutex) {
    const absl::Time now = absl::Now();
    const absl::Duration patience = Patience(batch);
    if (piece.attempts.empty()) {
      if (piece.next_try > now) return piece.next_try;
      std::shared_ptr<Replica> replica = replicas_.Pick(piece.tried, now, patience, false);
      if (replica == nullptr) {
        piece.tried.clear();
        replica = replicas_.Pick({}, now, patience, false);
      }
      if (replica == nullptr) {
        piece.last_trouble = "no replica is registered";
        return absl::InfiniteFuture();  // SetEndpoints wakes the caller.
      }
      hedging_.NoteCall();
      Start(Attempt::Reason::kTurn, replica, piece, batch);
    }
    return std::min(RescueIfSilent(piece, batch, now, patience),
                    HedgeIfSlow(piece, batch, now, patience));
  }

  // One that has the piece already is never asked again.
  std::shared_ptr<Replica> Another(const Piece& piece, absl::Time now, absl::Duration patience)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared_->mutex) {
    std::set<std::string> except = piece.tried;
    for (const std::shared_ptr<Attempt>& attempt : piece.attempts)
      except.insert(attempt->replica->address);
    return replicas_.Pick(except, now, patience, true);
  }

  absl::Time RescueIfSilent(Piece& piece, const Batch& batch, absl::Time now,
                            absl::Duration patience) ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared_->mutex) {
    absl::Time all_silent = absl::InfinitePast();
    for (const std::shared_ptr<Attempt>& attempt : piece.attempts)
      all_silent = std::max(all_silent, attempt->replica->unanswered_since + patience);
    if (all_silent > now) return all_silent;
    const std::shared_ptr<Replica> replica = Another(piece, now, patience);
    if (replica == nullptr) return now + patience;
    for (const std::shared_ptr<Attempt>& attempt : piece.attempts)
      attempt->replica->Avoid(now + kAvoid);
    if (piece.attempts.size() > 1) Abandon(piece, 0);
    ++stats_.num_rescues;
    Start(Attempt::Reason::kRescue, replica, piece, batch);
    return now + patience;
  }

  absl::Time HedgeIfSlow(Piece& piece, const Batch& batch, absl::Time now, absl::Duration patience)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared_->mutex) {
    const absl::Duration delay = hedging_.Delay();
    if (piece.hedged || piece.attempts.size() > 1 || delay == absl::InfiniteDuration())
      return absl::InfiniteFuture();
    const absl::Time slow = piece.attempts[0]->started + delay;
    if (slow > now) return slow;
    const std::shared_ptr<Replica> replica = Another(piece, now, patience);
    if (replica == nullptr || !WorthIt(piece, *replica, now, delay) || !hedging_.Spend())
      return now + delay;
    piece.hedged = true;
    ++stats_.num_hedges;
    Start(Attempt::Reason::kHedge, replica, piece, batch);
    return absl::InfiniteFuture();
  }

  // Where every replica is about as busy, the piece would come no sooner by another, and the pool
  // would only be busier: so only where the first has answered nothing at all for as long, or has
  // twice as much to do.
  bool WorthIt(const Piece& piece, const Replica& other, absl::Time now, absl::Duration delay) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared_->mutex) {
    const Replica& first = *piece.attempts[0]->replica;
    const int64_t num_items = static_cast<int64_t>(piece.items.size());
    return first.Silent(now, delay) ||
           2 * (other.num_outstanding + num_items) <= first.num_outstanding;
  }

  void Start(Attempt::Reason reason, const std::shared_ptr<Replica>& replica, Piece& piece,
             const Batch& batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared_->mutex) {
    auto attempt = std::make_shared<Attempt>();
    attempt->reason = reason;
    attempt->items = piece.items;
    attempt->started = absl::Now();
    attempt->context.set_deadline(absl::ToChronoTime(batch.deadline));
    for (const size_t i : piece.items) *attempt->request.add_item() = batch.items[i];
    attempt->replica = replica;
    replica->NoteCall(attempt->request.item_size(), attempt->started);
    piece.attempts.push_back(attempt);
    ++stats_.num_calls;
    replica->stub->async()->Score(
        &attempt->context, &attempt->request, &attempt->response,
        [shared = shared_, key = attempt.get()](const grpc::Status& status) {
          MutexLock lock(shared->mutex);
          shared->answered[key] = FromGrpc(status);
          shared->changed.SignalAll();
        });
  }

  void Abandon(Piece& piece, size_t which) ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared_->mutex) {
    const std::shared_ptr<Attempt> attempt = piece.attempts[which];
    piece.attempts.erase(piece.attempts.begin() + static_cast<std::ptrdiff_t>(which));
    attempt->context.TryCancel();
    abandoned_[attempt.get()] = attempt;
  }

  // Forgets abandoned attempts whose call is over.
  void Reap() ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared_->mutex) {
    for (auto it = abandoned_.begin(); it != abandoned_.end();) {
      if (shared_->answered.erase(it->first) == 0) {
        ++it;
        continue;
      }
      it->second->replica->NoteEnd(it->second->request.item_size());
      it = abandoned_.erase(it);
    }
  }

  bool HasAnswer(const Batch& batch) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared_->mutex) {
    for (const std::shared_ptr<Piece>& piece : batch.pieces) {
      for (const std::shared_ptr<Attempt>& attempt : piece->attempts) {
        if (shared_->answered.count(attempt.get()) > 0) return true;
      }
    }
    return false;
  }

  void CollectAnswers(Batch& batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared_->mutex) {
    for (const std::shared_ptr<Piece>& piece : batch.pieces) {
      for (const std::shared_ptr<Attempt>& attempt : std::vector(piece->attempts)) {
        if (piece->items.empty()) break;
        const auto answer = shared_->answered.find(attempt.get());
        if (answer == shared_->answered.end()) continue;
        absl::Status status = std::move(answer->second);
        shared_->answered.erase(answer);
        piece->attempts.erase(std::find(piece->attempts.begin(), piece->attempts.end(), attempt));
        attempt->replica->NoteEnd(attempt->request.item_size());
        const size_t num_scores = static_cast<size_t>(attempt->response.score_size());
        if (status.ok() && num_scores != attempt->items.size()) {
          status = absl::InternalError(absl::StrCat("answered ", num_scores, " scores to ",
                                                    attempt->items.size(), " items"));
        }
        if (status.ok()) {
          TakeScores(*piece, *attempt, batch);
        } else {
          Judge(*piece, *attempt, status, batch);
        }
      }
      while (piece->items.empty() && !piece->attempts.empty()) Abandon(*piece, 0);
    }
    batch.pieces.erase(std::remove_if(batch.pieces.begin(), batch.pieces.end(),
                                      [](const auto& p) { return p->items.empty(); }),
                       batch.pieces.end());
  }

  // Items whose result is OVERLOADED stay in the piece and are tried again; while another replica
  // works on the piece, so do those that failed here.
  void TakeScores(Piece& piece, Attempt& attempt, Batch& batch)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared_->mutex) {
    bool room = true;
    for (size_t k = 0; k < attempt.items.size(); ++k) {
      proto::Score& score = *attempt.response.mutable_score(static_cast<int>(k));
      proto::Score& result = batch.scores[attempt.items[k]];
      if (result.has_status()) continue;  // Of another attempt.
      if (!score.has_status()) {
        score.set_status(proto::MALFORMED_OUTPUT);
        score.set_message(absl::StrCat("scorer ", name_, ": answered a score without a status"));
      }
      if (score.status() == proto::OVERLOADED ||
          (!IsVerdict(score.status()) && !piece.attempts.empty())) {
        room &= score.status() != proto::OVERLOADED;
        piece.last_trouble = absl::StrCat(attempt.replica->where(), ": ", score.message());
        continue;
      }
      if (!score.has_scorer_name()) score.set_scorer_name(name_);
      result.Swap(&score);
    }
    const auto answered = [&](size_t i) { return batch.scores[i].has_status(); };
    piece.items.erase(std::remove_if(piece.items.begin(), piece.items.end(), answered),
                      piece.items.end());
    NoteAnswer(attempt, room);
    if (room) hedging_.NoteLatency(absl::Now() - attempt.started);
    if (piece.items.empty()) {
      stats_.num_hedges_won += attempt.reason == Attempt::Reason::kHedge;
      return;
    }
    piece.overloaded = !room;
    piece.num_failures = 0;
    piece.unreachable_since = absl::InfiniteFuture();
    TryElsewhere(piece, attempt, batch);
  }

  void NoteAnswer(const Attempt& attempt, bool room) {
    const absl::Time now = absl::Now();
    if (room) {
      attempt.replica->NoteAnswer(now);
    } else {
      attempt.replica->NoteRefusal(now + options_.first_backoff);
    }
  }

  // The next attempt goes to a replica that has not been asked yet, at once; where there is none,
  // all have their turn again after a pause.
  void TryElsewhere(Piece& piece, const Attempt& attempt, const Batch& batch)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared_->mutex) {
    piece.tried.insert(attempt.replica->address);
    if (!piece.attempts.empty()) return;
    piece.next_try = absl::Now();
    if (Another(piece, piece.next_try, Patience(batch)) != nullptr) return;
    if (piece.overloaded) hedging_.NoteFull();
    piece.tried.clear();
    piece.next_try += piece.backoff.Next();
  }

  // What a failed attempt means for its piece: another try, or a typed result. Nothing while
  // another attempt is in flight.
  void Judge(Piece& piece, const Attempt& attempt, const absl::Status& status, Batch& batch)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared_->mutex) {
    const absl::Time now = absl::Now();
    if (absl::IsDeadlineExceeded(status)) {
      if (!piece.overloaded)
        piece.last_trouble = absl::StrCat(attempt.replica->where(), " did not answer");
      // The batch's own deadline has come too.
      return TryElsewhere(piece, attempt, batch);
    }
    piece.last_trouble = absl::StrCat(attempt.replica->where(), ": ", status.message());
    piece.overloaded = absl::IsResourceExhausted(status);
    if (absl::IsUnavailable(status) || absl::IsCancelled(status)) {
      attempt.replica->Avoid(now + kAvoid);
    } else {
      NoteAnswer(attempt, !piece.overloaded);
    }
    TryElsewhere(piece, attempt, batch);
    if (piece.overloaded || !piece.attempts.empty()) return;
    if (NeverConnected(status)) {
      piece.unreachable_since = std::min(piece.unreachable_since, now);
      if (now - piece.unreachable_since < options_.unreachable_timeout) return;
    } else if (MayPass(status) && ++piece.num_failures < options_.max_attempts) {
      return;
    }
    Settle(piece, name_, proto::MODEL_ERROR, piece.last_trouble, &batch.scores);
  }

  // The end of the time: what is not answered gets its type, what is in flight is left to itself.
  void GiveUp(Batch& batch, bool cancelled) ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared_->mutex) {
    CollectAnswers(batch);
    const std::string within = absl::StrCat(" within ", absl::FormatDuration(batch.timeout), "; ");
    for (const std::shared_ptr<Piece>& piece : batch.pieces) {
      // After a full queue the last attempt only had no time left to be told the same.
      if (!piece->attempts.empty() && !piece->overloaded)
        piece->last_trouble = absl::StrCat(piece->where(), " did not answer");
      while (!piece->attempts.empty()) Abandon(*piece, 0);
      if (cancelled) {
        Settle(*piece, name_, proto::MODEL_ERROR, "cancelled here", &batch.scores);
      } else if (piece->overloaded) {
        Settle(*piece, name_, proto::OVERLOADED,
               absl::StrCat("no room", within, piece->last_trouble), &batch.scores);
      } else {
        Settle(*piece, name_, proto::TIMED_OUT,
               absl::StrCat("no score", within, piece->last_trouble), &batch.scores);
      }
    }
  }

  const std::string name_;
  const Options options_;
  const std::shared_ptr<Shared> shared_;
  Replicas replicas_ ABSL_GUARDED_BY(shared_->mutex);
  Hedging hedging_ ABSL_GUARDED_BY(shared_->mutex);
  Stats stats_ ABSL_GUARDED_BY(shared_->mutex);
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
