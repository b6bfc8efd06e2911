// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "core/nn/layout.h"
#include "core/nn/plan.h"

namespace plinth::parallel {

/// The part of one of `size` ranks in `extent` rows: as even as whole rows can be, the first ranks
/// hold one more than the others.
struct RowShare {
    int64_t begin = 0;
    int64_t count = 0;
};
RowShare row_share(int64_t extent, int rank, int size);

/// Where rank `rank` of `size` finds its part of each parameter, as a model's plan says. Pure
/// arithmetic: with it alone a model can be declared and counted, not run.
class PlannedLayout : public core::nn::Layout {
  public:
    PlannedLayout(core::nn::Plan plan, int rank, int size);

    /// A module without a row in the plan, or a size that is not divided, is an internal error: the
    /// user's configuration was checked, with key names, before.
    void place(core::Parameter& parameter, const std::string& path) const override;

    int rank() const { return rank_; }
    int size() const { return size_; }

  protected:
    const core::nn::PlanRow& row_of(const std::string& path) const;

  private:
    core::nn::Plan plan_;
    int rank_;
    int size_;
};

}  // namespace plinth::parallel
