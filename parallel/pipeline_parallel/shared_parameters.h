// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "core/optim/gradients.h"
#include "kernels/runtime/stream.h"
#include "parallel/comm/communicator.h"

namespace plinth::parallel {

/// Parameters that two stages of a pipeline hold alike, because parts on both use them: a token
/// table that is the embedding on the first stage and the head on the last. Each stage has the
/// total gradient of its own use; the sum of both, in the order of the uses, goes to both, so that
/// weights and optimizer states stay identical without another exchange.
class SharedParameters {
  public:
    /// Collective over the stages. `mine` are all parameters of this stage; they and the
    /// communicator must outlive it.
    SharedParameters(std::span<core::Parameter* const> mine, Communicator& stages,
                     CachingAllocator& allocator, Stream& stream);

    bool contains(const core::Parameter& parameter) const { return shared_.contains(&parameter); }
    /// True on one of the stages that hold the parameter: that one counts it in sums over ranks.
    bool counts(const core::Parameter& parameter) const {
        return is_first_ || !contains(parameter);
    }
    const std::vector<core::Parameter*>& parameters() const { return order_; }
    /// The stages that hold them; only where there are any.
    Communicator& holders() const { return *holders_; }

    /// Collective over the holders. Adds the other stage's gradients to those of the shared
    /// parameters, in place; what lies between must be cut alike on both.
    void add(std::span<const core::optim::ParameterGradient> gradients);

    double seconds_waited() const { return holders_ ? holders_->seconds_waited() : 0.0; }

  private:
    std::unique_ptr<Communicator> holders_;
    std::set<const core::Parameter*> shared_;
    std::vector<core::Parameter*> order_;
    bool is_first_ = true;
    CachingAllocator& allocator_;
    Stream& stream_;
};

}  // namespace plinth::parallel
