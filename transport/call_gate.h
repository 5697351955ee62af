// SPDX-License-Identifier: Apache-2.0
// What stands before every call of a server: the run's token, and which role may make which call.
// Private to transport, since it names types of the RPC library.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <optional>

#include "transport/credentials.h"

namespace wideberth::transport {

// With certificates TLS on both ends, without them connections of this machine only; either way
// calls without the right token, or by a role that has no business with them, end before their
// message is read: Unauthenticated or PermissionDenied with a sentence that names call and caller.
std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(const Credentials& own);

// The other end: `own` shown, the token with every call. Nobody is spoken to whose certificate is
// not `peer`'s.
std::shared_ptr<grpc::ChannelCredentials> MakeChannelCredentials(const Credentials& own,
                                                                 proto::Role peer,
                                                                 grpc::ChannelArguments* arguments);

// The role in the caller's certificate; unset without TLS.
std::optional<proto::Role> CallerRole(const grpc::AuthContext& context);

}  // namespace wideberth::transport
