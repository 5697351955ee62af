// SPDX-License-Identifier: Apache-2.0
#include "actor/scorers.h"

#include <cstdint>

#include "absl/time/time.h"

namespace wideberth::actor {

Scorers::Scorers(const proto::RunConfig& config, const transport::Credentials& own) {
  transport::ScorerClient::Options options;
  options.own = own;
  for (const proto::ScorerConfig& scorer : config.scorer()) {
    options.hedge_quantile = scorer.hedge_quantile();
    clients_[scorer.name()] = transport::ScorerClient::Create(scorer.name(), options);
    named_.push_back({scorer.name(), clients_[scorer.name()].get(), absl::Seconds(scorer.timeout()),
                      scorer.evaluation_only() || scorer.kind() == proto::ScorerConfig::ORACLE});
  }
}

void Scorers::SetEndpoints(const proto::HeartbeatResponse& response) const {
  for (const auto& [name, client] : clients_) {
    std::vector<transport::ScorerClient::Endpoint> endpoints;
    for (const proto::ScorerEndpoint& endpoint : response.scorer()) {
      if (endpoint.scorer_name() == name)
        endpoints.emplace_back(endpoint.address(), endpoint.name());
    }
    client->SetEndpoints(endpoints);
  }
}

void Scorers::Cancel() const {
  for (const auto& [name, client] : clients_) client->Cancel();
}

void Scorers::Report(transport::Metrics& metrics) const {
  const auto set = [&](const char* gauge, const char* help, const std::string& name,
                       int64_t value) {
    metrics.NewGauge(gauge, help, {{"scorer", name}})->Set(static_cast<double>(value));
  };
  for (const auto& [name, client] : clients_) {
    const transport::ScorerClient::Stats stats = client->stats();
    set("wideberth_score_calls", "Calls to scorers since start.", name, stats.num_calls);
    set("wideberth_score_hedges", "Of these, made since another replica was slow.", name,
        stats.num_hedges);
    set("wideberth_score_hedges_won", "Hedges that answered first.", name, stats.num_hedges_won);
    set("wideberth_score_rescues", "Calls made since another replica was silent.", name,
        stats.num_rescues);
  }
}

}  // namespace wideberth::actor
