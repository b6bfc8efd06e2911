// SPDX-License-Identifier: Apache-2.0
#include "launch/metrics/loss_curve.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string_view>

#include "kernels/runtime/error.h"
#include "launch/metrics/jsonl_log.h"

namespace plinth::launch {
namespace {

constexpr std::array<const char*, 8> colours{"#2563eb", "#dc2626", "#059669", "#d97706",
                                             "#7c3aed", "#0891b2", "#be185d", "#4b5563"};
constexpr std::string_view marks = "*o+x#@%&";

struct Range {
    double low = std::numeric_limits<double>::infinity();
    double high = -std::numeric_limits<double>::infinity();

    void take(double value) {
        low = std::min(low, value);
        high = std::max(high, value);
    }
    // Where a value lies between low (0) and high (1).
    double place(double value) const { return high > low ? (value - low) / (high - low) : 0.5; }
};

struct Frame {
    Range x;
    Range y;
};

Frame frame_of(const std::vector<Curve>& curves) {
    Frame frame;
    for (const Curve& curve : curves) {
        for (const double x : curve.x)
            frame.x.take(x);
        for (const double y : curve.y)
            frame.y.take(y);
    }
    REQUIRE(data, frame.x.low <= frame.x.high, "there is nothing to plot");
    return frame;
}

// Round numbers inside the range: steps of 1, 2 or 5 times a power of ten, about `count` of them.
std::vector<double> ticks(const Range& range, int count) {
    const double span = range.high - range.low;
    if (!(span > 0)) return {range.low};
    const double raw = span / count;
    const double power = std::pow(10, std::floor(std::log10(raw)));
    const double step = power * (raw / power < 1.5   ? 1
                                 : raw / power < 3.5 ? 2
                                 : raw / power < 7.5 ? 5
                                                     : 10);
    std::vector<double> values;
    for (auto k = std::ceil(range.low / step); k * step <= range.high + 1e-9 * span; ++k)
        values.push_back(k * step);
    return values;
}

// At most two points a column, the lowest and the highest, in order of x.
Curve thin(const Curve& curve, const Range& x, int columns) {
    if (curve.x.size() <= 2 * static_cast<size_t>(columns)) return curve;
    Curve kept{curve.name, {}, {}};
    const auto column = [&](size_t i) {
        return static_cast<int64_t>(x.place(curve.x[i]) * (columns - 1));
    };
    for (size_t begin = 0; begin < curve.x.size();) {
        size_t low = begin;
        size_t high = begin;
        size_t end = begin;
        for (; end < curve.x.size() && column(end) == column(begin); ++end) {
            if (curve.y[end] < curve.y[low]) low = end;
            if (curve.y[end] > curve.y[high]) high = end;
        }
        for (const size_t i : {std::min(low, high), std::max(low, high)}) {
            kept.x.push_back(curve.x[i]);
            kept.y.push_back(curve.y[i]);
            if (low == high) break;
        }
        begin = end;
    }
    return kept;
}

std::string escape_xml(const std::string& text) {
    std::string escaped;
    for (const char c : text) {
        if (c == '&')
            escaped += "&amp;";
        else if (c == '<')
            escaped += "&lt;";
        else if (c == '>')
            escaped += "&gt;";
        else
            escaped += c;
    }
    return escaped;
}

// Pixels: the drawing's edges and the maps from values.
struct Canvas {
    Canvas(const Frame& f, const PlotOptions& options)
        : frame(f), right(options.width - 20), bottom(options.height - 45) {}

    double px(double x) const { return left + frame.x.place(x) * (right - left); }
    double py(double y) const { return bottom - frame.y.place(y) * (bottom - top); }

    Frame frame;
    double left = 70;
    double top = 40;
    double right;
    double bottom;
};

std::string draw_axes(const Canvas& canvas, const PlotOptions& options) {
    std::string text;
    for (const double y : ticks(canvas.frame.y, 6)) {
        text += fmt::format(
            "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#e5e7eb\"/>\n",
            canvas.left, canvas.py(y), canvas.right, canvas.py(y));
        text += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{:.6g}</text>\n",
                            canvas.left - 8, canvas.py(y) + 4, y);
    }
    for (const double x : ticks(canvas.frame.x, 8))
        text +=
            fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{:.6g}</text>\n",
                        canvas.px(x), canvas.bottom + 18, x);
    text += fmt::format(
        "<path d=\"M{0:.1f} {1:.1f}V{2:.1f}H{3:.1f}\" fill=\"none\" stroke=\"#6b7280\"/>\n",
        canvas.left, canvas.top, canvas.bottom, canvas.right);
    const double middle = (canvas.top + canvas.bottom) / 2;
    text += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                        (canvas.left + canvas.right) / 2, options.height - 8,
                        escape_xml(options.x_label));
    text += fmt::format(
        "<text x=\"16\" y=\"{0:.1f}\" text-anchor=\"middle\" transform=\"rotate(-90 16 "
        "{0:.1f})\">{1}</text>\n",
        middle, escape_xml(options.y_label));
    text += fmt::format("<text x=\"{:.1f}\" y=\"22\" font-size=\"15\">{}</text>\n", canvas.left,
                        escape_xml(options.title));
    return text;
}

std::string draw_curve(const Canvas& canvas, const Curve& curve, size_t index) {
    const char* colour = colours[index % colours.size()];
    std::string points;
    for (size_t i = 0; i < curve.x.size(); ++i)
        points += fmt::format("{}{:.1f},{:.1f}", i ? " " : "", canvas.px(curve.x[i]),
                              canvas.py(curve.y[i]));
    std::string text =
        fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\"/>\n",
                    points, colour);
    const double y = canvas.top + 14 + 18 * static_cast<double>(index);
    text +=
        fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\" fill=\"{}\">{}</text>\n",
                    canvas.right - 6, y, colour, escape_xml(curve.name));
    return text;
}

}  // namespace

Curve read_curve(core::io::FileSystem& files, const std::string& path, const std::string& key) {
    Curve curve{path, {}, {}};
    read_metrics(files, path, [&](const core::io::Json& line) {
        const core::io::Json* value = line.find(key);
        if (value == nullptr || !value->is_number()) return;
        curve.x.push_back(static_cast<double>(line.get_int("step")));
        curve.y.push_back(value->as_double());
    });
    REQUIRE(data, !curve.x.empty(), "{}: no line has a number for \"{}\"", path, key);
    return curve;
}

std::string plot_svg(const std::vector<Curve>& curves, const PlotOptions& options) {
    const Canvas canvas(frame_of(curves), options);
    std::string text = fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" "
        "height=\"{1}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#374151\">\n"
        "<rect width=\"{0}\" height=\"{1}\" fill=\"#ffffff\"/>\n",
        options.width, options.height);
    text += draw_axes(canvas, options);
    for (size_t i = 0; i < curves.size(); ++i)
        text += draw_curve(canvas, thin(curves[i], canvas.frame.x, options.width), i);
    return text + "</svg>\n";
}

std::string plot_terminal(const std::vector<Curve>& curves, const PlotOptions& options) {
    const Frame frame = frame_of(curves);
    constexpr int margin = 11;  // columns of the y values
    const int columns = std::max(10, options.width - margin);
    const int rows = std::max(4, options.height);
    std::vector<std::string> grid(static_cast<size_t>(rows),
                                  std::string(static_cast<size_t>(columns), ' '));
    for (size_t i = 0; i < curves.size(); ++i) {
        for (size_t k = 0; k < curves[i].x.size(); ++k) {
            const auto column = std::lround(frame.x.place(curves[i].x[k]) * (columns - 1));
            const auto row = std::lround((1 - frame.y.place(curves[i].y[k])) * (rows - 1));
            grid[static_cast<size_t>(row)][static_cast<size_t>(column)] = marks[i % marks.size()];
        }
    }
    std::string text = options.title.empty() ? "" : options.title + "\n";
    for (int row = 0; row < rows; ++row) {
        const bool labelled = row == 0 || row == rows - 1 || row == (rows - 1) / 2;
        const double y = frame.y.high - (frame.y.high - frame.y.low) * row / (rows - 1);
        text += labelled ? fmt::format("{:>9.4g} |", y) : std::string(10, ' ') + "|";
        text += grid[static_cast<size_t>(row)] + "\n";
    }
    text += std::string(10, ' ') + "+" + std::string(static_cast<size_t>(columns), '-') + "\n";
    const std::string first = fmt::format("{:.6g}", frame.x.low);
    const std::string last = fmt::format("{:.6g} {}", frame.x.high, options.x_label);
    text += fmt::format("{:11}{}{:>{}}\n", "", first, last,
                        std::max<size_t>(1, static_cast<size_t>(columns) - first.size()));
    for (size_t i = 0; i < curves.size(); ++i)
        text += fmt::format("{:11}{} {}\n", "", marks[i % marks.size()], curves[i].name);
    return text;
}

}  // namespace plinth::launch
