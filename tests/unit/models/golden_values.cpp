// SPDX-License-Identifier: Apache-2.0
#include "tests/support/golden_values.h"

#include <gtest/gtest.h>

#include <array>
#include <fstream>
#include <sstream>

namespace plinth::test {
namespace {

/// Every line of tests/golden/models/formula.txt, as the Python side wrote it.
TEST(GoldenValues, AreThoseOfTheScript) {
    std::ifstream file(PLINTH_SOURCE_DIR "/tests/golden/models/formula.txt");
    ASSERT_TRUE(file) << "tests/golden/models/formula.txt is missing";
    int checked = 0;
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with('#')) continue;
        std::istringstream words(line);
        std::string kind;
        words >> kind;
        if (kind == "u" || kind == "value") {
            std::string name;
            int64_t i = 0;
            double want = 0.0;
            words >> name >> i >> want;
            ASSERT_TRUE(words) << line;
            const std::string path = name == "-" ? "" : name;
            EXPECT_EQ(kind == "u" ? golden_uniform(path, i) : double(golden_weight(path, i)), want)
                << line;
        } else {
            ASSERT_TRUE(kind == "tokens" || kind == "labels") << line;
            int step = 0;
            size_t b = 0;
            words >> step >> b;
            const GoldenBatch batch = golden_batch(step, 3, 12, 61);
            const std::vector<int32_t>& got = kind == "tokens" ? batch.tokens : batch.labels;
            ASSERT_EQ(got.size(), 36u);
            for (size_t t = 0; t < 12; ++t) {
                int32_t want = 0;
                words >> want;
                ASSERT_TRUE(words) << line;
                EXPECT_EQ(got[b * 12 + t], want) << line << ", position " << t;
            }
        }
        ++checked;
    }
    EXPECT_EQ(checked, 34);
}

TEST(GoldenValues, KnownHashes) {
    // The published vectors of FNV-1a, and splitmix64's first number from seed 0.
    EXPECT_EQ(fnv1a64(""), 0xcbf29ce484222325u);
    EXPECT_EQ(fnv1a64("foobar"), 0x85944171f73967e8u);
    EXPECT_EQ(splitmix64(0), 0xe220a8397b1dcdafu);
}

TEST(GoldenValues, ProbeIsTheSignedSum) {
    const std::array<float, 3> values = {1.0f, -2.0f, 4.0f};
    const double want = golden_uniform("xprobe", 0) - 2.0 * golden_uniform("xprobe", 1) +
                        4.0 * golden_uniform("xprobe", 2);
    EXPECT_EQ(golden_probe("x", values), want);
}

}  // namespace
}  // namespace plinth::test
