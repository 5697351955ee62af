// SPDX-License-Identifier: Apache-2.0
// The Adapters service itself, for the servers of this folder. Private to transport, since it names
// types of the RPC library.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>

#include "transport/adapter_service.h"

namespace wideberth::transport {

// `offer` must outlive the server it is registered with.
std::unique_ptr<grpc::Service> MakeAdaptersService(AdapterOffer* offer);

}  // namespace wideberth::transport
