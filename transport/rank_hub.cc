// SPDX-License-Identifier: Apache-2.0
#include "transport/rank_hub.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/status.h"

namespace wideberth::transport {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(50);
constexpr absl::Duration kHoldAttend = absl::Seconds(1);
constexpr absl::Duration kHoldFetch = absl::Seconds(2);
// A connection may break and be made again; a process that is gone does not come back.
constexpr absl::Duration kHangUpGrace = absl::Seconds(5);

std::string SecondsText(absl::Duration duration) {
  return absl::StrFormat("%.3g s", absl::ToDoubleSeconds(duration));
}

template <typename T>
std::string SumInOrder(const std::vector<absl::optional<std::string>>& parts) {
  std::string sum = *parts[0];
  const size_t n = sum.size() / sizeof(T);
  for (size_t rank = 1; rank < parts.size(); ++rank) {
    const char* const part = parts[rank]->data();
    for (size_t i = 0; i < n; ++i) {
      T a, b;
      std::memcpy(&a, sum.data() + i * sizeof(T), sizeof(T));
      std::memcpy(&b, part + i * sizeof(T), sizeof(T));
      a += b;
      std::memcpy(sum.data() + i * sizeof(T), &a, sizeof(T));
    }
  }
  return sum;
}

void RunAll(const std::vector<std::function<void()>>& calls) {
  for (const auto& call : calls) call();
}

}  // namespace

RankHub::RankHub(Options options, const Clock* clock)
    : options_(std::move(options)), clock_(clock), ranks_(options_.world_size) {
  const absl::Time now = clock_->Now();
  for (Rank& rank : ranks_) rank.last_heard = now;
  Rank& self = ranks_[0];
  self.joined = self.ready = self.told = true;
  self.host = options_.host;
  self.pid = options_.pid;
  if (!options_.ticks_itself) return;
  ticker_ = std::jthread([this](std::stop_token stop) {
    while (!stop.stop_requested()) {
      Tick();
      MutexLock lock(mutex_);
      changed_.WaitFor(mutex_, kTick);
    }
  });
}

RankHub::~RankHub() {
  if (ticker_.joinable()) {
    ticker_.request_stop();
    ticker_.join();
  }
  Fail(absl::CancelledError("rank 0 of the learner has ended"));
}

std::string RankHub::Name(int rank) const {
  const Rank& known = ranks_[rank];
  if (!known.joined) return absl::StrCat("learner rank ", rank, " (never joined)");
  return absl::StrCat("learner rank ", rank, " (on ", known.host, ", process ", known.pid, ")");
}

absl::Status RankHub::Heard(int rank, const std::string& run_id) {
  if (rank < 0 || rank >= options_.world_size || !ranks_[rank].joined) {
    // A rank of an earlier process of this run, most likely: it may join again.
    return absl::NotFoundError(absl::StrCat("learner rank ", rank, " is not one of the ",
                                            options_.world_size, " ranks that joined run ",
                                            options_.run_id));
  }
  if (!run_id.empty() && run_id != options_.run_id) {
    return absl::FailedPreconditionError(absl::StrCat("learner rank ", rank, " belongs to run ",
                                                      run_id, ", here is run ", options_.run_id));
  }
  ranks_[rank].last_heard = clock_->Now();
  ranks_[rank].hung_up_at.reset();
  return absl::OkStatus();
}

absl::StatusOr<proto::JoinRankResponse> RankHub::Join(const proto::JoinRankRequest& request) {
  MutexLock lock(mutex_);
  WB_RETURN_IF_ERROR(failure_);
  const int rank = request.rank();
  if (request.has_world_size() && request.world_size() != options_.world_size) {
    return absl::FailedPreconditionError(absl::StrCat(
        "learner rank ", rank, " on ", request.host(), " was told of ", request.world_size(),
        " ranks, rank 0 of ", options_.world_size, " (learner.world_size)"));
  }
  if (rank < 1 || rank >= options_.world_size) {
    return absl::FailedPreconditionError(
        absl::StrCat("learner rank ", rank, " on ", request.host(), ": expected a rank from 1 to ",
                     options_.world_size - 1, " (learner.world_size is ", options_.world_size,
                     ", rank 0 is here)"));
  }
  Rank& known = ranks_[rank];
  if (known.joined && (known.host != request.host() || known.pid != request.pid())) {
    return absl::FailedPreconditionError(
        absl::StrCat("learner rank ", rank, " on ", request.host(), ", process ", request.pid(),
                     ": ", Name(rank), " has that rank already; a lost rank cannot be replaced"));
  }
  if (request.has_base_fingerprint() && request.base_fingerprint() != options_.base_fingerprint) {
    return absl::FailedPreconditionError(absl::StrCat(
        "learner rank ", rank, " on ", request.host(), " has base weights with fingerprint ",
        request.base_fingerprint(), ", expected ", options_.base_fingerprint,
        " as in rank 0; policy.model.path and policy.adapter must hold the same files everywhere"));
  }
  known.joined = true;
  known.host = request.host();
  known.pid = request.pid();
  known.last_heard = clock_->Now();
  known.hung_up_at.reset();
  if (request.has_health_address()) known.health_address = request.health_address();
  if (known.state == "absent") known.state = "loading";
  if (request.has_base_fingerprint() && !known.ready) {
    known.ready = true;
    known.state = "ready";
    changed_.SignalAll();
  }
  proto::JoinRankResponse response;
  response.set_run_id(options_.run_id);
  *response.mutable_config() = options_.config;
  return response;
}

void RankHub::Attend(const proto::AttendRequest& request, Answer<proto::AttendResponse> answer) {
  Later later;
  {
    MutexLock lock(mutex_);
    if (absl::Status known = Heard(request.rank(), request.run_id()); !known.ok()) {
      later.push_back([answer, known] { answer(known); });
    } else {
      Rank& rank = ranks_[request.rank()];
      rank.state = request.state();
      rank.step = request.step();
      if (rank.attend.has_value()) {
        later.push_back([old = rank.attend->answer] { old(proto::AttendResponse()); });
      }
      rank.attend = Held<proto::AttendResponse>{std::move(answer), clock_->Now()};
    }
  }
  RunAll(later);
}

void RankHub::HungUp(int rank) {
  MutexLock lock(mutex_);
  if (rank <= 0 || rank >= options_.world_size) return;
  ranks_[rank].hung_up_at = clock_->Now();
}

void RankHub::AnswerFetch(Rank& rank, Later* later) {
  const Answer<proto::FetchStepResponse> answer = rank.fetch->answer;
  if (!failure_.ok()) {
    rank.told = true;
    later->push_back([answer, why = failure_] { answer(why); });
  } else if (ended_) {
    rank.told = true;
    later->push_back([answer] {
      proto::FetchStepResponse response;
      response.set_ended(true);
      answer(std::move(response));
    });
  } else if (step_ > rank.fetch->done_step) {
    later->push_back([answer, step = step_, work = work_] {
      proto::FetchStepResponse response;
      response.set_step(step);
      response.set_work(*work);
      answer(std::move(response));
    });
  } else {
    return;
  }
  rank.fetch.reset();
}

void RankHub::FetchStep(const proto::FetchStepRequest& request,
                        Answer<proto::FetchStepResponse> answer) {
  Later later;
  {
    MutexLock lock(mutex_);
    if (absl::Status known = Heard(request.rank(), request.run_id()); !known.ok()) {
      later.push_back([answer, known] { answer(known); });
    } else {
      Rank& rank = ranks_[request.rank()];
      if (rank.fetch.has_value()) {
        later.push_back([old = rank.fetch->answer] { old(proto::FetchStepResponse()); });
      }
      rank.fetch = Held<proto::FetchStepResponse>{
          std::move(answer), clock_->Now(), request.has_done_step() ? request.done_step() : -1};
      AnswerFetch(rank, &later);
    }
  }
  RunAll(later);
}

absl::Status RankHub::CheckPart(const proto::CombineRequest& request, const Slot& slot) const {
  const proto::CombineRequest& first = slot.shape;
  if (request.operation() != first.operation() || request.kind() != first.kind() ||
      request.dtype() != first.dtype() || request.num_chunks() != first.num_chunks()) {
    return absl::FailedPreconditionError(absl::StrCat(
        Name(request.rank()), " is at the ", request.operation(), " in ", request.num_chunks(),
        " chunks, ", Name(first.rank()), " at the ", first.operation(), " in ", first.num_chunks(),
        ": all ranks must do the same operations in the same order"));
  }
  if (request.kind() != proto::CombineRequest::SUM) return absl::OkStatus();
  const size_t value_bytes = request.dtype() == proto::FLOAT64 ? 8 : 4;
  for (const auto& part : slot.parts) {
    if (!part.has_value() || part->size() == request.data().size()) continue;
    return absl::FailedPreconditionError(
        absl::StrCat(Name(request.rank()), " brings ", request.data().size(), " bytes to the ",
                     request.operation(), ", expected ", part->size(), " as another rank brought"));
  }
  if (request.data().size() % value_bytes == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(Name(request.rank()), " brings ",
                                                    request.data().size(), " bytes to the ",
                                                    request.operation(), ", no whole numbers"));
}

void RankHub::Contribute(const proto::CombineRequest& request,
                         Answer<proto::CombineResponse> answer) {
  const Key key(request.sequence(), request.chunk());
  Later later;
  Slot* complete = nullptr;
  {
    MutexLock lock(mutex_);
    absl::Status refused = Heard(request.rank(), request.run_id());
    if (refused.ok() && !failure_.ok()) {
      refused = failure_;
      ranks_[request.rank()].told = true;
    }
    auto found = slots_.find(key);
    Rank* const rank = refused.ok() ? &ranks_[request.rank()] : nullptr;
    // Every rank has gone on since: whoever asked this is not waiting any more.
    if (refused.ok() && found == slots_.end() && request.sequence() < rank->sequence) {
      refused = absl::FailedPreconditionError(
          absl::StrCat(Name(request.rank()), ": the ", request.operation(), " is over"));
    }
    if (refused.ok() && found == slots_.end()) {
      Slot slot;
      slot.shape = request;
      slot.shape.clear_data();
      slot.began = clock_->Now();
      slot.parts.resize(options_.world_size);
      found = slots_.emplace(key, std::move(slot)).first;
    }
    if (refused.ok() && found->second.result == nullptr) {
      refused = CheckPart(request, found->second);
      if (!refused.ok()) FailLocked(refused, &later);
    }
    if (!refused.ok()) {
      later.push_back([answer, refused] { answer(refused); });
    } else if (found->second.result != nullptr) {
      later.push_back(
          [answer, result = found->second.result] { answer(proto::CombineResponse(*result)); });
    } else {
      Slot& slot = found->second;
      rank->sequence = std::max(rank->sequence, request.sequence());
      auto& part = slot.parts[request.rank()];
      if (!part.has_value()) part = request.data();
      slot.waiting.push_back(std::move(answer));
      const bool all = std::all_of(slot.parts.begin(), slot.parts.end(),
                                   [](const auto& there) { return there.has_value(); });
      if (all && !slot.combining) {
        slot.combining = true;
        complete = &slot;
      }
      Forget();
    }
  }
  RunAll(later);
  if (complete != nullptr) Finish(*complete);
}

// Without the lock: a complete slot's parts change no more, and it is not forgotten before all
// ranks have its result.
void RankHub::Finish(Slot& slot) {
  auto result = std::make_shared<proto::CombineResponse>();
  if (slot.shape.kind() == proto::CombineRequest::GATHER) {
    for (const auto& part : slot.parts) result->add_data(*part);
  } else {
    result->add_data(slot.shape.dtype() == proto::FLOAT64 ? SumInOrder<double>(slot.parts)
                                                          : SumInOrder<float>(slot.parts));
  }
  std::vector<Answer<proto::CombineResponse>> waiting;
  {
    MutexLock lock(mutex_);
    slot.result = result;
    slot.parts.clear();
    waiting.swap(slot.waiting);
  }
  for (const auto& answer : waiting) answer(proto::CombineResponse(*result));
}

// Results that every rank has had: it has gone on to a later operation.
void RankHub::Forget() {
  int64_t oldest = ranks_[0].sequence;
  for (const Rank& rank : ranks_) oldest = std::min(oldest, rank.sequence);
  while (!slots_.empty() && slots_.begin()->first.first < oldest) slots_.erase(slots_.begin());
}

absl::Status RankHub::Leave(const proto::LeaveRankRequest& request) {
  Later later;
  {
    MutexLock lock(mutex_);
    WB_RETURN_IF_ERROR(Heard(request.rank(), request.run_id()));
    ranks_[request.rank()].told = true;
    ranks_[request.rank()].state = "left";
    if (!ended_) {
      FailLocked(absl::AbortedError(absl::StrCat(Name(request.rank()), ": ", request.reason())),
                 &later);
    }
  }
  RunAll(later);
  return absl::OkStatus();
}

absl::Status RankHub::WaitForAll(absl::Duration patience, const std::function<bool()>& stop) {
  const absl::Time deadline = clock_->Now() + patience;
  MutexLock lock(mutex_);
  while (true) {
    WB_RETURN_IF_ERROR(failure_);
    std::vector<int> missing;
    for (int i = 0; i < options_.world_size; ++i) {
      if (!ranks_[i].ready) missing.push_back(i);
    }
    if (missing.empty()) return absl::OkStatus();
    if (clock_->Now() >= deadline) {
      std::vector<std::string> names;
      for (const int rank : missing) names.push_back(Name(rank));
      return absl::DeadlineExceededError(absl::StrCat(
          absl::StrJoin(names, ", "), " did not get ready within ", SecondsText(patience),
          " (learner.step_timeout); learner.world_size is ", options_.world_size));
    }
    mutex_.Unlock();
    const bool stopped = stop();
    mutex_.Lock();
    if (stopped) return absl::CancelledError("stopped while ranks were awaited");
    changed_.WaitFor(mutex_, absl::Milliseconds(100));
  }
}

void RankHub::Offer(int64_t step, std::string work) {
  Later later;
  {
    MutexLock lock(mutex_);
    step_ = step;
    work_ = std::make_shared<const std::string>(std::move(work));
    for (Rank& rank : ranks_) {
      if (rank.fetch.has_value()) AnswerFetch(rank, &later);
    }
  }
  RunAll(later);
}

absl::StatusOr<proto::CombineResponse> RankHub::Combine(const proto::CombineRequest& part) {
  struct Waiting {
    Mutex mutex;
    CondVar changed;
    absl::optional<absl::StatusOr<proto::CombineResponse>> result;
  };
  const auto waiting = std::make_shared<Waiting>();
  Contribute(part, [waiting](absl::StatusOr<proto::CombineResponse> result) {
    MutexLock lock(waiting->mutex);
    waiting->result = std::move(result);
    waiting->changed.SignalAll();
  });
  MutexLock lock(waiting->mutex);
  // Tick sees to it that this ends.
  while (!waiting->result.has_value()) waiting->changed.Wait(waiting->mutex);
  return *std::move(waiting->result);
}

void RankHub::End() {
  Later later;
  {
    MutexLock lock(mutex_);
    ended_ = true;
    for (Rank& rank : ranks_) {
      if (rank.fetch.has_value()) AnswerFetch(rank, &later);
    }
  }
  RunAll(later);
}

void RankHub::Fail(const absl::Status& why) {
  Later later;
  {
    MutexLock lock(mutex_);
    FailLocked(why, &later);
  }
  RunAll(later);
}

void RankHub::FailLocked(const absl::Status& why, Later* later) {
  const bool first = failure_.ok();
  if (first) failure_ = why;
  if (first && !ended_ && options_.on_failure != nullptr)
    later->push_back([this, why] { options_.on_failure(why); });
  for (auto& [key, slot] : slots_) {
    if (slot.combining) continue;  // Complete: whoever took part gets it.
    for (auto& answer : slot.waiting)
      later->push_back([answer = std::move(answer), why = failure_] { answer(why); });
    slot.waiting.clear();
  }
  for (Rank& rank : ranks_) {
    if (rank.fetch.has_value()) AnswerFetch(rank, later);
    if (!rank.attend.has_value()) continue;
    later->push_back([answer = rank.attend->answer] { answer(proto::AttendResponse()); });
    rank.attend.reset();
  }
  changed_.SignalAll();
}

// The sentence for the first rank that is missing; OK when all are there.
absl::Status RankHub::Missing(absl::Time now) const {
  const absl::Duration timeout = options_.rank_timeout;
  const auto awaited = [&](int rank) {
    for (const auto& [key, slot] : slots_) {
      if (slot.result != nullptr || slot.parts[rank].has_value()) continue;
      return absl::StrCat("; the ", slot.shape.operation(), " has waited for it for ",
                          SecondsText(now - slot.began), " and was given up");
    }
    return std::string();
  };
  for (int i = 1; i < options_.world_size; ++i) {
    const Rank& rank = ranks_[i];
    if (!rank.joined || rank.told) continue;
    if (rank.hung_up_at.has_value() && now - *rank.hung_up_at > std::min(timeout, kHangUpGrace)) {
      return absl::AbortedError(absl::StrCat(Name(i), " is gone: its connection broke ",
                                             SecondsText(now - *rank.hung_up_at),
                                             " ago and did not come back", awaited(i)));
    }
    if (now - rank.last_heard > timeout) {
      return absl::AbortedError(absl::StrCat(
          Name(i), " has been silent for ", SecondsText(now - rank.last_heard),
          ", expected at most ", SecondsText(timeout), " (learner.rank_timeout)", awaited(i)));
    }
  }
  for (const auto& [key, slot] : slots_) {
    if (slot.result != nullptr || slot.combining || now - slot.began <= timeout) continue;
    std::vector<std::string> names;
    for (int i = 0; i < options_.world_size; ++i) {
      if (!slot.parts[i].has_value())
        names.push_back(absl::StrCat(Name(i), ", last heard of ",
                                     SecondsText(now - ranks_[i].last_heard), " ago,"));
    }
    return absl::AbortedError(
        absl::StrCat(absl::StrJoin(names, " and "), " did not bring its part of the ",
                     slot.shape.operation(), " within ", SecondsText(now - slot.began),
                     ", expected at most ", SecondsText(timeout), " (learner.rank_timeout)"));
  }
  return absl::OkStatus();
}

void RankHub::Tick() {
  Later later;
  {
    MutexLock lock(mutex_);
    const absl::Time now = clock_->Now();
    if (failure_.ok() && !ended_) {
      if (const absl::Status missing = Missing(now); !missing.ok()) FailLocked(missing, &later);
    }
    for (Rank& rank : ranks_) {
      // A held call says nothing, so a good deal shorter than the silence that is held against it.
      const absl::Duration hold = std::min(kHoldAttend, options_.rank_timeout / 4);
      if (rank.attend.has_value() && now - rank.attend->since >= hold) {
        later.push_back([answer = rank.attend->answer] { answer(proto::AttendResponse()); });
        rank.attend.reset();
      }
      if (rank.fetch.has_value() && now - rank.fetch->since >= kHoldFetch) {
        later.push_back([answer = rank.fetch->answer] { answer(proto::FetchStepResponse()); });
        rank.fetch.reset();
      }
    }
  }
  RunAll(later);
}

bool RankHub::AllTold() const {
  MutexLock lock(mutex_);
  const absl::Time since = clock_->Now() - kHangUpGrace;
  return std::all_of(ranks_.begin(), ranks_.end(), [&](const Rank& rank) {
    return !rank.joined || rank.told || rank.hung_up_at.has_value() || rank.last_heard < since;
  });
}

std::vector<RankHub::RankStatus> RankHub::Statuses() const {
  MutexLock lock(mutex_);
  std::vector<RankStatus> statuses;
  const absl::Time now = clock_->Now();
  for (int i = 1; i < options_.world_size; ++i) {
    const Rank& rank = ranks_[i];
    RankStatus status;
    status.rank = i;
    status.host = rank.host;
    status.pid = rank.pid;
    status.state = rank.hung_up_at.has_value() && !rank.told ? "lost" : rank.state;
    status.step = rank.step;
    status.silent_for = now - rank.last_heard;
    status.health_address = rank.health_address;
    statuses.push_back(std::move(status));
  }
  return statuses;
}

}  // namespace wideberth::transport
