// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/io/file.h"

namespace plinth::core::data {

/// An example of two texts: text and label (classification), or prompt and response.
struct TextPair {
    std::string first;
    std::string second;
    std::shared_ptr<const std::string> path = {};  ///< of the file that it was read from
    uint64_t line = 0;                             ///< in it, from 1

    /// "dev.tsv:7", for messages.
    std::string where() const;
    /// The texts decide.
    bool operator==(const TextPair& other) const {
        return first == other.first && second == other.second;
    }
};

/// Reads examples from files, folders or patterns (plain or compressed):
/// - JSONL (.jsonl, .ndjson, .json): an object a line with both fields, each a string, a number or
///   a boolean;
/// - anything else is tab-separated: a first line that names both fields is a header and chooses
/// the
///   columns; without one there must be exactly two columns, in the order second, first (label,
///   then text: the habit of classification sets).
/// Any faulty line is an error of kind data that names file and line; inputs that name nothing are
/// one of kind config that names `key`.
std::vector<TextPair> read_text_pairs(io::FileSystem& files, const std::vector<std::string>& inputs,
                                      const std::string& key, const std::string& first_field,
                                      const std::string& second_field);

}  // namespace plinth::core::data
