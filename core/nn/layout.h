// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "core/autograd/parameter.h"
#include "core/nn/batch.h"
#include "core/ops/cross_entropy.h"

namespace plinth::core::nn {

/// What stands around a product or a look-up whose parameter is shared by ranks. Between such
/// places every rank holds the tokens that a batch's slice names.
class Ends {
  public:
    virtual ~Ends() = default;
    /// Before it: what this rank's part multiplies, from what the layer before left.
    virtual Tensor enter(const Tensor& x, const TokenSlice& tokens) const = 0;
    /// After it: what the layer behind expects, from what this rank's part gave.
    virtual Tensor leave(const Tensor& y, const TokenSlice& tokens) const = 0;
    /// True where `enter` gives x itself, or `leave` y: an op may then reach over it.
    virtual bool enters_as_is() const { return false; }
    virtual bool leaves_as_is() const { return false; }
    /// Of a head: the ranks that hold its columns together.
    virtual const ops::ColumnRanks* columns() const { return nullptr; }
};

class InnerAttention;

/// Where the parameters of a model lie, asked while it is declared. This one is for a rank alone:
/// everything is whole and no product has ends. Models know layouts by this interface only.
class Layout {
  public:
    virtual ~Layout() = default;
    /// Gives a parameter, just declared by the module at `path`, its boxes.
    virtual void place(Parameter&, const std::string& /*path*/) const {}
    /// Null where the module's product needs none. May outlive the layout.
    virtual std::shared_ptr<const Ends> ends(const std::string& /*path*/) const { return nullptr; }
    /// What attends between the projections in training. Null: full attention. May outlive the
    /// layout.
    virtual std::shared_ptr<const InnerAttention> attention() const { return nullptr; }
};

/// The layout of a rank that shares nothing.
const Layout& whole_layout();

}  // namespace plinth::core::nn
