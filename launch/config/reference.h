// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "launch/config/schema.h"

namespace plinth::launch {

/// A Markdown table for each section of the schema, in declared order.
/// `with_resume` adds each key's resume class (stages that cannot be resumed have none).
std::string reference_markdown(const Schema& schema, bool with_resume = true);

/// The whole of docs/configuration.md, printed by `plinth config reference`: the rules of the
/// format and every stage's keys.
std::string configuration_reference();

}  // namespace plinth::launch
