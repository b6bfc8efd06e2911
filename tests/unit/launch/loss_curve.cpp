// SPDX-License-Identifier: Apache-2.0
#include "launch/metrics/loss_curve.h"

#include <gtest/gtest.h>

#include <limits>

#include "launch/metrics/jsonl_log.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace plinth::launch {
namespace {

TEST(LossCurve, ReadsAndDraws) {
    const test::TemporaryFolder folder;
    const std::string path = folder / "metrics.jsonl";
    {
        JsonlLog log(core::io::posix(), path);
        for (int64_t step = 1; step <= 100; ++step) {
            const double loss = step == 50 ? std::numeric_limits<double>::infinity()
                                           : 1 + 4.0 / static_cast<double>(step);
            log.step({.step = step, .loss = loss});
        }
        log.evaluation({.step = 100, .loss = 1.5});
    }
    const Curve curve = read_curve(core::io::posix(), path, "loss");
    EXPECT_EQ(curve.x.size(), 99u);  // the infinite one has no number
    EXPECT_EQ(read_curve(core::io::posix(), path, "held_out_loss").y, std::vector<double>{1.5});
    test::expect_error(
        ErrorKind::data, [&] { read_curve(core::io::posix(), path, "nothing"); },
        "no line has a number");

    const std::string svg = plot_svg({curve, {"a <b> & c", {1, 100}, {2, 2}}}, {.title = "t"});
    EXPECT_TRUE(svg.starts_with("<svg "));
    EXPECT_TRUE(svg.ends_with("</svg>\n"));
    EXPECT_NE(svg.find("a &lt;b&gt; &amp; c"), std::string::npos);
    EXPECT_EQ(svg.find("nan"), std::string::npos);
    EXPECT_EQ(svg.find("inf"), std::string::npos);

    const std::string text =
        plot_terminal({{"down", {0, 1, 2}, {2, 1, 0}}}, {.width = 11 + 21, .height = 5});
    EXPECT_EQ(text,
              "        2 |*                    \n"
              "          |                     \n"
              "        1 |          *          \n"
              "          |                     \n"
              "        0 |                    *\n"
              "          +---------------------\n"
              "           0              2 step\n"
              "           * down\n");
}

TEST(LossCurve, ThinningKeepsEverySpike) {
    Curve curve{"long", {}, {}};
    for (int i = 0; i < 100000; ++i) {
        curve.x.push_back(i);
        curve.y.push_back(i == 77777 ? 10 : 1);
    }
    const std::string svg = plot_svg({curve}, {});
    EXPECT_LT(svg.size(), 60000u);
    EXPECT_NE(svg.find(",40.0"), std::string::npos);  // the spike reaches the top edge
    curve.y[77777] = 1;
    curve.y[0] = 2;
    const std::string flat = plot_svg({curve}, {});
    EXPECT_NE(flat, svg);
    EXPECT_NO_THROW(plot_svg({{"one", {5}, {5}}}, {}));
}

}  // namespace
}  // namespace plinth::launch
