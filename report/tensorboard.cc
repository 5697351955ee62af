// SPDX-License-Identifier: Apache-2.0
// Field numbers are those of tensorboard/compat/proto/{event,summary}.proto.
#include "report/tensorboard.h"

#include <fcntl.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/wire_format_lite.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/log.h"

namespace wideberth::report {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedOutputStream;

constexpr int kEventWallTime = 1, kEventStep = 2, kEventFileVersion = 3, kEventSummary = 5,
              kEventSessionLog = 7;
constexpr int kSummaryValue = 1, kValueTag = 1, kValueSimple = 2, kSessionStatus = 1;
constexpr int kSessionStart = 1;

std::array<uint32_t, 256> MakeTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < table.size(); ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78u : 0);
    table[i] = crc;
  }
  return table;
}

// A CRC of bytes that contain CRCs would be weak; TFRecord stores it rotated and shifted.
uint32_t Masked(uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xa282ead8u; }

template <typename T>
void AppendLittleEndian(T value, std::string* out) {
  for (size_t i = 0; i < sizeof(T); ++i)
    out->push_back(static_cast<char>((static_cast<uint64_t>(value) >> (8 * i)) & 0xff));
}

std::string Message(const std::function<void(CodedOutputStream*)>& write) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  CodedOutputStream coded(&stream);
  write(&coded);
  coded.Trim();
  return bytes;
}

std::string Event(absl::Time now, int64_t step,
                  const std::function<void(CodedOutputStream*)>& what) {
  return Message([&](CodedOutputStream* out) {
    WireFormatLite::WriteDouble(kEventWallTime, absl::ToDoubleSeconds(now - absl::UnixEpoch()),
                                out);
    if (step != 0) WireFormatLite::WriteInt64(kEventStep, step, out);
    what(out);
  });
}

std::string Scalar(const std::string& tag, double value) {
  return Message([&](CodedOutputStream* out) {
    WireFormatLite::WriteString(kValueTag, tag, out);
    WireFormatLite::WriteFloat(kValueSimple, static_cast<float>(value), out);
  });
}

void Flatten(const nlohmann::ordered_json& value, const std::string& name,
             std::vector<std::pair<std::string, double>>* scalars) {
  if (value.is_object()) {
    for (const auto& [key, inner] : value.items())
      Flatten(inner, name.empty() ? key : absl::StrCat(name, "/", key), scalars);
  } else if (value.is_number() && std::isfinite(value.get<double>()) && name != "step") {
    scalars->emplace_back(name, value.get<double>());
  }
}

std::string HostName() {
  char name[256] = {};
  return ::gethostname(name, sizeof(name) - 1) == 0 && name[0] != '\0' ? name : "localhost";
}

}  // namespace

uint32_t Crc32c(absl::string_view bytes) {
  static const std::array<uint32_t, 256> table = MakeTable();
  uint32_t crc = 0xffffffffu;
  for (const char byte : bytes)
    crc = (crc >> 8) ^ table[(crc ^ static_cast<unsigned char>(byte)) & 0xff];
  return ~crc;
}

std::string TfRecord(absl::string_view bytes) {
  std::string record;
  AppendLittleEndian<uint64_t>(bytes.size(), &record);
  AppendLittleEndian<uint32_t>(Masked(Crc32c(record)), &record);
  absl::StrAppend(&record, bytes);
  AppendLittleEndian<uint32_t>(Masked(Crc32c(bytes)), &record);
  return record;
}

std::vector<std::pair<std::string, double>> ScalarsOf(absl::string_view json_line) {
  std::vector<std::pair<std::string, double>> scalars;
  const auto json = nlohmann::ordered_json::parse(json_line.begin(), json_line.end(), nullptr,
                                                  /*allow_exceptions=*/false);
  if (json.is_object()) Flatten(json, "", &scalars);
  return scalars;
}

TensorBoardWriter::TensorBoardWriter(absl::string_view folder, absl::Time now) {
  if (const absl::Status made = MakeDirectories(folder); !made.ok()) {
    warned_ = true;
    WB_LOG(WARNING) << made.message() << "; the run goes on without TensorBoard events";
    return;
  }
  const std::string stem = absl::StrCat(folder, "/events.out.tfevents.", absl::ToUnixSeconds(now),
                                        ".", HostName(), ".", ::getpid(), ".");
  // Several writers of one process and second, as in tests, each take the next number.
  for (int number = 0; fd_ < 0 && number < 1000; ++number) {
    path_ = absl::StrCat(stem, number);
    fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0644);
    if (fd_ < 0 && errno != EEXIST) break;
  }
  if (fd_ < 0) Warn("cannot create", errno);
  Append(Event(now, 0, [](CodedOutputStream* out) {
    WireFormatLite::WriteString(kEventFileVersion, "brain.Event:2", out);
  }));
}

TensorBoardWriter::~TensorBoardWriter() {
  if (fd_ >= 0) ::close(fd_);
}

void TensorBoardWriter::Add(int64_t step,
                            const std::vector<std::pair<std::string, double>>& scalars,
                            absl::Time now) {
  const std::string summary = Message([&](CodedOutputStream* out) {
    for (const auto& [tag, value] : scalars)
      WireFormatLite::WriteBytes(kSummaryValue, Scalar(tag, value), out);
  });
  Append(Event(now, step, [&](CodedOutputStream* out) {
    WireFormatLite::WriteBytes(kEventSummary, summary, out);
  }));
}

void TensorBoardWriter::RestartAt(int64_t step, absl::Time now) {
  const std::string session = Message([](CodedOutputStream* out) {
    WireFormatLite::WriteInt32(kSessionStatus, kSessionStart, out);
  });
  Append(Event(now, step, [&](CodedOutputStream* out) {
    WireFormatLite::WriteBytes(kEventSessionLog, session, out);
  }));
}

void TensorBoardWriter::Append(absl::string_view event) {
  if (fd_ < 0) return;
  struct stat before;
  if (::fstat(fd_, &before) != 0) return Warn("cannot be read", errno);
  const std::string record = TfRecord(event);
  const ssize_t written = ::write(fd_, record.data(), record.size());
  if (written == static_cast<ssize_t>(record.size())) return;
  const int error = written < 0 ? errno : ENOSPC;
  // Half a record would hide everything after it.
  if (written > 0 && ::ftruncate(fd_, before.st_size) != 0) {
    ::close(fd_);
    fd_ = -1;
  }
  Warn("cannot write", error);
}

void TensorBoardWriter::Warn(absl::string_view what, int error) {
  if (warned_) return;
  warned_ = true;
  WB_LOG(WARNING) << path_ << ": " << what << ": " << std::strerror(error)
                  << "; the run goes on, its TensorBoard events may be incomplete";
}

}  // namespace wideberth::report
