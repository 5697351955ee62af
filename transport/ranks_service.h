// SPDX-License-Identifier: Apache-2.0
// RankHub on the wire: turns every call of the other ranks into one of the hub's. Registered beside
// the learner's own service. Private to transport, since it names types of the RPC library.
#pragma once

#include <memory>

#include "transport/rank_hub.h"
#include "transport/rpc.h"

namespace wideberth::transport {

// `hub` must outlive the server it is registered with.
std::unique_ptr<grpc::Service> MakeRanksService(RankHub* hub);

}  // namespace wideberth::transport
