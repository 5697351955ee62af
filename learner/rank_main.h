// SPDX-License-Identifier: Apache-2.0
// wideberth-learner --rank=K: the process of a further learner rank. Used by main.cc.
//
//   thread   consumes              produces                    waits for                unblocked
//   by main     steps of rank 0       parts of sums, updates      rank 0 (rank_timeout)    rank 0,
//   Stop attends  -                     signs of life               rank 0, a second         rank
//   0, end of main signals  TERM, INT, HUP        Stop                        a signal the system,
//   end of main health   HTTP requests         pages                       a request clients
#pragma once

#include <signal.h>

#include "absl/status/status.h"
#include "learner/learner_rank.h"

namespace wideberth::learner {

// Joins, trains, ends with the run. `health_port`: 0: any free one, -1: none. `*began` is set once
// rank 0 knows that this rank is ready. OK also after a signal, of which rank 0 was told.
// `signal_set` is blocked in every thread.
absl::Status WorkAsRank(LearnerRank::Options options, int health_port, const sigset_t& signal_set,
                        bool* began);

}  // namespace wideberth::learner
