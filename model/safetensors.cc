// SPDX-License-Identifier: Apache-2.0
#include "model/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/status.h"

namespace wideberth::model {
namespace {

using Json = nlohmann::json;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // As in the reference implementation.

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

struct HeaderEntry {
  std::string name;
  StoredTensor tensor;
  uint64_t begin, end;
};

absl::StatusOr<std::vector<int64_t>> Extents(const Json& json, const std::string& path,
                                             const std::string& name, absl::string_view field) {
  const auto bad = [&](const Json& found) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": tensor \"", name, "\": ", field, " has ",
        found.is_number() ? found.dump() : found.type_name(), ", expected whole numbers from 0"));
  };
  if (!json.is_array()) return bad(json);
  std::vector<int64_t> extents;
  for (const Json& value : json) {
    extents.push_back(WholeNumber(value).value_or(-1));
    if (extents.back() < 0) return bad(value);
  }
  return extents;
}

absl::StatusOr<HeaderEntry> ParseEntry(const std::string& path, const std::string& name,
                                       const Json& json, uint64_t data_bytes) {
  auto bad = [&](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": tensor \"", name, "\": ", what));
  };
  HeaderEntry entry{name, {}, 0, 0};
  try {
    entry.tensor.dtype = json.at("dtype").get<std::string>();
    WB_ASSIGN_OR_RETURN(entry.tensor.shape, Extents(json.at("shape"), path, name, "shape"));
    WB_ASSIGN_OR_RETURN(const std::vector<int64_t> offsets,
                        Extents(json.at("data_offsets"), path, name, "data_offsets"));
    if (offsets.size() != 2) return bad("data_offsets has not two entries");
    entry.begin = static_cast<uint64_t>(offsets[0]);
    entry.end = static_cast<uint64_t>(offsets[1]);
  } catch (const Json::exception&) {
    return bad("header entry is not {dtype, shape, data_offsets}");
  }
  const int64_t width = DTypeBytes(entry.tensor.dtype);
  if (width == 0) return bad(absl::StrCat("dtype \"", entry.tensor.dtype, "\" is unknown"));
  if (entry.begin > entry.end || entry.end > data_bytes) {
    return bad(absl::StrCat("data_offsets [", entry.begin, ", ", entry.end,
                            "] do not fit the file's ", data_bytes,
                            " bytes of data (is the file truncated?)"));
  }
  unsigned __int128 expected = static_cast<unsigned __int128>(width);
  for (int64_t extent : entry.tensor.shape) {
    expected *= static_cast<unsigned __int128>(extent);
    if (expected > data_bytes) break;
  }
  if (expected != entry.end - entry.begin) {
    return bad(absl::StrCat("shape ", ShapeText(entry.tensor.shape), " of ", entry.tensor.dtype,
                            " does not take the ", entry.end - entry.begin,
                            " bytes of its data_offsets"));
  }
  entry.tensor.num_bytes = static_cast<int64_t>(entry.end - entry.begin);
  entry.tensor.file = path;
  return entry;
}

absl::Status CheckContiguous(const std::string& path, std::vector<HeaderEntry>& entries,
                             uint64_t data_bytes) {
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  uint64_t at = 0;
  for (const HeaderEntry& entry : entries) {
    if (entry.begin != at) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": tensor \"", entry.name,
                                                     "\" starts at byte ", entry.begin,
                                                     ", expected ", at, " (hole or overlap)"));
    }
    at = entry.end;
  }
  if (at == data_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(path, ": tensors end at byte ", at,
                                                 " of the data, but the file has ", data_bytes));
}

absl::StatusOr<Json> ParseJsonFile(const std::string& path) {
  WB_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  WB_ASSIGN_OR_RETURN(Json json, ParseJson(text, path));
  if (!json.is_object())
    return absl::InvalidArgumentError(absl::StrCat(path, ": is not a JSON object"));
  return json;
}

}  // namespace

int64_t DTypeBytes(absl::string_view dtype) {
  if (dtype == "F64" || dtype == "I64" || dtype == "U64") return 8;
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  if (dtype == "F16" || dtype == "BF16" || dtype == "I16" || dtype == "U16") return 2;
  if (dtype == "I8" || dtype == "U8" || dtype == "BOOL" || dtype == "F8_E4M3" || dtype == "F8_E5M2")
    return 1;
  return 0;
}

absl::Status WeightFiles::Map(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return absl::NotFoundError(
        absl::StrCat(path, ": cannot open the weights: ", std::strerror(errno)));
  struct stat info {};
  if (::fstat(fd, &info) != 0 || info.st_size < 8) {
    ::close(fd);
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": has ", info.st_size, " bytes, a safetensors file has at least 8"));
  }
  const auto size = static_cast<uint64_t>(info.st_size);
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
  ::close(fd);
  if (address == MAP_FAILED)
    return absl::UnavailableError(absl::StrCat(path, ": cannot map: ", std::strerror(errno)));
  mappings_.push_back({address, size});
  const char* bytes = static_cast<const char*>(address);
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i)
    header_bytes = header_bytes << 8 | static_cast<unsigned char>(bytes[i]);
  if (header_bytes > kMaxHeaderBytes || header_bytes > size - 8) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": header of ", header_bytes,
                                                   " bytes does not fit the file's ", size,
                                                   " bytes (truncated, or no safetensors file)"));
  }
  const Json header = Json::parse(bytes + 8, bytes + 8 + header_bytes, nullptr, false);
  if (!header.is_object())
    return absl::InvalidArgumentError(absl::StrCat(path, ": the header is not a JSON object"));
  const uint64_t data_bytes = size - 8 - header_bytes;
  std::vector<HeaderEntry> entries;
  for (const auto& [name, json] : header.items()) {
    if (name == "__metadata__") continue;
    WB_ASSIGN_OR_RETURN(HeaderEntry entry, ParseEntry(path, name, json, data_bytes));
    entry.tensor.data = bytes + 8 + header_bytes + entry.begin;
    entries.push_back(std::move(entry));
  }
  WB_RETURN_IF_ERROR(CheckContiguous(path, entries, data_bytes));
  for (HeaderEntry& entry : entries) {
    if (!tensors_.emplace(entry.name, std::move(entry.tensor)).second) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": tensor \"", entry.name, "\" stands in ", tensors_[entry.name].file, " as well"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const WeightFiles>> WeightFiles::OpenFile(absl::string_view path) {
  std::shared_ptr<WeightFiles> files(new WeightFiles);
  files->source_ = std::string(path);
  WB_RETURN_IF_ERROR(files->Map(files->source_));
  return files;
}

absl::StatusOr<std::shared_ptr<const WeightFiles>> WeightFiles::OpenFolder(
    absl::string_view folder) {
  const std::string single = absl::StrCat(folder, "/model.safetensors"),
                    index = absl::StrCat(single, ".index.json");
  if (::access(index.c_str(), F_OK) != 0) {
    if (::access(single.c_str(), F_OK) != 0) {
      return absl::NotFoundError(absl::StrCat(
          folder, ": holds neither model.safetensors nor model.safetensors.index.json"));
    }
    return OpenFile(single);
  }
  WB_ASSIGN_OR_RETURN(const Json json, ParseJsonFile(index));
  const auto map = json.find("weight_map");
  if (map == json.end() || !map->is_object())
    return absl::InvalidArgumentError(absl::StrCat(index, ": field \"weight_map\" is missing"));
  std::shared_ptr<WeightFiles> files(new WeightFiles);
  files->source_ = index;
  std::map<std::string, std::string> wanted;
  std::vector<std::string> shards;
  for (const auto& [name, file] : map->items()) {
    if (!file.is_string() || file.get<std::string>().find('/') != std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat(index, ": weight_map[\"", name, "\"] is ",
                                                     file.dump(), ", expected a file name"));
    }
    wanted[name] = absl::StrCat(folder, "/", file.get<std::string>());
    shards.push_back(wanted[name]);
  }
  std::sort(shards.begin(), shards.end());
  shards.erase(std::unique(shards.begin(), shards.end()), shards.end());
  for (const std::string& shard : shards) WB_RETURN_IF_ERROR(files->Map(shard));
  for (const auto& [name, path] : wanted) {
    const auto found = files->tensors_.find(name);
    if (found == files->tensors_.end() || found->second.file != path) {
      return absl::InvalidArgumentError(absl::StrCat(index, ": tensor \"", name, "\" is not in ",
                                                     path, ", where the index says it is"));
    }
  }
  return files;
}

absl::StatusOr<StoredTensor> WeightFiles::Find(absl::string_view name,
                                               const std::vector<int64_t>& shape) const {
  const auto it = tensors_.find(std::string(name));
  if (it == tensors_.end()) {
    return absl::NotFoundError(absl::StrCat(
        source_, ": tensor \"", name, "\" is missing, expected with shape ", ShapeText(shape)));
  }
  if (it->second.shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat(it->second.file, ": tensor \"", name,
                                                   "\" has shape ", ShapeText(it->second.shape),
                                                   ", expected ", ShapeText(shape)));
  }
  return it->second;
}

std::string WeightFiles::Fingerprint() const {
  Fingerprinter fingerprinter;
  for (const auto& [name, tensor] : tensors_) {
    fingerprinter.Update(absl::StrCat(name, "|", tensor.dtype, "|", ShapeText(tensor.shape), "|"));
    fingerprinter.Update(absl::string_view(tensor.data, static_cast<size_t>(tensor.num_bytes)));
  }
  return fingerprinter.Hex();
}

WeightFiles::~WeightFiles() {
  for (const Mapping& mapping : mappings_) ::munmap(mapping.address, mapping.size);
}

std::string SerializeSafetensors(const std::vector<TensorToWrite>& tensors,
                                 const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header;
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const TensorToWrite& tensor : tensors) {
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + tensor.bytes.size()}}};
    offset += tensor.bytes.size();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string bytes;
  bytes.reserve(8 + text.size() + offset);
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(text.size() >> (8 * i) & 0xff));
  bytes += text;
  for (const TensorToWrite& tensor : tensors)
    bytes.append(tensor.bytes.data(), tensor.bytes.size());
  return bytes;
}

}  // namespace wideberth::model
