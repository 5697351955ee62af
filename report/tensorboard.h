// SPDX-License-Identifier: Apache-2.0
// A run's metrics as TensorBoard event files: TFRecord frames of Event messages, written without
// TensorFlow. The learner appends one event a step; `tensorboard --logdir RUN/tensorboard` reads.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace wideberth::report {

// CRC-32C (Castagnoli).
uint32_t Crc32c(absl::string_view bytes);

// A record as it stands in a file: length, masked CRC of the length, bytes, masked CRC of the
// bytes; numbers little-endian.
std::string TfRecord(absl::string_view bytes);

// Every finite number of a JSON object, nested names joined by "/", in order; not "step". Empty
// where it is no object.
std::vector<std::pair<std::string, double>> ScalarsOf(absl::string_view json_line);

// Appends to a file of its own, so that every process start has one and none is ever rewritten.
// Not thread-safe. TensorBoard shows a run, it does not carry one: what cannot be written (a full
// disk) is logged once and left out, the file then still ends with a whole record.
class TensorBoardWriter final {
 public:
  // Makes `folder` and in it events.out.tfevents.<seconds>.<host>.<process>.<number>.
  TensorBoardWriter(absl::string_view folder, absl::Time now);
  ~TensorBoardWriter();
  TensorBoardWriter(const TensorBoardWriter&) = delete;
  TensorBoardWriter& operator=(const TensorBoardWriter&) = delete;

  // One event; values are float32 there. On disk, as far as the system knows, when it returns.
  void Add(int64_t step, const std::vector<std::pair<std::string, double>>& scalars,
           absl::Time now);
  // What earlier files have of `step` and later steps is void.
  void RestartAt(int64_t step, absl::Time now);

  const std::string& path() const { return path_; }

 private:
  void Append(absl::string_view event);
  void Warn(absl::string_view what, int error);

  std::string path_;
  int fd_ = -1;
  bool warned_ = false;
};

}  // namespace wideberth::report
