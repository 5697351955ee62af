// SPDX-License-Identifier: Apache-2.0
// With redact_text no text of a prompt or a completion is in a file of the run, on a page or on the
// terminal, and the adapter is the same: real processes of a tiny model, beside a run that keeps
// its texts, whose journal says which they are.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <signal.h>

#include <filesystem>
#include <map>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "learner/journal.h"
#include "tests/integration/tiny_run.h"

namespace wideberth {
namespace {

using learner::Journal;
using learner::JournalGroup;
using nlohmann::json;
using testing::Eventually;
using testing::Execute;
using testing::Finished;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::Process;
using testing::TinyRun;

constexpr char kAdapter[] = "/adapter/adapter_model.safetensors";
constexpr absl::string_view kQuote = "it ends with \"";
constexpr size_t kShortest = 8;  // Bytes: shorter texts occur by chance.

using Files = std::map<std::string, std::string>;  // Name -> bytes.

Files FilesOf(const std::string& folder) {
  Files files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file())
      files[entry.path().string()] = ReadFile(entry.path().string()).value_or("");
  }
  return files;
}

std::vector<JournalGroup> GroupsOf(const std::string& run_dir) {
  auto journal = Journal::Open(run_dir + "/run.db");
  EXPECT_TRUE(journal.ok()) << journal.status();
  return (*journal)->ReadGroups().value();
}

// As it is, as JSON has it and as a page has it.
void AddForms(const std::string& text, std::set<std::string>* forms) {
  const std::string dumped = json(text).dump(-1, ' ', false, json::error_handler_t::replace);
  const std::string inner = dumped.substr(1, dumped.size() - 2);
  for (const std::string& form :
       {text, inner,
        absl::StrReplaceAll(json::parse(dumped).get<std::string>(),
                            {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}})}) {
    if (form.size() >= kShortest) forms->insert(form);
  }
}

class RedactTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string prompts;
    for (int i = 0; i < 10; ++i) {
      const std::string text = absl::StrCat("quokka ", i * i, " asks <why> it is \"so\"");
      absl::StrAppend(&prompts, json{{"prompt", text}}.dump(), "\n");
      AddForms(text, &prompts_);
    }
    prompts_.insert("quokka");
    ASSERT_TRUE(WriteFileAtomically(run_.Join("prompts.jsonl"), prompts).ok());
    run_.Replace("max_new_tokens: 8", "max_new_tokens: 16");
    run_.Replace("max_steps: 3",
                 "max_steps: 8\n  deterministic: true\n  checkpoint_every: 3\n"
                 "  log_completions: true");
    // A judge whose answers never are what they should be, which its sentences quote.
    run_.Replace("reward {", R"(scorer {
  name: "writer"
  kind: GENERATIVE
  model { path: ")" + run_.Join("model") +
                                 R"(" }
  generative { max_new_tokens: 24 instruction: "Say." }
}
reward {)");
  }

  std::string plain() const { return run_.Join("plain"); }

  // A run, or an evaluation, that keeps its texts: what must not be found in the other.
  void LearnTexts(const std::string& run_dir) {
    for (const JournalGroup& group : GroupsOf(run_dir)) {
      AddTokens(group.request.prompt_token_id());
      for (const proto::Completion& completion : group.request.completion()) {
        AddForms(completion.text(), &completions_);
        AddTokens(completion.token_id());
        for (const proto::Score& score : completion.score()) {
          absl::string_view quoted = score.message();
          const size_t at = quoted.find(kQuote);
          if (at == absl::string_view::npos || !absl::ConsumeSuffix(&quoted, "\"")) continue;
          quoted.remove_prefix(at + kQuote.size());
          absl::ConsumePrefix(&quoted, "...");
          AddForms(std::string(quoted), &quotes_);
        }
      }
    }
  }
  template <typename Ids>
  void AddTokens(const Ids& ids) {
    if (ids.size() >= 4)
      tokens_.insert(std::string(reinterpret_cast<const char*>(ids.data()), 4 * sizeof(int32_t)));
  }

  static std::vector<std::string> Found(const Files& files, const std::set<std::string>& texts) {
    std::vector<std::string> found;
    for (const auto& [name, bytes] : files) {
      for (const std::string& text : texts) {
        if (absl::StrContains(bytes, text)) found.push_back(absl::StrCat(name, ": ", text));
      }
    }
    return found;
  }
  void ExpectNoText(const Files& files) const {
    EXPECT_THAT(Found(files, prompts_), IsEmpty());
    EXPECT_THAT(Found(files, completions_), IsEmpty());
    EXPECT_THAT(Found(files, quotes_), IsEmpty());
  }
  void ExpectNoToken(const Files& files) const { EXPECT_THAT(Found(files, tokens_), IsEmpty()); }

  // Every page of the learner and of those whom it knows.
  Files Pages() const {
    Files pages;
    const std::string log = run_.File("logs/learner-0.log");
    const std::string mark = "health page http://";
    const size_t at = log.rfind(mark);
    if (at == std::string::npos) return pages;
    std::string address = log.substr(at + mark.size());
    address = address.substr(0, address.find_first_of("/\n"));
    std::vector<std::string> addresses = {address};
    for (size_t i = 0; i < addresses.size(); ++i) {
      for (const char* path : {"/", "/status.json", "/metrics"}) {
        const auto page = httplib::Client("http://" + addresses[i]).Get(path);
        if (!page) continue;
        pages[addresses[i] + path] = page->body;
        if (i > 0 || path != std::string("/status.json")) continue;
        const json status = json::parse(page->body);
        for (const json& member : status["members"])
          addresses.push_back(member["health_address"].get<std::string>());
      }
    }
    return pages;
  }

  static std::string AdapterOf(const std::string& run_dir) {
    return ReadFile(run_dir + kAdapter).value_or("");
  }

  TinyRun run_;
  std::set<std::string> prompts_, completions_, quotes_, tokens_;
};

TEST_F(RedactTest, NoTextIsInAnyFilePageOrOutputAlsoOfARunThatWasKilled) {
  const Finished with_texts =
      Execute({"wideberth", "run", "--config=" + run_.config(), "--run_dir=" + plain()});
  ASSERT_EQ(with_texts.code, 0) << with_texts.err;
  LearnTexts(plain());
  // What is looked for can be found.
  ASSERT_GE(completions_.size(), 20u);
  ASSERT_FALSE(quotes_.empty());
  EXPECT_FALSE(Found(FilesOf(plain()), prompts_).empty());
  EXPECT_FALSE(Found(FilesOf(plain()), completions_).empty());
  EXPECT_FALSE(Found(FilesOf(plain()), quotes_).empty());
  EXPECT_FALSE(Found(FilesOf(plain()), tokens_).empty());
  EXPECT_FALSE(Found({{"terminal", with_texts.out}}, prompts_).empty());

  {
    Process process(run_.Command({"--redact_text"}), run_.Join(""));
    ASSERT_TRUE(Eventually([&] { return run_.Metrics().size() >= 4; })) << process.err();
    const Files pages = Pages();
    EXPECT_GE(pages.size(), 12u) << "learner, actor and three scorers have three pages each";
    ExpectNoText(pages);
    process.Signal(SIGKILL);
    process.Wait();
    ExpectNoText({{"out", process.out()}, {"err", process.err()}});
    ExpectNoText(FilesOf(run_.run_dir()));
  }
  EXPECT_TRUE(testing::NoProcessLeft());
  const Finished resumed = Execute({"wideberth", "run", "--resume=" + run_.run_dir()});
  ASSERT_EQ(resumed.code, 0) << resumed.err << run_.File("logs/learner-0.log");
  ExpectNoText({{"out", resumed.out}, {"err", resumed.err}});
  const Files files = FilesOf(run_.run_dir());
  EXPECT_GE(files.size(), 20u);
  ExpectNoText(files);
  ExpectNoToken(files);
  EXPECT_TRUE(AdapterOf(run_.run_dir()) == AdapterOf(plain())) << "another adapter than with texts";
  EXPECT_THAT(run_.File("summary.json"), HasSubstr("bytes, xxh3 "));
  EXPECT_THAT(run_.File("logs/scorer-writer-0.log") + run_.File("run.db"),
              HasSubstr("it ends with ["));

  const Finished shown =
      Execute({"wideberth", "completions", "--run=" + run_.run_dir(), "--step=2", "--json"});
  EXPECT_EQ(shown.code, 0) << shown.err;
  ExpectNoText({{"completions", shown.out}});
  const json row = json::parse(shown.out.substr(0, shown.out.find('\n')));
  EXPECT_THAT(row["prompt"].get<std::string>(), HasSubstr("bytes, xxh3 "));
  EXPECT_THAT(row["completion"].get<std::string>(), HasSubstr("bytes, xxh3 "));
  EXPECT_THAT(row.dump(), HasSubstr("\"advantage\":"));

  const Finished replayed = Execute({"wideberth", "replay", "--run=" + run_.run_dir()});
  EXPECT_NE(replayed.code, 0);
  EXPECT_THAT(replayed.err, HasSubstr("step 1 cannot be trained again, since the token ids"));
  const Finished mined =
      Execute({"wideberth", "mine", "--run=" + run_.run_dir(), "--labels=" + run_.config(),
               "--output=" + run_.Join("mined.jsonl")});
  EXPECT_EQ(mined.code, 2);
  EXPECT_THAT(mined.err, HasSubstr("the run kept no texts (redact_text)"));
}

TEST_F(RedactTest, AStoppedRunKeepsNoTokensAndGoesOnAndTheNewestCheckpointHasToBeWhole) {
  const Finished with_texts =
      Execute({"wideberth", "run", "--config=" + run_.config(), "--run_dir=" + plain()});
  ASSERT_EQ(with_texts.code, 0) << with_texts.err;
  LearnTexts(plain());
  {
    Process process(run_.Command({"--override=redact_text: true learner { max_steps: 100000 }"}),
                    run_.Join(""));
    ASSERT_TRUE(Eventually([&] { return run_.Metrics().size() >= 2; })) << process.err();
    process.Signal(SIGINT);
    EXPECT_EQ(process.Wait(), 0) << process.err();
  }
  ExpectNoText(FilesOf(run_.run_dir()));
  ExpectNoToken(FilesOf(run_.run_dir()));
  for (const JournalGroup& group : GroupsOf(run_.run_dir())) EXPECT_TRUE(group.erased);
  const size_t done = run_.Metrics().size();
  if (done > 7) GTEST_SKIP() << "the machine was too slow to stop it before step 8";
  const auto resume = [&](int steps) {
    return Execute({"wideberth", "run", "--resume=" + run_.run_dir(),
                    absl::StrCat("--override=learner { max_steps: ", steps, " }")});
  };
  const Finished resumed = resume(8);
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_TRUE(AdapterOf(run_.run_dir()) == AdapterOf(plain())) << "another adapter than with texts";
  ExpectNoToken(FilesOf(run_.run_dir()));
  // Lengths are what they were, though the answers before training were given by other processes.
  const auto lengths = [](const std::string& run_dir) {
    const json summary = json::parse(ReadFile(run_dir + "/summary.json").value_or("{}"));
    return summary["evaluation"]["comparison"]["length_mean"];
  };
  EXPECT_EQ(lengths(run_.run_dir()), lengths(plain()));

  const std::string damaged = run_.run_dir() + "/checkpoints/step-8/optimizer.safetensors";
  std::filesystem::resize_file(damaged, std::filesystem::file_size(damaged) / 2);
  const Finished refused = resume(9);
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.err, HasSubstr("is whole: step "));
  EXPECT_THAT(refused.err, HasSubstr("cannot be trained again, since the token ids"));
}

TEST_F(RedactTest, ARunThatHasTextsIsNotResumedAsOneThatHasNone) {
  ASSERT_EQ(Execute(run_.Command({"--override=learner { max_steps: 1 }"})).code, 0);
  const Finished refused =
      Execute({"wideberth", "run", "--resume=" + run_.run_dir(), "--redact_text"});
  EXPECT_EQ(refused.code, 2) << refused.out;
  EXPECT_THAT(refused.err, HasSubstr("the run began without redact_text and its files hold texts"));
}

TEST_F(RedactTest, AnEvaluationAndItsReportHaveNoText) {
  ASSERT_EQ(Execute(run_.Command({"--redact_text", "--override=learner { max_steps: 2 }"})).code,
            0);
  const auto evaluate = [&](const std::string& folder, const std::vector<std::string>& more) {
    std::vector<std::string> command = {
        "wideberth",
        "evaluate",
        "--config=" + run_.config(),
        "--run_dir=" + folder,
        "--arm=trained=" + run_.run_dir(),
        "--override=evaluation { num_completions: 2 harm_judge: 'safety' help_judge: 'helpfulness' "
        "second_guard: 'safety' refusal: 'I cannot.' }"};
    command.insert(command.end(), more.begin(), more.end());
    const Finished finished = Execute(command);
    EXPECT_EQ(finished.code, 0) << finished.err;
    return finished;
  };
  evaluate(plain(), {});
  LearnTexts(plain());
  completions_.erase("I cannot.");  // Configuration.
  const std::string folder = run_.Join("evaluation");
  const Finished finished = evaluate(folder, {"--redact_text"});
  for (const std::string& of : {folder, plain()})
    ASSERT_EQ(Execute({"wideberth", "report", of, "--png=false"}).code, 0);
  EXPECT_FALSE(Found(FilesOf(plain()), prompts_).empty());
  EXPECT_FALSE(Found(FilesOf(plain()), completions_).empty());
  ExpectNoText({{"out", finished.out}, {"err", finished.err}});
  ExpectNoText(FilesOf(folder));
  ExpectNoToken(FilesOf(folder));
  // Scores, lengths and refusals are those with texts.
  const auto answers = [](const std::string& run_dir) {
    return ReadFile(run_dir + "/answers.jsonl").value_or("");
  };
  const auto figures = [&](const std::string& run_dir) {
    std::vector<json> lines;
    for (const std::string& line :
         std::vector<std::string>(absl::StrSplit(answers(run_dir), '\n', absl::SkipEmpty()))) {
      lines.push_back(json::parse(line));
      lines.back().erase("prompt");
      for (json& answer : lines.back()["answers"]) answer.erase("text");
    }
    return lines;
  };
  ASSERT_EQ(figures(folder).size(), 6u);
  EXPECT_EQ(figures(folder), figures(plain()));
  EXPECT_THAT(answers(folder), HasSubstr("bytes, xxh3 "));
  EXPECT_THAT(answers(folder), HasSubstr(", a refusal]"));
}

}  // namespace
}  // namespace wideberth
