// SPDX-License-Identifier: Apache-2.0
#include "learner/rank_main.h"

#include <memory>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"

namespace wideberth::learner {

absl::Status WorkAsRank(LearnerRank::Options options, int health_port, const sigset_t& signal_set,
                        bool* began) {
  transport::HealthPage::Options page;
  page.role = "learner";
  page.name = absl::StrCat("learner-", options.rank);
  page.port = health_port;
  page.own = options.own;
  WB_ASSIGN_OR_RETURN(const std::unique_ptr<LearnerRank> rank,
                      LearnerRank::Join(std::move(options)));
  const std::jthread signals([&rank, signal_set](std::stop_token stop) {
    const timespec look = {0, 200'000'000};
    while (!stop.stop_requested()) {
      const int signal = ::sigtimedwait(&signal_set, nullptr, &look);
      if (signal <= 0) continue;
      WB_LOG(INFO) << "signal " << signal << ": ending";
      rank->Stop(absl::StrCat("stopped by signal ", signal));
    }
  });
  page.run = rank->config().name();
  const std::string& address = rank->config().learner().address();
  page.host = address.substr(0, address.rfind(':'));
  if (rank->config().learner().health_port() < 0) page.port = -1;
  page.status = [&rank] { return rank->Status(); };
  WB_ASSIGN_OR_RETURN(const std::unique_ptr<transport::HealthPage> health,
                      transport::HealthPage::Start(std::move(page)));
  WB_RETURN_IF_ERROR(rank->Load(health->address()));
  *began = true;
  WB_LOG(INFO) << "joined run " << rank->run_id()
               << (health->url().empty() ? "" : absl::StrCat(", health page ", health->url()));
  const absl::Status ended = rank->Run();
  WB_LOG(INFO) << (ended.ok() ? "the run has ended" : "leaving");
  return absl::IsCancelled(ended) ? absl::OkStatus() : ended;
}

}  // namespace wideberth::learner
