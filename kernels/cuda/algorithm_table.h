// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "kernels/runtime/error.h"

namespace plinth::kernels::cuda {

/// The content of a cublasLtMatmulAlgo_t: opaque, and valid for one GPU and library version.
using Algorithm = std::array<uint64_t, 8>;

/// Which algorithm each product takes, on one kind of machine. As text: a first line
/// "matmul algorithms<TAB>MACHINE", then a line "KEY<TAB>128 hexadecimal digits" a product, by key.
class AlgorithmTable {
  public:
    /// `machine` names the GPU and the library's version, without tabs and line ends.
    explicit AlgorithmTable(std::string machine) : machine_(std::move(machine)) {}

    const std::string& machine() const { return machine_; }
    size_t size() const { return entries_.size(); }
    /// Null if there is none of that key.
    const Algorithm* find(const std::string& key) const {
        const auto found = entries_.find(key);
        return found == entries_.end() ? nullptr : &found->second;
    }
    void set(const std::string& key, const Algorithm& algorithm) { entries_[key] = algorithm; }

    std::string save() const {
        std::string text = fmt::format("{}\t{}\n", title, machine_);
        for (const auto& [key, algorithm] : entries_) {
            text += key + '\t';
            for (const uint64_t word : algorithm)
                text += fmt::format("{:016x}", word);
            text += '\n';
        }
        return text;
    }

    /// Takes the entries of a saved table over its own. False, and nothing taken, if it is of
    /// another machine. Throws an error of kind io that names the line if it is no such text.
    bool load(std::string_view text) {
        std::map<std::string, Algorithm> loaded;
        int number = 0;
        for (size_t begin = 0; begin < text.size();) {
            const size_t end = text.find('\n', begin);
            REQUIRE(io, end != std::string_view::npos, "matmul algorithms: line {} has no end",
                    number + 1);
            const std::string_view line = text.substr(begin, end - begin);
            begin = end + 1;
            const size_t tab = line.find('\t');
            REQUIRE(io, tab != std::string_view::npos, "matmul algorithms: line {} has no tab",
                    number + 1);
            const std::string_view first = line.substr(0, tab), second = line.substr(tab + 1);
            if (number++ == 0) {
                REQUIRE(io, first == title, "matmul algorithms: line 1 does not begin with \"{}\"",
                        title);
                if (second != machine_) return false;
            } else {
                loaded[std::string(first)] = algorithm_of(second, number);
            }
        }
        REQUIRE(io, number > 0, "matmul algorithms: the text is empty");
        for (const auto& [key, algorithm] : loaded)
            entries_[key] = algorithm;
        return true;
    }

  private:
    static constexpr std::string_view title = "matmul algorithms";
    static constexpr size_t digits = 16;  ///< of a word

    static Algorithm algorithm_of(std::string_view text, int line) {
        Algorithm algorithm{};
        bool is_sound = text.size() == digits * algorithm.size();
        for (size_t i = 0; is_sound && i < algorithm.size(); ++i) {
            const char* begin = text.data() + i * digits;
            const auto [end, error] = std::from_chars(begin, begin + digits, algorithm[i], 16);
            is_sound = error == std::errc{} && end == begin + digits;
        }
        REQUIRE(io, is_sound, "matmul algorithms: line {} does not end with {} hexadecimal digits",
                line, digits * algorithm.size());
        return algorithm;
    }

    std::string machine_;
    std::map<std::string, Algorithm> entries_;
};

}  // namespace plinth::kernels::cuda
