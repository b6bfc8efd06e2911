// SPDX-License-Identifier: Apache-2.0
#include "core/autograd/scope.h"

namespace plinth::core {

thread_local Scope* Scope::current_ = nullptr;

Scope& Scope::current() {
    CHECK(current_ != nullptr, "an operation was called outside of any scope");
    return *current_;
}

}  // namespace plinth::core
