// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "launch/config/stage_config.h"

namespace plinth::launch {

/// `plinth data prepare`: cleans, tokenises and shards a corpus, with progress on standard output.
int prepare_data(const PrepareConfig& config);

}  // namespace plinth::launch
