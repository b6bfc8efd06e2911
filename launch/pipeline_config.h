// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/data/cleaning.h"
#include "core/data/text_source.h"
#include "launch/config/stage_config.h"

namespace plinth::launch {

/// From the choices of the stages' configuration to those of the text pipeline.
core::data::TextFormat text_format(TextFormat format);
core::data::NormalForm normal_form(NormalForm form);

}  // namespace plinth::launch
