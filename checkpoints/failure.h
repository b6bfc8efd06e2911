// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <exception>
#include <string>

#include "core/ranks.h"
#include "kernels/runtime/error.h"

/// One rank's error becomes every rank's error, so that no rank waits for one that gave up.
namespace plinth::checkpoints {

struct Failure {
    bool failed = false;
    ErrorKind kind = ErrorKind::internal;
    bool refused = false;  ///< `Refused`: no older checkpoint may stand in
    std::string message;
};

/// What the exception being handled says. Call it in a catch block.
Failure current_failure();

/// Collective. The failure of the lowest rank that has one, its message headed by "rank N: " when
/// there are several ranks; not failed when all went well.
Failure agree(core::Ranks& ranks, const Failure& mine);

/// Throws what `failure` holds; does nothing if it did not fail.
void rethrow(const Failure& failure);

}  // namespace plinth::checkpoints
