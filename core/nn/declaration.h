// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/autograd/parameter.h"
#include "core/nn/layout.h"

namespace plinth::core::nn {

/// The parameters of a model in the order of their declaration. Declaring gives them no storage.
class ParameterSet {
  public:
    /// A second parameter of the same name is an internal error.
    Parameter& add(Parameter::Spec spec);
    const std::vector<Parameter*>& all() const { return order_; }
    /// Null if there is none of that name.
    Parameter* find(const std::string& name) const;
    /// Elements of all parameters; a tied one counts once.
    int64_t elements() const;

  private:
    std::vector<std::unique_ptr<Parameter>> parameters_;
    std::vector<Parameter*> order_;
    std::map<std::string, Parameter*> by_name_;
};

/// A place in the tree of names where a module declares its parameters.
class Declaration {
  public:
    /// The layout need not outlive the model.
    explicit Declaration(ParameterSet& set, const Layout& layout = whole_layout(),
                         std::string path = "")
        : set_(&set), layout_(&layout), path_(std::move(path)) {}

    /// The child place `path.name`.
    Declaration operator/(const std::string& name) const {
        return Declaration(*set_, *layout_, full(name));
    }
    Declaration operator/(int64_t index) const { return *this / std::to_string(index); }

    /// A matrix or table: weight decay applies. Its memory has rows up to a multiple.
    Parameter& weight(const Shape& shape, Init init, int64_t row_multiple = 1) const {
        return add({.name = full("weight"),
                    .shape = shape,
                    .init = init,
                    .decay = true,
                    .row_multiple = row_multiple});
    }
    /// A norm's gain or a bias: no weight decay.
    Parameter& vector(const std::string& name, int64_t size, Init init) const {
        return add({.name = full(name), .shape = {size}, .init = init, .decay = false});
    }
    /// What the layout wants around the product of the module here; null for nothing.
    std::shared_ptr<const Ends> ends() const { return layout_->ends(path_); }

  private:
    Parameter& add(Parameter::Spec spec) const {
        Parameter& parameter = set_->add(std::move(spec));
        layout_->place(parameter, path_);
        return parameter;
    }
    std::string full(const std::string& name) const {
        return path_.empty() ? name : path_ + "." + name;
    }

    ParameterSet* set_;
    const Layout* layout_;
    std::string path_;
};

}  // namespace plinth::core::nn
