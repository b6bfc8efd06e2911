// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "core/io/file.h"

namespace plinth::launch {

/// One line of a plot, by ascending x.
struct Curve {
    std::string name;
    std::vector<double> x;
    std::vector<double> y;
};

struct PlotOptions {
    std::string title;
    std::string x_label = "step";
    std::string y_label = "loss";
    int width = 800;   ///< pixels of the drawing, or columns of the terminal
    int height = 450;  ///< pixels, or rows
};

/// The values of `key` over "step" in a metrics.jsonl file ("loss", "held_out_loss", "grad_norm",
/// ...). Lines without the key, or with null, are passed over. A file without any is an error of
/// kind data.
Curve read_curve(core::io::FileSystem& files, const std::string& path, const std::string& key);

/// A whole SVG file. Curves with more points than fit keep the lowest and highest of each column,
/// so that no spike is lost.
std::string plot_svg(const std::vector<Curve>& curves, const PlotOptions& options);

/// The same as text; curve i is drawn with the i-th of "*o+x#@%&".
std::string plot_terminal(const std::vector<Curve>& curves, const PlotOptions& options);

}  // namespace plinth::launch
