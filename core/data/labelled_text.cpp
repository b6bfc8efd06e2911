// SPDX-License-Identifier: Apache-2.0
#include "core/data/labelled_text.h"

#include <algorithm>

#include "core/data/input_files.h"
#include "core/io/compressed.h"
#include "core/io/json.h"
#include "kernels/runtime/error.h"

namespace plinth::core::data {

namespace {

/// All examples are held in memory: a line of this size is a file of another kind.
constexpr size_t longest_line = size_t{1} << 30;

std::string text_of(const io::Json& json, const std::string& field, const std::string& where) {
    const io::Json* value = json.find(field);
    REQUIRE(data, value != nullptr, "{}: no member \"{}\"", where, field);
    if (value->is_string()) return value->as_string();
    REQUIRE(data, value->is_number() || value->is_bool(),
            "{}: \"{}\" must be a string, a number or a boolean, not {}", where, field,
            value->type_name());
    return value->dump();
}

std::vector<std::string> split_tabs(std::string_view line) {
    std::vector<std::string> columns;
    while (true) {
        const size_t tab = line.find('\t');
        columns.emplace_back(line.substr(0, tab));
        if (tab == std::string_view::npos) return columns;
        line.remove_prefix(tab + 1);
    }
}

/// Which columns of a tab-separated file hold the two fields.
struct Columns {
    size_t first = 1, second = 0, count = 2;

    /// True if the line is a header; the default stays otherwise.
    bool read_header(const std::vector<std::string>& names, const std::string& first_field,
                     const std::string& second_field) {
        const auto at = [&](const std::string& name) {
            return static_cast<size_t>(std::find(names.begin(), names.end(), name) - names.begin());
        };
        if (at(first_field) == names.size() || at(second_field) == names.size()) return false;
        *this = {at(first_field), at(second_field), names.size()};
        return true;
    }
};

void read_file(io::FileSystem& files, const std::string& path, const std::string& first_field,
               const std::string& second_field, std::vector<TextPair>& pairs) {
    std::string_view name = path;
    for (const std::string_view packed : {".gz", ".zst", ".zstd"}) {
        if (name.ends_with(packed)) name.remove_suffix(packed.size());
    }
    const bool is_json =
        name.ends_with(".jsonl") || name.ends_with(".ndjson") || name.ends_with(".json");
    const auto name_of_file = std::make_shared<const std::string>(path);
    io::LineReader lines(files.open_read(path), {longest_line, "cut it into shorter examples"});
    Columns columns;
    std::string_view line;
    while (lines.next(line)) {
        if (line.empty()) continue;
        const std::string where = fmt::format("{}:{}", path, lines.line_number());
        if (is_json) {
            const io::Json json = io::Json::parse(line, where);
            pairs.push_back({text_of(json, first_field, where), text_of(json, second_field, where),
                             name_of_file, lines.line_number()});
            continue;
        }
        std::vector<std::string> values = split_tabs(line);
        if (lines.line_number() == 1 && columns.read_header(values, first_field, second_field)) {
            continue;
        }
        REQUIRE(data, values.size() == columns.count,
                "{}: expected {} columns with tabs between, found {}", where, columns.count,
                values.size());
        pairs.push_back({std::move(values[columns.first]), std::move(values[columns.second]),
                         name_of_file, lines.line_number()});
    }
}

}  // namespace

std::string TextPair::where() const {
    return path ? fmt::format("{}:{}", *path, line) : "an example";
}

std::vector<TextPair> read_text_pairs(io::FileSystem& files, const std::vector<std::string>& inputs,
                                      const std::string& key, const std::string& first_field,
                                      const std::string& second_field) {
    REQUIRE(config, !first_field.empty() && first_field != second_field,
            "{}: the two fields of an example must have different names, got \"{}\" and \"{}\"",
            key, first_field, second_field);
    std::vector<TextPair> pairs;
    for (const std::string& path : find_all_input_files(files, inputs, key)) {
        read_file(files, path, first_field, second_field, pairs);
    }
    return pairs;
}

}  // namespace plinth::core::data
