// SPDX-License-Identifier: Apache-2.0
// The weight wire over loopback gRPC: one adapter version fetched, assembled and verified. 138 MB
// is a 14B model's adapter at rank 16 in bf16.
#include <benchmark/benchmark.h>

#include <memory>

#include "absl/time/time.h"
#include "tests/testing/fake_wire.h"
#include "tests/transport/blobs.h"
#include "transport/learner_client.h"
#include "transport/learner_service.h"

namespace wideberth::transport {
namespace {

// args: bytes of the adapter
void FetchAdapter(benchmark::State& state) {
  const std::shared_ptr<const AdapterBlob> blob =
      wideberth::testing::MakeBlob(1, state.range(0) / 4);
  wideberth::testing::FakeLearner learner;
  learner.on_fetch = [&](const proto::FetchAdapterRequest&) { return blob; };
  auto server = LearnerServer::Start("127.0.0.1:0", &learner);
  if (!server.ok()) return state.SkipWithError(server.status().ToString().c_str());
  auto client = LearnerClient::Connect((*server)->address(), absl::Seconds(10));
  if (!client.ok()) return state.SkipWithError(client.status().ToString().c_str());
  for (auto _ : state) {
    auto fetched = (*client)->FetchAdapter(proto::FetchAdapterRequest());
    if (!fetched.ok()) return state.SkipWithError(fetched.status().ToString().c_str());
    if (*fetched == nullptr || (*fetched)->bytes.size() != blob->bytes.size()) {
      return state.SkipWithError("other bytes");
    }
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}

BENCHMARK(FetchAdapter)
    ->Arg(20 << 20)
    ->Arg(138 << 20)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
}  // namespace wideberth::transport

BENCHMARK_MAIN();
