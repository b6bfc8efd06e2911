// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

// Layouts by name, whose bits tests of the optimizer's state compare with one rank's.
namespace plinth::launch::test {

using Words = std::vector<std::string>;

struct Layout {
    std::string name;
    int ranks = 1;
    Words words = {};
};

inline const Layout alone{"one rank"}, data_2{"data 2", 2}, data_3{"data 3", 3},
    zero_1{"zero 1", 3, {"parallel.zero=1"}}, zero_2{"zero 2", 2, {"parallel.zero=2"}},
    zero_3{"zero 3", 3, {"parallel.zero=3"}}, pipeline_2{"pipeline", 2, {"parallel.pipeline=2"}},
    pipeline_zero_1{"pipeline, data, zero 1",
                    4,
                    {"parallel.pipeline=2", "parallel.data=2", "parallel.zero=1",
                     "parallel.schedule=zero_bubble"}};

}  // namespace plinth::launch::test
