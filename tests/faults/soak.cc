// SPDX-License-Identifier: Apache-2.0
// A long run under random faults, one every ten seconds: tests/run.sh --soak. Prints a line a
// minute and, at the end, what was injected, how long members took to be back, and how memory and
// file descriptors went.
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <random>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "tests/faults/cast.h"

namespace wideberth {
namespace {

using testing::Cast;
using testing::TinyRun;

double Setting(const char* name, double otherwise) {
  const char* const given = std::getenv(name);
  double value = otherwise;
  if (given != nullptr) EXPECT_TRUE(absl::SimpleAtod(given, &value)) << name << " is " << given;
  return value;
}

// Of one process: resident memory in MB and open descriptors; 0 where it is gone.
struct Usage {
  double resident_mb = 0;
  int descriptors = 0;
};
Usage UsageOf(pid_t pid) {
  Usage usage;
  std::ifstream statm(absl::StrCat("/proc/", pid, "/statm"));
  int64_t total = 0, resident = 0;
  if (statm >> total >> resident)
    usage.resident_mb = static_cast<double>(resident * ::sysconf(_SC_PAGESIZE)) / 1e6;
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/fd"), error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error))
    ++usage.descriptors;
  return usage;
}

// What is known of one member since it was started last.
struct Watched {
  int num_starts = 0;
  std::vector<std::pair<double, Usage>> samples;      // Minutes since the first.
  double longest_minutes = 0, slope_mb_per_hour = 0;  // Of its longest life.
  int first_descriptors = 0, last_descriptors = 0;

  // Least squares over the later half: a process grows while it warms up.
  void Close() {
    if (samples.size() < 8 || samples.back().first <= longest_minutes) return;
    longest_minutes = samples.back().first;
    double n = 0, x = 0, y = 0, xx = 0, xy = 0;
    for (size_t i = samples.size() / 2; i < samples.size(); ++i) {
      const double minutes = samples[i].first, mb = samples[i].second.resident_mb;
      n += 1, x += minutes, y += mb, xx += minutes * minutes, xy += minutes * mb;
    }
    slope_mb_per_hour = 60 * (n * xy - x * y) / (n * xx - x * x);
    first_descriptors = samples[samples.size() / 2].second.descriptors;
    last_descriptors = samples.back().second.descriptors;
  }
};

class Soak {
 public:
  Soak(double minutes, double every, uint64_t seed)
      : every_(absl::Seconds(every)), random_(seed), began_(absl::Now()) {
    testing::PrepareForFaults(run_,
                              "max_steps: 100000000\n  checkpoint_every: 50\n  max_staleness: 1");
    until_ = began_ + absl::Minutes(minutes);
    Cast::Options options;
    options.num_actors = 3;
    options.seed = seed;
    cast_ = std::make_unique<Cast>(&run_, options);
  }

  void Run() {
    cast_->Start();
    absl::Time next_fault = absl::Now() + every_, next_line = absl::Now() + absl::Minutes(1),
               next_sample = absl::Now();
    while (absl::Now() < until_ && !::testing::Test::HasFatalFailure()) {
      cast_->Tend();
      const absl::Time now = absl::Now();
      if (now >= next_fault) {
        Inject();
        next_fault = now + every_;
      }
      for (auto it = later_.begin(); it != later_.end();) {
        if (now < it->first) break;
        it->second();
        it = later_.erase(it);
      }
      if (now >= next_sample) {
        Sample();
        next_sample = now + absl::Seconds(2);
      }
      if (now >= next_line) {
        Line();
        next_line = now + absl::Minutes(1);
      }
      ::poll(nullptr, 0, 20);
    }
    for (auto& [when, what] : later_) what();
    cast_->Signal("learner-0", SIGTERM);
    EXPECT_EQ(cast_->WaitForEnd(), 0);
    EXPECT_TRUE(cast_->everybody_left()) << "not everybody left within 15 s";
    const size_t steps = run_.Metrics().size();
    EXPECT_GT(steps, 10u);
    testing::ExpectNothingLostOrCountedTwice(run_, steps, /*every_score=*/false);
    Report(steps);
  }

 private:
  double Between(double least, double most) {
    return std::uniform_real_distribution<double>(least, most)(random_);
  }
  void Later(double seconds, std::function<void()> what) {
    later_.emplace(absl::Now() + absl::Seconds(seconds), std::move(what));
  }
  void Inject() {
    const std::vector<std::string> names = cast_->names();
    // The learner is killed less often, so that there is a long life of it to measure.
    std::string name = names[std::uniform_int_distribution<size_t>(1, names.size() - 1)(random_)];
    if (Between(0, 1) < 0.08) name = names[0];
    const bool learner = name == names[0];
    const double which = Between(0, 1);
    if (which < 0.35 || (learner && which < 0.6)) {
      ++injected_["kill -9"];
      cast_->Signal(name, SIGKILL);
    } else if (which < 0.55 || learner) {
      ++injected_["SIGSTOP for 1 to 7 s"];
      cast_->Signal(name, SIGSTOP);
      Later(Between(1, 7), [this, name] { cast_->Signal(name, SIGCONT); });
    } else if (which < 0.7) {
      ++injected_["half-open for 1 to 20 s"];
      cast_->proxy(name).Freeze(true);
      Later(Between(1, 20), [this, name] { cast_->proxy(name).Freeze(false); });
    } else if (which < 0.85) {
      ++injected_["connections cut in the middle of a message"];
      cast_->proxy(name).CutAfter(static_cast<int64_t>(Between(0, 30000)));
    } else {
      ++injected_["5 to 100 ms of delay and 5 % of loss for 5 s"];
      cast_->proxy(name).SetDelay(absl::Milliseconds(Between(5, 100)));
      cast_->proxy(name).SetLoss(0.05);
      Later(5, [this, name] {
        cast_->proxy(name).SetDelay(absl::ZeroDuration());
        cast_->proxy(name).SetLoss(0);
      });
    }
  }
  void Sample() {
    for (const std::string& name : cast_->names()) {
      if (!cast_->Running(name)) continue;
      Watched& watched = watched_[name];
      if (watched.num_starts != cast_->num_starts(name)) {
        watched.Close();
        watched.num_starts = cast_->num_starts(name);
        watched.samples.clear();
        started_[name] = absl::Now();
      }
      watched.samples.emplace_back(absl::ToDoubleMinutes(absl::Now() - started_[name]),
                                   UsageOf(cast_->pid(name)));
    }
  }
  void Line() {
    const size_t steps = run_.Metrics().size();
    int faults = 0;
    for (const auto& [what, n] : injected_) faults += n;
    std::printf("%5.1f min: %zu steps (%+zd), %d faults, %.0f min left\n",
                absl::ToDoubleMinutes(absl::Now() - began_), steps,
                static_cast<ssize_t>(steps - last_steps_), faults,
                absl::ToDoubleMinutes(until_ - absl::Now()));
    std::fflush(stdout);
    EXPECT_GT(steps, last_steps_) << "no step in a minute";
    last_steps_ = steps;
  }
  void Report(size_t steps) {
    std::printf("%zu steps in %.1f min; everybody left %.1f s after the learner\n", steps,
                absl::ToDoubleMinutes(absl::Now() - began_),
                absl::ToDoubleSeconds(cast_->leaving()));
    for (const auto& [what, n] : injected_) std::printf("  %4d x %s\n", n, what.c_str());
    for (auto& [name, watched] : watched_) {
      watched.Close();
      std::printf(
          "  %-22s %2d starts, longest life %5.1f min: resident %+.1f MB/h, descriptors %d "
          "to %d\n",
          name.c_str(), watched.num_starts, watched.longest_minutes, watched.slope_mb_per_hour,
          watched.first_descriptors, watched.last_descriptors);
    }
  }

  const TinyRun run_;
  const absl::Duration every_;
  std::mt19937_64 random_;
  const absl::Time began_;
  absl::Time until_;
  std::unique_ptr<Cast> cast_;
  std::multimap<absl::Time, std::function<void()>> later_;
  std::map<std::string, int> injected_;
  std::map<std::string, Watched> watched_;
  std::map<std::string, absl::Time> started_;
  size_t last_steps_ = 0;
};

TEST(SoakTest, ARunGoesOnUnderRandomFaults) {
  const auto seed = static_cast<uint64_t>(Setting("WIDEBERTH_FAULT_SEED", 1));
  std::printf("WIDEBERTH_FAULT_SEED=%d\n", static_cast<int>(seed));
  Soak(Setting("WIDEBERTH_SOAK_MINUTES", 30), Setting("WIDEBERTH_SOAK_EVERY", 10), seed).Run();
}

}  // namespace
}  // namespace wideberth
