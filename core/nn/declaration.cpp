// SPDX-License-Identifier: Apache-2.0
#include "core/nn/declaration.h"

namespace plinth::core::nn {

const Layout& whole_layout() {
    static const Layout whole;
    return whole;
}

Parameter& ParameterSet::add(Parameter::Spec spec) {
    parameters_.push_back(std::make_unique<Parameter>(std::move(spec)));
    Parameter& parameter = *parameters_.back();
    CHECK(by_name_.emplace(parameter.name(), &parameter).second, "parameter {} is declared twice",
          parameter.name());
    order_.push_back(&parameter);
    return parameter;
}

Parameter* ParameterSet::find(const std::string& name) const {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : found->second;
}

int64_t ParameterSet::elements() const {
    int64_t sum = 0;
    for (const Parameter* parameter : order_)
        sum += parameter->shape().elements();
    return sum;
}

}  // namespace plinth::core::nn
