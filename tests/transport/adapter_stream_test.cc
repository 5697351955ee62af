// SPDX-License-Identifier: Apache-2.0
// Streams of the weight wire over loopback: waiting for a version, and every way a stream can
// break.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/hash.h"
#include "proto/wire.grpc.pb.h"
#include "tests/testing/fake_wire.h"
#include "tests/transport/blobs.h"
#include "transport/adapter_shelf.h"
#include "transport/learner_client.h"
#include "transport/learner_service.h"

namespace wideberth::transport {
namespace {

using ::testing::HasSubstr;
using ::wideberth::testing::FakeLearner;
using ::wideberth::testing::MakeBlob;

using Fetched = absl::StatusOr<std::shared_ptr<const AdapterBlob>>;

LearnerClient::Options Quick() {
  LearnerClient::Options options;
  options.fetch_timeout = absl::Seconds(60);
  options.first_backoff = absl::Milliseconds(1);
  options.max_backoff = absl::Milliseconds(20);
  return options;
}

// ---- the learner's server ----

// Hands out what is on its shelf, as the learner does.
class ShelfLearner final : public FakeLearner {
 public:
  ShelfLearner() {
    on_fetch = [this](const proto::FetchAdapterRequest& request) -> Fetched {
      ++num_fetches;
      return on_shelf.Newest(request);
    };
  }
  AdapterShelf* shelf() override { return &on_shelf; }

  AdapterShelf on_shelf;
  std::atomic<int> num_fetches = 0;
};

class AdapterServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto server = LearnerServer::Start("127.0.0.1:0", &learner_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    auto client = LearnerClient::Connect(server_->address(), absl::Seconds(30), Quick());
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
  }
  static proto::FetchAdapterRequest Waiting(int wait_ms) {
    proto::FetchAdapterRequest request;
    request.set_wait_ms(wait_ms);
    return request;
  }

  ShelfLearner learner_;
  std::unique_ptr<LearnerServer> server_;
  std::unique_ptr<LearnerClient> client_;
};

TEST_F(AdapterServiceTest, AnAdapterOfManyChunksArrivesByteForByte) {
  const auto blob = MakeBlob(4, 5'000'000 / 4);
  ASSERT_TRUE(learner_.on_shelf.Publish(blob).ok());
  const Fetched fetched = client_->FetchAdapter({});
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  ASSERT_NE(*fetched, nullptr);
  EXPECT_EQ((*fetched)->bytes, blob->bytes);
  EXPECT_EQ((*fetched)->manifest.SerializeAsString(), blob->manifest.SerializeAsString());
}

TEST_F(AdapterServiceTest, NothingNewerIsNull) {
  Fetched fetched = client_->FetchAdapter({});
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_EQ(*fetched, nullptr);
  fetched = client_->FetchAdapter(Waiting(1));
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_EQ(*fetched, nullptr);
}

TEST_F(AdapterServiceTest, ACallThatWaitsBringsWhatIsPublishedMeanwhile) {
  Fetched fetched = absl::UnknownError("nothing yet");
  std::thread caller([&] { fetched = client_->FetchAdapter(Waiting(10'000)); });
  while (learner_.num_fetches == 0) std::this_thread::yield();
  ASSERT_TRUE(learner_.on_shelf.Publish(MakeBlob(7)).ok());
  caller.join();
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  ASSERT_NE(*fetched, nullptr);
  EXPECT_EQ((*fetched)->manifest.version(), 7u);
  EXPECT_EQ(learner_.num_fetches, 1);
}

TEST_F(AdapterServiceTest, ACallThatWaitsEndsWithTheServerAndWithItsClient) {
  Fetched fetched = absl::UnknownError("nothing yet");
  std::thread caller([&] { fetched = client_->FetchAdapter(Waiting(10'000)); });
  while (learner_.num_fetches == 0) std::this_thread::yield();
  client_->Cancel();
  caller.join();
  EXPECT_TRUE(absl::IsCancelled(fetched.status())) << fetched.status();

  auto other = LearnerClient::Connect(server_->address(), absl::Seconds(30), Quick());
  ASSERT_TRUE(other.ok());
  std::thread second([&] { (void)(*other)->FetchAdapter(Waiting(10'000)); });
  while (learner_.num_fetches == 1) std::this_thread::yield();
  server_->Shutdown(absl::ZeroDuration());
  (*other)->Cancel();
  second.join();
  EXPECT_TRUE(learner_.on_shelf.Publish(MakeBlob(1)).ok()) << "nobody is told who is gone";
}

TEST_F(AdapterServiceTest, ManyCallersWaitAndAllAreAnswered) {
  constexpr int kNumCallers = 16;
  std::atomic<int> num_received = 0;
  std::vector<std::thread> callers;
  for (int i = 0; i < kNumCallers; ++i) {
    callers.emplace_back([&] {
      const Fetched fetched = client_->FetchAdapter(Waiting(10'000));
      num_received += fetched.ok() && *fetched != nullptr;
    });
  }
  while (learner_.num_fetches < kNumCallers) std::this_thread::yield();
  ASSERT_TRUE(learner_.on_shelf.Publish(MakeBlob(1, 1000)).ok());
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(num_received, kNumCallers);
}

TEST_F(AdapterServiceTest, AStreamGoesOnOnlyInTheVersionItWasOf) {
  const auto blob = MakeBlob(4, 1'000'000);
  ASSERT_TRUE(learner_.on_shelf.Publish(blob).ok());
  const auto stub = proto::Adapters::NewStub(
      grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials()));
  const auto first_offset = [&](uint64_t version, const std::string& fingerprint, uint64_t bytes) {
    proto::FetchAdapterRequest request;
    request.set_resume_version(version);
    request.set_resume_fingerprint(fingerprint);
    request.set_resume_bytes(bytes);
    grpc::ClientContext context;
    const auto reader = stub->FetchAdapter(&context, request);
    proto::AdapterChunk chunk;
    EXPECT_TRUE(reader->Read(&chunk));
    EXPECT_TRUE(chunk.has_manifest());
    const uint64_t offset = chunk.offset_bytes();
    while (reader->Read(&chunk)) EXPECT_FALSE(chunk.has_manifest());
    EXPECT_TRUE(reader->Finish().ok());
    return offset;
  };
  const std::string& fingerprint = blob->manifest.fingerprint();
  EXPECT_EQ(first_offset(4, fingerprint, 1'234'567), 1'234'567u);
  EXPECT_EQ(first_offset(4, fingerprint, 4'000'000), 4'000'000u) << "all but the end is there";
  EXPECT_EQ(first_offset(4, fingerprint, 4'000'001), 0u);
  EXPECT_EQ(first_offset(4, std::string(32, '0'), 1'234'567), 0u) << "another learner's 4";
  EXPECT_EQ(first_offset(3, fingerprint, 1'234'567), 0u);
}

TEST_F(AdapterServiceTest, ChangedMissingAndSurplusBytesAreRefused) {
  std::shared_ptr<AdapterBlob> blob = MakeBlob(4, 1'000'000);
  learner_.on_fetch = [&](const proto::FetchAdapterRequest&) -> Fetched { return blob; };
  blob->bytes[3'000'000] ^= 1;
  absl::Status status = client_->FetchAdapter({}).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("adapter version 4 has fingerprint"));

  blob = MakeBlob(4, 1'000'000);
  blob->bytes.resize(3'000'000);
  status = client_->FetchAdapter({}).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("has 3000000 bytes, its manifest says 4000000"));

  blob = MakeBlob(4, 1'000'000);
  blob->bytes.append("x");
  EXPECT_TRUE(absl::IsDataLoss(client_->FetchAdapter({}).status()));

  blob = MakeBlob(4, 1'000'000);
  blob->manifest.mutable_tensor(1)->set_shape(0, 7);
  EXPECT_TRUE(absl::IsInvalidArgument(client_->FetchAdapter({}).status()));
}

TEST(AdapterRestartTest, AServerThatIsRestartedInTheMiddleGoesOnOrBeginsAnew) {
  // A stream holds still after its first chunks: the client reads slowly only if it must, so the
  // version is large enough not to fit in the connection's buffers.
  for (const uint64_t version_after : {1u, 2u}) {
    std::shared_ptr<const AdapterBlob> blob = MakeBlob(1, 8'000'000);
    ShelfLearner learner;
    ASSERT_TRUE(learner.on_shelf.Publish(blob).ok());
    auto server = LearnerServer::Start("127.0.0.1:0", &learner);
    ASSERT_TRUE(server.ok());
    const std::string address = (*server)->address();
    auto client = LearnerClient::Connect(address, absl::Seconds(30), Quick());
    ASSERT_TRUE(client.ok());
    Fetched fetched = absl::UnknownError("nothing yet");
    std::thread caller([&] { fetched = (*client)->FetchAdapter({}); });
    while (learner.num_fetches == 0) std::this_thread::yield();
    (*server)->Shutdown(absl::ZeroDuration());
    if (version_after == 2) {
      blob = MakeBlob(2, 1'000'000);
      ASSERT_TRUE(learner.on_shelf.Publish(blob).ok());
    }
    server = LearnerServer::Start(address, &learner);
    ASSERT_TRUE(server.ok()) << server.status();
    caller.join();
    ASSERT_TRUE(fetched.ok()) << fetched.status();
    ASSERT_NE(*fetched, nullptr);
    // The stream may have been through before the server went down.
    if (learner.num_fetches > 1)
      EXPECT_EQ((*fetched)->manifest.version(), version_after);
    else
      EXPECT_EQ((*fetched)->manifest.version(), 1u);
  }
}

// ---- a server that fails as the test says ----

struct Stream {
  std::vector<proto::AdapterChunk> chunks;
  grpc::Status end;
};
const grpc::Status kGone(grpc::StatusCode::UNAVAILABLE, "gone");

class ScriptedServer final : public proto::Adapters::Service {
 public:
  using Script = std::function<Stream(int call, const proto::FetchAdapterRequest&)>;
  explicit ScriptedServer(Script script) : script_(std::move(script)) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  // Call by call; the last for all others.
  explicit ScriptedServer(std::vector<Stream> streams)
      : ScriptedServer([streams](int call, const proto::FetchAdapterRequest&) {
          return streams[std::min<size_t>(call, streams.size() - 1)];
        }) {}
  ~ScriptedServer() override { server_->Shutdown(std::chrono::system_clock::now()); }
  int num_calls() const { return num_calls_; }

  Fetched Fetch() const {
    auto client =
        LearnerClient::Connect(absl::StrCat("127.0.0.1:", port_), absl::Seconds(30), Quick());
    if (!client.ok()) return client.status();
    return (*client)->FetchAdapter({});
  }

  grpc::Status FetchAdapter(grpc::ServerContext*, const proto::FetchAdapterRequest* request,
                            grpc::ServerWriter<proto::AdapterChunk>* writer) override {
    const Stream stream = script_(num_calls_++, *request);
    for (const proto::AdapterChunk& chunk : stream.chunks) writer->Write(chunk);
    return stream.end;
  }

 private:
  const Script script_;
  std::atomic<int> num_calls_ = 0;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

std::vector<proto::AdapterChunk> ChunksOf(const AdapterBlob& blob, size_t chunk_bytes,
                                          size_t begin = 0) {
  std::vector<proto::AdapterChunk> chunks;
  for (size_t offset = begin; offset < blob.bytes.size() || offset == begin;
       offset += chunk_bytes) {
    proto::AdapterChunk& chunk = chunks.emplace_back();
    if (offset == begin) *chunk.mutable_manifest() = blob.manifest;
    chunk.set_offset_bytes(offset);
    chunk.set_data(blob.bytes.substr(offset, chunk_bytes));
    chunk.set_checksum(Checksum(chunk.data()));
  }
  return chunks;
}

// What the real server would send of `blob`, in chunks of 100 bytes.
std::vector<proto::AdapterChunk> Honest(const AdapterBlob& blob,
                                        const proto::FetchAdapterRequest& request) {
  const bool goes_on = request.resume_fingerprint() == blob.manifest.fingerprint();
  return ChunksOf(blob, 100, goes_on ? request.resume_bytes() : 0);
}

TEST(AdapterStreamTest, AStreamCutAnywhereGoesOnFromItsLastGoodByte) {
  const auto blob = MakeBlob(2, 500);
  std::minstd_rand random(1);
  for (int round = 0; round < 30; ++round) {
    uint64_t sent = 0;
    const ScriptedServer server([&](int call, const proto::FetchAdapterRequest& request) -> Stream {
      EXPECT_EQ(request.resume_bytes(), sent);
      std::vector<proto::AdapterChunk> chunks = Honest(*blob, request);
      if (call == 4) return {chunks, grpc::Status::OK};
      chunks.resize(random() % (chunks.size() + 1));
      for (const proto::AdapterChunk& chunk : chunks) sent += chunk.data().size();
      return {chunks, kGone};
    });
    const Fetched fetched = server.Fetch();
    ASSERT_TRUE(fetched.ok()) << fetched.status();
    ASSERT_NE(*fetched, nullptr);
    EXPECT_EQ((*fetched)->bytes, blob->bytes);
    EXPECT_EQ(server.num_calls(), 5);
  }
}

// What befalls the first stream's chunks; the second is honest and must bring only the rest.
void ExpectRecovery(const std::function<void(std::vector<proto::AdapterChunk>&)>& fault,
                    uint64_t good_bytes, const grpc::Status& end = grpc::Status::OK) {
  const auto blob = MakeBlob(2, 256);
  const ScriptedServer server([&](int call, const proto::FetchAdapterRequest& request) -> Stream {
    std::vector<proto::AdapterChunk> chunks = Honest(*blob, request);
    if (call > 0) {
      EXPECT_EQ(request.resume_bytes(), good_bytes);
      return {chunks, grpc::Status::OK};
    }
    fault(chunks);
    return {chunks, end};
  });
  const Fetched fetched = server.Fetch();
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_EQ((*fetched)->bytes, blob->bytes);
  EXPECT_EQ(server.num_calls(), 2);
}

TEST(AdapterStreamTest, ABadChunkIsNotTakenAndTheStreamGoesOnBeforeIt) {
  using Chunks = std::vector<proto::AdapterChunk>;
  ExpectRecovery([](Chunks& chunks) { (*chunks[3].mutable_data())[50] ^= 1; }, 300);
  ExpectRecovery([](Chunks& chunks) { chunks[0].set_checksum(7); }, 0);
  ExpectRecovery([](Chunks& chunks) { chunks[5].clear_checksum(); }, 500);
  ExpectRecovery([](Chunks& chunks) { std::swap(chunks[4], chunks[5]); }, 400);
  ExpectRecovery([](Chunks& chunks) { chunks.erase(chunks.begin() + 2); }, 200);
  ExpectRecovery([](Chunks& chunks) { chunks.insert(chunks.begin() + 2, chunks[1]); }, 200);
  ExpectRecovery([](Chunks& chunks) { chunks.erase(chunks.begin()); }, 0);
  ExpectRecovery([](Chunks& chunks) { chunks.resize(chunks.size() - 1); }, 1000);
  ExpectRecovery([](Chunks&) {}, 1024, kGone);
}

TEST(AdapterStreamTest, AVersionPublishedInTheMiddleIsFetchedFromItsStart) {
  const auto old_blob = MakeBlob(2, 256);
  const auto new_blob = MakeBlob(3, 300);
  const ScriptedServer server([&](int call, const proto::FetchAdapterRequest& request) -> Stream {
    std::vector<proto::AdapterChunk> chunks = Honest(call == 0 ? *old_blob : *new_blob, request);
    if (call < 2) chunks.resize(4);
    return {chunks, call < 2 ? kGone : grpc::Status::OK};
  });
  const Fetched fetched = server.Fetch();
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_EQ((*fetched)->manifest.version(), 3u);
  EXPECT_EQ((*fetched)->bytes, new_blob->bytes);
  EXPECT_EQ(server.num_calls(), 3);
}

TEST(AdapterStreamTest, WhatIsWrongTimeAndAgainIsAnErrorThatSaysWhat) {
  auto chunks = ChunksOf(*MakeBlob(2, 64), 100);
  const auto status_of = [](std::vector<proto::AdapterChunk> sent) {
    const ScriptedServer server({{std::move(sent), grpc::Status::OK}});
    const absl::Status status = server.Fetch().status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_LE(server.num_calls(), 4);
    return std::string(status.message());
  };
  EXPECT_THAT(status_of({chunks[1], chunks[2]}), HasSubstr("the first chunk has no manifest"));
  EXPECT_THAT(status_of({chunks[0], chunks[0]}), HasSubstr("a second manifest"));
  EXPECT_THAT(status_of({chunks[0], chunks[2]}),
              HasSubstr("a chunk of 56 bytes at 200, expected at 100 of 256"));
  (*chunks[0].mutable_data())[0] ^= 1;
  EXPECT_THAT(status_of(chunks), HasSubstr("the chunk at byte 0 has checksum"));
}

}  // namespace
}  // namespace wideberth::transport
