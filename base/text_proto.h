// SPDX-License-Identifier: Apache-2.0
// Protobuf text files as configuration: strict parsing with file:line:column, the nearest valid
// field name, and overlays.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace google::protobuf {
class Message;
}

namespace wideberth {

// Merges `text` over `message` (scalars replace, repeated fields append). `origin` names the source
// in errors, e.g. the path or
// "--override". InvalidArgument: "configs/a.txtpb:14:3: no field named "groupsize" in
// wideberth.proto.LearnerConfig; nearest is "group_size"".
absl::Status MergeTextProto(absl::string_view text, absl::string_view origin,
                            google::protobuf::Message* message);
absl::Status MergeTextProtoFile(absl::string_view path, google::protobuf::Message* message);

// The message as text, one field a line.
std::string TextProto(const google::protobuf::Message& message);

}  // namespace wideberth
