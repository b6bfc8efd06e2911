// SPDX-License-Identifier: Apache-2.0
// Arithmetic of texts: nothing here knows a device.
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

namespace plinth::kernels {

/// The content of a cublasLtMatmulAlgo_t: opaque, and valid for one GPU and library version.
using Algorithm = std::array<uint64_t, 8>;

/// Which algorithm each product takes, on one kind of machine. As text: a first line
/// "matmul algorithms<TAB>MACHINE", then a line "KEY<TAB>128 hexadecimal digits" a product, by key.
class AlgorithmTable {
  public:
    static constexpr std::string_view title = "matmul algorithms";
    static constexpr size_t word_digits = 16;

    /// `machine` names the GPU and the library's version, without tabs and line ends.
    explicit AlgorithmTable(std::string machine) : machine_(std::move(machine)) {}

    const std::string& machine() const { return machine_; }
    size_t size() const { return entries_.size(); }
    const std::map<std::string, Algorithm>& entries() const { return entries_; }
    /// Null if there is none of that key.
    const Algorithm* find(const std::string& key) const {
        const auto found = entries_.find(key);
        return found == entries_.end() ? nullptr : &found->second;
    }
    void set(const std::string& key, const Algorithm& algorithm) { entries_[key] = algorithm; }
    /// Takes the entries of the other table over its own.
    void set_all(const AlgorithmTable& other) {
        for (const auto& [key, algorithm] : other.entries_)
            set(key, algorithm);
    }
    /// Takes those of its entries whose keys it has not.
    void add_missing(const AlgorithmTable& other) {
        entries_.insert(other.entries_.begin(), other.entries_.end());
    }
    /// Its entries with keys that the other table has not.
    AlgorithmTable beside(const AlgorithmTable& other) const {
        AlgorithmTable rest(machine_);
        for (const auto& [key, algorithm] : entries_)
            if (!other.find(key)) rest.set(key, algorithm);
        return rest;
    }

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

    /// Takes the entries of saved tables over its own, of all those in the text that are of its
    /// machine. False, and nothing taken, if none is. Throws an error of kind io that names the
    /// line if it is no such text.
    bool load(std::string_view text);

  private:
    std::string machine_;
    std::map<std::string, Algorithm> entries_;
};

/// Tables of several kinds of machines, by the machine's name. Their text is one behind the other.
class AlgorithmTables {
  public:
    /// Throws an error of kind io that names the line if it is no such text. Of two entries with
    /// one key the later one counts.
    static AlgorithmTables read(std::string_view text) {
        AlgorithmTables tables;
        AlgorithmTable* table = nullptr;
        int number = 0;
        for (size_t begin = 0; begin < text.size();) {
            const size_t end = text.find('\n', begin);
            ++number;
            REQUIRE(io, end != std::string_view::npos, "matmul algorithms: line {} has no end",
                    number);
            const std::string_view line = text.substr(begin, end - begin);
            begin = end + 1;
            const size_t tab = line.find('\t');
            REQUIRE(io, tab != std::string_view::npos, "matmul algorithms: line {} has no tab",
                    number);
            const std::string_view first = line.substr(0, tab), second = line.substr(tab + 1);
            REQUIRE(io, table || first == AlgorithmTable::title,
                    "matmul algorithms: line {} does not begin with \"{}\"", number,
                    AlgorithmTable::title);
            if (first == AlgorithmTable::title)
                table = &tables.of(std::string(second));
            else
                table->set(std::string(first), algorithm_of(second, number));
        }
        REQUIRE(io, number > 0, "matmul algorithms: the text is empty");
        return tables;
    }

    std::string save() const {
        std::string text;
        for (const auto& [machine, table] : tables_)
            text += table.save();
        return text;
    }

    bool empty() const { return tables_.empty(); }
    const std::map<std::string, AlgorithmTable>& all() const { return tables_; }
    /// Null if there is none of that machine.
    const AlgorithmTable* find(const std::string& machine) const {
        const auto found = tables_.find(machine);
        return found == tables_.end() ? nullptr : &found->second;
    }
    /// An empty one if there was none.
    AlgorithmTable& of(const std::string& machine) {
        return tables_.try_emplace(machine, machine).first->second;
    }

  private:
    static Algorithm algorithm_of(std::string_view text, int line) {
        constexpr size_t digits = AlgorithmTable::word_digits;
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

    std::map<std::string, AlgorithmTable> tables_;
};

inline bool AlgorithmTable::load(std::string_view text) {
    const AlgorithmTables tables = AlgorithmTables::read(text);
    const AlgorithmTable* own = tables.find(machine_);
    if (own) set_all(*own);
    return own != nullptr;
}

}  // namespace plinth::kernels
