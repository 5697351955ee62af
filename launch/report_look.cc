// SPDX-License-Identifier: Apache-2.0
#include "launch/report_look.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status.h"
#include "launch/flags.h"
#include "report/page.h"

namespace wideberth::launch {
namespace {

// The first of the usual names on the PATH; empty: none.
std::string FindBrowser() {
  const char* path = std::getenv("PATH");
  for (const char* name : {"chromium", "chromium-browser", "google-chrome"}) {
    for (absl::string_view folder : absl::StrSplit(path == nullptr ? "" : path, ':')) {
      const std::string program = absl::StrCat(folder, "/", name);
      if (::access(program.c_str(), X_OK) == 0) return program;
    }
  }
  return "";
}

std::string FileUrl(const std::string& path) {
  std::string url = "file://";
  for (unsigned char c : std::filesystem::absolute(path).lexically_normal().string()) {
    if (absl::ascii_isalnum(c) || absl::string_view("/._~-").find(c) != absl::string_view::npos) {
      url.push_back(static_cast<char>(c));
    } else {
      absl::StrAppendFormat(&url, "%%%02X", c);
    }
  }
  return url;
}

// Runs a command without input or output; whether it ended with 0.
bool Succeeds(const std::vector<std::string>& command) {
  const pid_t child = ::fork();
  if (child < 0) return false;
  if (child == 0) {
    const int null = ::open("/dev/null", O_RDWR);
    for (int fd : {0, 1, 2}) ::dup2(null, fd);
    std::vector<char*> arguments;
    for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return false;
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// OUT/charts/NAME.png of the main charts, by a browser that happens to be here. Returns a sentence.
std::string DrawPictures(const std::string& out, const std::vector<std::string>& charts) {
  const std::string browser = FindBrowser();
  if (browser.empty()) return "no pictures of the charts (no Chromium on the PATH)";
  const std::string folder = absl::StrCat(std::filesystem::absolute(out).string(), "/charts");
  if (const absl::Status made = MakeDirectories(folder); !made.ok())
    return absl::StrCat("no pictures of the charts (", made.message(), ")");
  std::string profile =
      absl::StrCat(std::filesystem::temp_directory_path().string(), "/wideberth-report-XXXXXX");
  if (::mkdtemp(profile.data()) == nullptr)
    return "no pictures of the charts (no temporary folder)";
  int drawn = 0;
  for (const std::string& chart : charts) {
    drawn += Succeeds({"timeout", "60", browser, "--headless", "--no-sandbox", "--disable-gpu",
                       "--hide-scrollbars", absl::StrCat("--user-data-dir=", profile),
                       "--window-size=960,600", "--force-device-scale-factor=2",
                       absl::StrCat("--screenshot=", folder, "/", chart, ".png"),
                       absl::StrCat(FileUrl(absl::StrCat(out, "/report.html")), "#chart=", chart)});
  }
  std::error_code ignored;
  std::filesystem::remove_all(profile, ignored);
  return absl::StrCat(drawn, " of ", charts.size(), " pictures of charts in ", folder);
}

bool Holds(const std::string& folder, absl::string_view file) {
  return ::access(absl::StrCat(folder, "/", file).c_str(), F_OK) == 0;
}

// Of several runs, as they were named.
std::string FolderBeside(std::string first) {
  while (first.size() > 1 && first.back() == '/') first.pop_back();
  const std::string parent = std::filesystem::path(first).parent_path().string();
  return absl::StrCat(parent.empty() ? "." : parent, "/report");
}

}  // namespace

absl::Status Report(const std::vector<std::string>& arguments) {
  std::string out;
  bool redact = false, pictures = true;
  std::vector<std::string> runs;
  FlagTable flags(
      "wideberth report", "RUN... [--out=DIR] [--redact] [--png=false]",
      "Works out the evaluations (wideberth evaluate) and the guards' tables (wideberth evaluate "
      "--guard) of one or more folders\nand writes report.html and summary.json; several seeds or "
      "settings and several guards go on one page. Prints the same as text.");
  flags.Add("out", &out,
            "folder for report.html and summary.json (default: RUN; of several: report beside the "
            "first, and a summary.json in each)");
  flags.Add("redact", &redact, "hashes in place of prompts and answers");
  flags.Add("png", &pictures, "pictures of the charts, where Chromium is installed (default true)");
  WB_ASSIGN_OR_RETURN(const bool go, flags.Parse(arguments, &runs));
  if (!go) return absl::OkStatus();
  if (runs.empty()) {
    return absl::InvalidArgumentError(
        "no folder is named, expected at least one of an evaluation or a guard's table (see "
        "wideberth report --help)");
  }
  const std::string beside = FolderBeside(runs.front());
  for (std::string& run : runs) {
    const std::string within = absl::StrCat(run, "/evaluation");  // Of an experiment.
    const bool guard = Holds(run, report::kGuardTableFile);
    if (!Holds(run, "evaluation.json") && !guard && Holds(within, "evaluation.json")) run = within;
    if (out.empty() && guard && !Holds(run, "evaluation.json") && Holds(run, "config.txtpb")) {
      return absl::FailedPreconditionError(absl::StrCat(
          run, ": holds a training run, whose summary.json stays, expected --out=DIR"));
    }
  }
  const report::PageOptions options{redact};
  const std::string folder = !out.empty() ? out : runs.size() == 1 ? runs[0] : beside;
  WB_ASSIGN_OR_RETURN(const report::Findings findings, report::WriteReport(runs, folder, options));
  if (runs.size() > 1 && out.empty()) {
    for (const std::string& run : runs) {
      WB_ASSIGN_OR_RETURN(const report::Findings one, report::WorkOut({run}));
      WB_RETURN_IF_ERROR(
          WriteFileAtomically(absl::StrCat(run, "/summary.json"), report::FindingsJson(one)));
    }
  }
  std::fputs(report::FindingsText(findings).c_str(), stdout);
  std::printf("\npage: %s/report.html   numbers: %s/summary.json\n", folder.c_str(),
              folder.c_str());
  if (pictures && !findings.runs.empty())
    std::printf("%s\n", DrawPictures(folder, report::MainCharts(findings)).c_str());
  return absl::OkStatus();
}

}  // namespace wideberth::launch
