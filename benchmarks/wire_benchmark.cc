// SPDX-License-Identifier: Apache-2.0
// The weight wire over loopback gRPC: how fast one version reaches N receivers, from the learner
// directly and through relays, and how soon after its publication the first of it is there. 138 MB
// is a 14B model's adapter at rank 16 in bf16, 84 MB an 8B model's. Prints one table row a case.
// Usage: wire_benchmark [ROUNDS]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "learner/relay_tree.h"
#include "model/runtime.h"
#include "tests/testing/fake_wire.h"
#include "tests/transport/blobs.h"
#include "transport/adapter_relay.h"
#include "transport/adapter_service.h"
#include "transport/learner_client.h"
#include "transport/learner_service.h"

namespace wideberth::transport {
namespace {

class ShelfLearner final : public testing::FakeLearner {
 public:
  ShelfLearner() {
    on_fetch = [this](const proto::FetchAdapterRequest& request)
        -> absl::StatusOr<std::shared_ptr<const AdapterBlob>> { return on_shelf.Newest(request); };
  }
  AdapterShelf* shelf() override { return &on_shelf; }
  AdapterShelf on_shelf;
};

// A receiver as an actor has it; it polls never, so that only waiting calls bring versions.
struct Receiver {
  AdapterShelf shelf;
  std::unique_ptr<AdapterServer> server;
  std::unique_ptr<LearnerClient> client;
  std::unique_ptr<GrpcAdapterSource> direct;
  std::unique_ptr<RelayedSource> source;
  std::unique_ptr<AdapterReceiver> receiver;
};

// When a receiver's version was staged.
struct Arrival final : AdapterShelf::Waiter {
  void Published(std::shared_ptr<const AdapterBlob>) override { at = absl::Now(); }
  absl::Time at;
};

double Seconds(absl::Duration duration) { return absl::ToDoubleSeconds(duration); }

absl::Status Measure(int num_receivers, int64_t num_bytes, bool tree, int num_rounds) {
  ShelfLearner learner;
  auto server = LearnerServer::Start("127.0.0.1:0", &learner);
  if (!server.ok()) return server.status();
  std::vector<std::unique_ptr<Receiver>> receivers;
  std::vector<learner::RelayTree::Actor> actors;
  learner::RelayTree relays(tree ? learner::RelayTree::kFanOut : num_receivers);
  const auto beat = [&](int i) {
    proto::HeartbeatResponse response;
    if (const auto newest = learner.on_shelf.Newest({}); newest != nullptr) {
      response.set_newest_version(newest->manifest.version());
      response.set_newest_fingerprint(newest->manifest.fingerprint());
    }
    response.set_adapter_address(relays.ParentAddress(actors[i].name));
    receivers[i]->source->Announce(response);
  };
  for (int i = 0; i < num_receivers; ++i) {
    auto& receiver = *receivers.emplace_back(std::make_unique<Receiver>());
    auto serving = AdapterServer::Start("127.0.0.1:0", &receiver.shelf);
    if (!serving.ok()) return serving.status();
    receiver.server = *std::move(serving);
    auto client = LearnerClient::Connect((*server)->address(), absl::Seconds(30));
    if (!client.ok()) return client.status();
    receiver.client = *std::move(client);
    const auto name = [] { return std::string("actor"); };
    receiver.direct = std::make_unique<GrpcAdapterSource>(receiver.client.get(), name);
    RelayedSource::Parts parts;
    parts.learner = receiver.direct.get();
    parts.member_id = name;
    parts.hurry = [beat, i] { beat(i); };
    parts.patience = absl::Seconds(60);
    parts.stream_timeout = absl::Seconds(60);
    receiver.source = std::make_unique<RelayedSource>(parts);
    actors.push_back({absl::StrCat("actor-", i), receiver.server->address()});
  }
  relays.Update(actors);
  for (int i = 0; i < num_receivers; ++i) beat(i);
  for (auto& receiver : receivers) {
    receiver->receiver = std::make_unique<AdapterReceiver>(
        receiver->source.get(), receiver->client.get(), [] { return std::string("actor"); },
        absl::ZeroDuration(), &receiver->shelf);
  }
  std::vector<double> latencies, rates, cpu;
  absl::Status failed;
  for (int round = 0; round < num_rounds; ++round) {
    const auto blob = testing::MakeBlob(round + 1, num_bytes / 4);
    absl::SleepFor(absl::Milliseconds(200));  // Everybody waits in a call.
    std::vector<std::shared_ptr<Arrival>> arrivals;
    for (auto& receiver : receivers) {
      proto::FetchAdapterRequest above;
      above.set_have_any(true);
      above.set_have_version(round);
      receiver->shelf.NewestOrWait(above, arrivals.emplace_back(std::make_shared<Arrival>()));
    }
    const std::clock_t cpu_before = std::clock();
    const absl::Time start = absl::Now();
    if (auto published = learner.on_shelf.Publish(blob); !published.ok()) return published;
    for (auto& receiver : receivers) {
      const auto got = receiver->receiver->WaitFor(round + 1, absl::Now() + absl::Minutes(2));
      if (!got.ok()) failed = got.status();
    }
    if (!failed.ok()) break;
    for (const auto& arrival : arrivals) latencies.push_back(Seconds(arrival->at - start));
    cpu.push_back(static_cast<double>(std::clock() - cpu_before) / CLOCKS_PER_SEC /
                  (1e-9 * num_bytes * num_receivers));
    rates.push_back(num_bytes / 1e6 * num_receivers / Seconds(absl::Now() - start));
  }
  for (auto& receiver : receivers) {
    receiver->client->Cancel();
    receiver->source->Cancel();
    receiver->receiver->Stop();
  }
  if (!failed.ok()) return failed;
  std::sort(latencies.begin(), latencies.end());
  std::sort(rates.begin(), rates.end());
  std::sort(cpu.begin(), cpu.end());
  const auto at = [](const std::vector<double>& values, double q) {
    return values[std::min(values.size() - 1, static_cast<size_t>(q * values.size()))];
  };
  std::printf("| %d | %.3g | %s | %.0f | %.2f | %.1f | %.1f | %.1f |\n", num_receivers,
              num_bytes / 1e6, tree ? "tree" : "direct", at(rates, 0.5), at(cpu, 0.5),
              at(latencies, 0.5) * 1e3, at(latencies, 0.95) * 1e3, latencies.back() * 1e3);
  std::fflush(stdout);
  return absl::OkStatus();
}

int Main(int num_rounds) {
  model::ConfigureRuntime(1);  // As in the roles, which keep the pages of what they free.
  std::printf("| receivers | MB | way | MB/s, all together | CPU s/GB | ms p50 | p95 | max |\n");
  std::printf("|---|---|---|---|---|---|---|---|\n");
  for (const int64_t num_bytes :
       {int64_t{4000}, int64_t{1'000'000}, int64_t{84'000'000}, int64_t{138'000'000}}) {
    for (const int num_receivers : {1, 4, 16, 64}) {
      for (const bool tree : {false, true}) {
        if (tree && num_receivers <= learner::RelayTree::kFanOut) continue;
        // Every receiver holds a version, and a second one from the second round on.
        const bool large = num_receivers * num_bytes > int64_t{3'000'000'000};
        const absl::Status status = Measure(num_receivers, num_bytes, tree, large ? 1 : num_rounds);
        if (!status.ok()) std::printf("%s\n", status.ToString().c_str());
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace wideberth::transport

int main(int argc, char** argv) {
  return wideberth::transport::Main(argc > 1 ? std::atoi(argv[1]) : 5);
}
