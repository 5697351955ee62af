// SPDX-License-Identifier: Apache-2.0
// A process's gauges and counters, as text for `/metrics`. Filled by every role, served by
// HealthPage.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"

namespace wideberth::transport {

// A value that goes up and down. Thread-safe; owned by its Metrics.
class Gauge {
 public:
  virtual ~Gauge() = default;
  virtual void Set(double value) = 0;
};

// A value that only grows. Thread-safe; owned by its Metrics.
class Counter {
 public:
  virtual ~Counter() = default;
  virtual void Increment(double by = 1.0) = 0;  // `by` >= 0.
};

// Thread-safe. Asking for the same name and labels again gives the same object; the first `help` of
// a name stays. Names follow the Prometheus habits, since `promtool check metrics` is a test:
// "wideberth_groups_total" for counters, units as suffix ("_seconds", "_bytes").
class Metrics {
 public:
  using Labels = std::map<std::string, std::string>;
  Metrics();
  ~Metrics();
  Gauge* NewGauge(absl::string_view name, absl::string_view help, const Labels& labels = {});
  Counter* NewCounter(absl::string_view name, absl::string_view help, const Labels& labels = {});
  // The exposition format, version 0.0.4.
  std::string Text() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace wideberth::transport
