// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <utility>

#include "core/ranks.h"
#include "parallel/comm/communicator.h"

namespace plinth::parallel {

/// The ranks of a communicator, as checkpoints, metrics and norms see them.
class RanksOf final : public core::Ranks {
  public:
    /// The communicator must outlive it.
    explicit RanksOf(Communicator& communicator) : communicator_(communicator) {}

    int rank() const override { return communicator_.rank(); }
    int size() const override { return communicator_.size(); }
    void barrier() override { communicator_.barrier("barrier"); }
    std::string broadcast(const std::string& bytes, int root) override;
    std::vector<std::string> gather(const std::string& bytes, int root) override;
    void sum(std::span<int64_t> values) override {
        communicator_.all_reduce("sum", values, Reduce::sum);
    }
    std::unique_ptr<core::Ranks> split(int color) override;

  private:
    explicit RanksOf(std::unique_ptr<Communicator> part)
        : part_(std::move(part)), communicator_(*part_) {}

    std::unique_ptr<Communicator> part_;  ///< null: another's
    Communicator& communicator_;
};

}  // namespace plinth::parallel
