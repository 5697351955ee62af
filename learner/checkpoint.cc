// SPDX-License-Identifier: Apache-2.0
#include "learner/checkpoint.h"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <stdio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/crash_point.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text_proto.h"
#include "learner/trained_adapter.h"
#include "model/catch_torch.h"
#include "model/safetensors.h"

namespace wideberth::learner {
namespace {

namespace fs = std::filesystem;
using ::at::Tensor;

constexpr char kManifest[] = "MANIFEST.txtpb";
constexpr char kOptimizer[] = "optimizer.safetensors";
constexpr char kState[] = "state.txtpb";
constexpr const char* kFiles[] = {"adapter_model.safetensors", "adapter_config.json", kOptimizer,
                                  kState, "config.txtpb"};

absl::Status WriteOptimizer(const std::string& path, const AdamW& optimizer) {
  std::vector<Tensor> host;
  std::vector<model::TensorToWrite> tensors;
  for (const auto& [name, tensor] : optimizer.NamedState()) {
    host.push_back(tensor.detach().to(at::kCPU).contiguous());
    const Tensor& values = host.back();
    tensors.push_back(
        {name, values.scalar_type() == at::kDouble ? "F64" : "F32", values.sizes().vec(),
         absl::string_view(static_cast<const char*>(values.data_ptr()), values.nbytes())});
  }
  return WriteFileAtomically(path, model::SerializeSafetensors(tensors, {{"format", "pt"}}));
}

absl::StatusOr<std::vector<std::pair<std::string, Tensor>>> ReadOptimizer(const std::string& path) {
  WB_ASSIGN_OR_RETURN(const std::shared_ptr<const model::WeightFiles> files,
                      model::WeightFiles::OpenFile(path));
  std::vector<std::pair<std::string, Tensor>> state;
  for (const auto& [name, stored] : files->tensors()) {
    if (stored.dtype != "F32" && stored.dtype != "F64") {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": tensor \"", name, "\" is ", stored.dtype, ", expected F32 or F64"));
    }
    Tensor values = at::empty(stored.shape, stored.dtype == "F64" ? at::kDouble : at::kFloat);
    std::memcpy(values.data_ptr(), stored.data, values.nbytes());
    state.emplace_back(name, std::move(values));
  }
  return state;
}

absl::Status WriteManifest(const std::string& folder) {
  proto::CheckpointManifest manifest;
  for (const char* name : kFiles) {
    WB_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(absl::StrCat(folder, "/", name)));
    proto::CheckpointFile* const file = manifest.add_file();
    file->set_name(name);
    file->set_num_bytes(static_cast<int64_t>(bytes.size()));
    file->set_fingerprint(Fingerprint(bytes));
  }
  return WriteFileAtomically(absl::StrCat(folder, "/", kManifest), TextProto(manifest));
}

absl::Status WriteFiles(const std::string& folder, const proto::TrainingState& state,
                        const model::Adapter& adapter, const AdamW& optimizer,
                        const proto::RunConfig& config) {
  WB_RETURN_IF_ERROR(MakeDirectories(folder));
  WB_RETURN_IF_ERROR(adapter.Save(folder, config.policy().model().path()));
  CrashPoint("checkpoint.adapter");
  WB_RETURN_IF_ERROR(WriteOptimizer(absl::StrCat(folder, "/", kOptimizer), optimizer));
  CrashPoint("checkpoint.optimizer");
  WB_RETURN_IF_ERROR(WriteFileAtomically(absl::StrCat(folder, "/", kState), TextProto(state)));
  WB_RETURN_IF_ERROR(WriteFileAtomically(absl::StrCat(folder, "/config.txtpb"), TextProto(config)));
  WB_RETURN_IF_ERROR(WriteManifest(folder));
  CrashPoint("checkpoint.manifest");
  return SyncFolder(folder);
}

// Every file is there, as long as the manifest says and with the same bytes.
absl::Status CheckWhole(const std::string& folder) {
  proto::CheckpointManifest manifest;
  WB_RETURN_IF_ERROR(MergeTextProtoFile(absl::StrCat(folder, "/", kManifest), &manifest));
  std::vector<std::string> names;
  for (const proto::CheckpointFile& file : manifest.file()) {
    const std::string path = absl::StrCat(folder, "/", file.name());
    WB_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
    if (static_cast<int64_t>(bytes.size()) != file.num_bytes()) {
      return absl::DataLossError(
          absl::StrCat(path, ": has ", bytes.size(), " bytes, expected ", file.num_bytes()));
    }
    if (const std::string found = Fingerprint(bytes); found != file.fingerprint()) {
      return absl::DataLossError(
          absl::StrCat(path, ": has xxh3-128 ", found, ", expected ", file.fingerprint()));
    }
    names.push_back(file.name());
  }
  for (const char* name : kFiles) {
    if (std::find(names.begin(), names.end(), name) == names.end())
      return absl::DataLossError(absl::StrCat(folder, "/", kManifest, ": does not name ", name));
  }
  return absl::OkStatus();
}

// Newest first; what is being written is none.
std::vector<int64_t> StepsIn(const std::string& folder) {
  std::vector<int64_t> steps;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    absl::string_view number(name);
    int64_t step = 0;
    if (absl::ConsumePrefix(&number, "step-") && absl::SimpleAtoi(number, &step))
      steps.push_back(step);
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

absl::Status PutInPlace(const std::string& partial, const std::string& path) {
  std::error_code error;
  if (fs::exists(path, error)) {
    // A step that was trained again after a crash: the two change places in one operation.
    if (::renameat2(AT_FDCWD, partial.c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE) == 0) {
      fs::remove_all(partial, error);
      return absl::OkStatus();
    }
    fs::remove_all(path, error);  // A file system that cannot exchange.
  }
  if (::rename(partial.c_str(), path.c_str()) == 0) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat(path, ": cannot rename into place: ", std::strerror(errno)));
}

}  // namespace

absl::Status CheckpointStore::Write(const proto::TrainingState& state,
                                    const model::Adapter& adapter, const AdamW& optimizer,
                                    const proto::RunConfig& config) const {
  const std::string path = absl::StrCat(folder_, "/step-", state.step());
  const std::string partial = path + ".partial";
  std::error_code ignored;
  fs::remove_all(partial, ignored);
  CrashPoint("checkpoint.begin");
  absl::Status status = model::CatchTorch(absl::StrCat("checkpoint ", path), [&] {
    return WriteFiles(partial, state, adapter, optimizer, config);
  });
  if (status.ok()) status = PutInPlace(partial, path);
  if (!status.ok()) {
    fs::remove_all(partial, ignored);
    return status;
  }
  CrashPoint("checkpoint.renamed");
  WB_RETURN_IF_ERROR(SyncFolder(folder_));
  const std::vector<int64_t> steps = StepsIn(folder_);
  for (size_t i = static_cast<size_t>(std::max(1, keep_last_)); i < steps.size(); ++i) {
    fs::remove_all(absl::StrCat(folder_, "/step-", steps[i]), ignored);
  }
  CrashPoint("checkpoint.end");
  return absl::OkStatus();
}

absl::StatusOr<CheckpointStore::Loaded> CheckpointStore::Load(const std::string& path,
                                                              const model::CausalLm& model,
                                                              const Fit& fit) const {
  Loaded loaded;
  loaded.path = path;
  WB_RETURN_IF_ERROR(MergeTextProtoFile(absl::StrCat(path, "/", kState), &loaded.state));
  if (loaded.state.fingerprints().base() != model.fingerprint()) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, ": was trained on base weights with fingerprint ", loaded.state.fingerprints().base(),
        ", policy.model.path has ", model.fingerprint()));
  }
  if (loaded.state.seed() != fit.seed) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": belongs to a run with seed ",
                                                      loaded.state.seed(),
                                                      ", the configuration says ", fit.seed));
  }
  if (loaded.state.fingerprints().start() != fit.start) {
    const auto named = [](const std::string& fingerprint) {
      return fingerprint.empty() ? std::string("no adapter")
                                 : absl::StrCat("an adapter with fingerprint ", fingerprint);
    };
    return absl::FailedPreconditionError(absl::StrCat(path, ": belongs to a run that started from ",
                                                      named(loaded.state.fingerprints().start()),
                                                      ", policy.adapter gives ", named(fit.start)));
  }
  const at::ScalarType dtype = MasterType(model);
  WB_ASSIGN_OR_RETURN(loaded.adapter,
                      model::Adapter::Load(path, model.spec(), dtype, model.device()));
  // Only the task knows whether there is a score head; the optimiser's tensors are checked by name.
  if (!fit.all_weights) {
    WB_ASSIGN_OR_RETURN(
        const std::shared_ptr<model::Adapter> wanted,
        model::Adapter::Initialize(model.spec(), fit.lora, /*seed=*/0, dtype, model.device()));
    WB_RETURN_IF_ERROR(CheckSameShape(path, *loaded.adapter, *wanted));
  } else if (loaded.adapter->weights() == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": holds LoRA pairs, policy.all_weights expects all weights"));
  }
  WB_ASSIGN_OR_RETURN(loaded.optimizer, ReadOptimizer(absl::StrCat(path, "/", kOptimizer)));
  return loaded;
}

absl::StatusOr<absl::optional<CheckpointStore::Loaded>> CheckpointStore::LoadNewest(
    const model::CausalLm& model, const Fit& fit) const {
  for (const int64_t step : StepsIn(folder_)) {
    const std::string path = absl::StrCat(folder_, "/step-", step);
    if (const absl::Status whole = CheckWhole(path); !whole.ok()) {
      WB_LOG(WARNING) << "checkpoint " << path
                      << " is damaged and passed over: " << whole.message();
      continue;
    }
    absl::StatusOr<Loaded> loaded = model::CatchTorch(absl::StrCat("checkpoint ", path),
                                                      [&] { return Load(path, model, fit); });
    if (!loaded.ok()) return loaded.status();
    return absl::optional<Loaded>(*std::move(loaded));
  }
  return absl::optional<Loaded>();
}

}  // namespace wideberth::learner
