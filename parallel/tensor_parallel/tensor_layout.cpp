// SPDX-License-Identifier: Apache-2.0
#include "parallel/tensor_parallel/tensor_layout.h"

#include "core/autograd/scope.h"
#include "parallel/collective_ops/group_ops.h"
#include "parallel/comm/view_bytes.h"

namespace plinth::parallel {

using core::Tensor;
using core::TokenSlice;
using core::nn::Ends;
using core::nn::Placement;

namespace {

/// The module's path is the label of its collectives.
class GroupEnds : public Ends {
  public:
    GroupEnds(Communicator& group, std::string path) : group_(group), path_(std::move(path)) {}

  protected:
    /// True where tokens are shared.
    bool shares(const TokenSlice& tokens) const {
        CHECK(!tokens.is_whole() || core::Scope::current().tape() == nullptr,
              "{}: tensor parallel ranks train on slices of the tokens", path_);
        return !tokens.is_whole();
    }
    std::string label(const char* what) const { return path_ + " " + what; }

    Tensor entered(const Tensor& x, const TokenSlice& tokens) const {
        return shares(tokens) ? gather_tokens(x, group_, label("tokens"))
                              : copy_to_group(x, group_, label("copy"));
    }
    Tensor summed(const Tensor& y, const TokenSlice& tokens) const {
        return shares(tokens) ? scatter_sum_tokens(y, group_, label("sum"))
                              : sum_over_group(y, group_, label("sum"));
    }

    Communicator& group_;
    std::string path_;
};

class ColumnEnds final : public GroupEnds {
  public:
    using GroupEnds::GroupEnds;
    Tensor enter(const Tensor& x, const TokenSlice& tokens) const override {
        return entered(x, tokens);
    }
    Tensor leave(const Tensor& y, const TokenSlice&) const override { return y; }
    bool leaves_as_is() const override { return true; }
};

/// Of row products and tables.
class SumEnds final : public GroupEnds {
  public:
    using GroupEnds::GroupEnds;
    Tensor enter(const Tensor& x, const TokenSlice&) const override { return x; }
    bool enters_as_is() const override { return true; }
    Tensor leave(const Tensor& y, const TokenSlice& tokens) const override {
        return summed(y, tokens);
    }
};

class HeadEnds final : public GroupEnds, public core::ops::ColumnRanks {
  public:
    /// `outputs` of all ranks.
    HeadEnds(Communicator& group, std::string path, int64_t outputs)
        : GroupEnds(group, std::move(path)) {
        for (int r = 0; r < group.size(); ++r)
            columns_.push_back(row_share(outputs, r, group.size()).count);
    }
    Tensor enter(const Tensor& x, const TokenSlice& tokens) const override {
        return entered(x, tokens);
    }
    Tensor leave(const Tensor& y, const TokenSlice&) const override {
        return gather_columns(y, columns_, group_, label("logits"));
    }
    const core::ops::ColumnRanks* columns() const override { return this; }
    Tensor gather(const Tensor& mine) const override {
        Tensor parts = core::Scope::current().empty({group_.size(), mine.elements()}, mine.dtype());
        auto* place = static_cast<std::byte*>(parts.out().data);
        const ConstView own = mine.in();
        std::vector<Bytes> places;
        for (int r = 0; r < group_.size(); ++r)
            places.emplace_back(place + static_cast<size_t>(r) * own.bytes(), own.bytes());
        group_.all_gather(label("rows"), bytes_of(own), places);
        return parts;
    }

  private:
    std::vector<int64_t> columns_;  ///< of each rank
};

/// Of a product that every rank makes as a whole.
class AlikeEnds final : public GroupEnds {
  public:
    using GroupEnds::GroupEnds;
    Tensor enter(const Tensor& x, const TokenSlice& tokens) const override {
        return tokens.is_whole() ? x : gather_tokens_alike(x, group_, label("tokens"));
    }
    Tensor leave(const Tensor& y, const TokenSlice&) const override { return y; }
};

}  // namespace

TensorLayout::TensorLayout(core::nn::Plan plan, Communicator& group)
    : PlannedLayout(std::move(plan), group.rank(), group.size()), group_(group) {}

std::shared_ptr<const Ends> TensorLayout::ends(const std::string& path) const {
    if (size() == 1) return nullptr;
    const core::nn::PlanRow& row = row_of(path);
    switch (row.placement) {
        case Placement::replicated:
            break;
        case Placement::alike:
            return std::make_shared<AlikeEnds>(group_, path);
        case Placement::column:
            return std::make_shared<ColumnEnds>(group_, path);
        case Placement::row:
        case Placement::table:
            return std::make_shared<SumEnds>(group_, path);
        case Placement::head:
            CHECK(row.parts.size() == 1, "{}: the plan does not say how many outputs it has", path);
            return std::make_shared<HeadEnds>(group_, path, row.parts[0]);
    }
    return nullptr;
}

TokenSlice tokens_of_rank(int64_t length, const Communicator& group) {
    if (group.size() == 1 || length % group.size() != 0) return {};
    const int64_t count = length / group.size();
    return {.first = group.rank() * count, .count = count};
}

}  // namespace plinth::parallel
