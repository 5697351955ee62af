// SPDX-License-Identifier: Apache-2.0
#include "transport/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <utility>

#include "base/mutex.h"

namespace wideberth::transport {
namespace {

class RegisteredGauge final : public Gauge {
 public:
  explicit RegisteredGauge(prometheus::Gauge& gauge) : gauge_(gauge) {}
  void Set(double value) override { gauge_.Set(value); }

 private:
  prometheus::Gauge& gauge_;
};

class RegisteredCounter final : public Counter {
 public:
  explicit RegisteredCounter(prometheus::Counter& counter) : counter_(counter) {}
  void Increment(double by) override { counter_.Increment(by); }

 private:
  prometheus::Counter& counter_;
};

}  // namespace

struct Metrics::Impl {
  using Key = std::pair<std::string, Labels>;
  prometheus::Registry registry;
  Mutex mutex;
  std::map<std::string, prometheus::Family<prometheus::Gauge>*> gauge_families
      ABSL_GUARDED_BY(mutex);
  std::map<std::string, prometheus::Family<prometheus::Counter>*> counter_families
      ABSL_GUARDED_BY(mutex);
  std::map<Key, std::unique_ptr<RegisteredGauge>> gauges ABSL_GUARDED_BY(mutex);
  std::map<Key, std::unique_ptr<RegisteredCounter>> counters ABSL_GUARDED_BY(mutex);
};

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {}
Metrics::~Metrics() = default;

Gauge* Metrics::NewGauge(absl::string_view name, absl::string_view help, const Labels& labels) {
  MutexLock lock(impl_->mutex);
  std::unique_ptr<RegisteredGauge>& gauge = impl_->gauges[{std::string(name), labels}];
  if (gauge == nullptr) {
    prometheus::Family<prometheus::Gauge>*& family = impl_->gauge_families[std::string(name)];
    if (family == nullptr) {
      family = &prometheus::BuildGauge()
                    .Name(std::string(name))
                    .Help(std::string(help))
                    .Register(impl_->registry);
    }
    gauge = std::make_unique<RegisteredGauge>(family->Add(labels));
  }
  return gauge.get();
}

Counter* Metrics::NewCounter(absl::string_view name, absl::string_view help, const Labels& labels) {
  MutexLock lock(impl_->mutex);
  std::unique_ptr<RegisteredCounter>& counter = impl_->counters[{std::string(name), labels}];
  if (counter == nullptr) {
    prometheus::Family<prometheus::Counter>*& family = impl_->counter_families[std::string(name)];
    if (family == nullptr) {
      family = &prometheus::BuildCounter()
                    .Name(std::string(name))
                    .Help(std::string(help))
                    .Register(impl_->registry);
    }
    counter = std::make_unique<RegisteredCounter>(family->Add(labels));
  }
  return counter.get();
}

std::string Metrics::Text() const {
  return prometheus::TextSerializer().Serialize(impl_->registry.Collect());
}

}  // namespace wideberth::transport
