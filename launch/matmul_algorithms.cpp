// SPDX-License-Identifier: Apache-2.0
#include "launch/matmul_algorithms.h"

#include <algorithm>
#include <span>

#include "core/io/crc32c.h"
#include "kernels/matmul.h"

namespace plinth::launch {

using kernels::AlgorithmTable;
using kernels::AlgorithmTables;

namespace {

constexpr std::string_view checksum_title = "crc32c\t";

class LibraryStore final : public AlgorithmStore {
  public:
    explicit LibraryStore(Stream& stream) : stream_(stream) {}
    std::string save() override {
        std::string text;
        kernels::save_matmul_algorithms(text, stream_);
        return text;
    }
    int64_t count() override {
        int64_t count = 0;
        kernels::count_matmul_algorithms(count, stream_);
        return count;
    }
    bool load(const std::string& text) override {
        bool is_taken = false;
        kernels::load_matmul_algorithms(is_taken, text, stream_);
        return is_taken;
    }
    void let_be_timed(bool may_time) override { kernels::let_matmul_be_timed(may_time, stream_); }

  private:
    Stream& stream_;
};

std::string checksum_line(std::string_view text) {
    return fmt::format("{}{:08x}\n", checksum_title,
                       core::io::crc32c(0, std::as_bytes(std::span(text))));
}

std::string machines_of(const AlgorithmTables& tables) {
    std::string names;
    for (const auto& [machine, table] : tables.all())
        names += (names.empty() ? "" : "; ") + machine;
    return names;
}

}  // namespace

std::unique_ptr<AlgorithmStore> algorithm_store_of(Stream& stream) {
    if (stream.device().type == DeviceType::cpu) return nullptr;
    return std::make_unique<LibraryStore>(stream);
}

std::string algorithm_cache_folder(const std::string& key,
                                   const std::function<const char*(const char*)>& variable) {
    if (key == "off") return "";
    if (!key.empty()) return key;
    // A relative path there counts as none (XDG Base Directory Specification).
    const char* cache = variable("XDG_CACHE_HOME");
    if (cache && cache[0] == '/') return core::io::join(cache, "plinth");
    const char* home = variable("HOME");
    return home && home[0] == '/' ? core::io::join(home, ".cache/plinth") : "";
}

std::string algorithm_file_name(const std::string& machine) {
    std::string name = "matmul-";
    for (const char c : machine) {
        const bool is_plain =
            (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.';
        if (is_plain)
            name += c;
        else if (name.back() != '-')
            name += '-';
    }
    return name + ".txt";
}

std::string algorithm_file(const AlgorithmTable& table) {
    const std::string text = table.save();
    return text + checksum_line(text);
}

AlgorithmTable read_algorithm_file(const std::string& content, const std::string& machine) {
    const size_t last = content.rfind(checksum_title);
    REQUIRE(io, last != std::string::npos, "it does not end with a checksum");
    const std::string text = content.substr(0, last);
    REQUIRE(io, content.substr(last) == checksum_line(text), "its checksum is another one");
    const AlgorithmTables tables = AlgorithmTables::read(text);
    const AlgorithmTable* table = tables.find(machine);
    REQUIRE(io, table, "it is of {}, and not of {}", machines_of(tables), machine);
    return *table;
}

MatmulAlgorithms::MatmulAlgorithms(std::unique_ptr<AlgorithmStore> store, core::Ranks& ranks,
                                   core::io::FileSystem& files, AlgorithmOptions options)
    : store_(std::move(store)), ranks_(ranks), files_(files), options_(std::move(options)) {}

void MatmulAlgorithms::open() {
    std::string machines;
    for (const std::string& table : ranks_.gather(store_ ? store_->save() : "", 0))
        machines += table;
    if (!machines.empty()) {
        // Only the names: what a rank has used already it tells in the first exchange.
        const AlgorithmTables of_ranks = AlgorithmTables::read(machines);
        for (const auto& [machine, table] : of_ranks.all())
            in_use_.of(machine);
        read_files();
    }
    const std::string named = ranks_.broadcast(in_use_.save(), 0);
    is_open_ = !named.empty();
    if (!is_open_) return;
    in_use_ = AlgorithmTables::read(named);
    const std::string known = ranks_.broadcast(of_files_.save(), 0);
    if (store_ && !known.empty()) store_->load(known);
}

void MatmulAlgorithms::read_files() {
    if (options_.folder.empty()) return;
    for (const auto& [machine, table] : in_use_.all())
        of_files_.of(machine) = file_of(machine, true);
}

/// An empty table where there is no sound one.
AlgorithmTable MatmulAlgorithms::file_of(const std::string& machine, bool says_why) {
    const std::string path = core::io::join(options_.folder, algorithm_file_name(machine));
    try {
        if (const auto content = core::io::read_if_there(files_, path))
            return read_algorithm_file(*content, machine);
    } catch (const Error& error) {
        if (says_why && options_.warn)
            options_.warn(
                fmt::format("{} is no sound file of algorithms of matrix products ({}): "
                            "it is left aside and written anew",
                            path, error.what()));
    }
    return AlgorithmTable(machine);
}

void MatmulAlgorithms::write_files() {
    if (options_.folder.empty()) return;
    try {
        for (const auto& [machine, table] : in_use_.all()) {
            if (table.beside(of_files_.of(machine)).size() == 0) continue;
            // Another job may have written since. What is there stays: its runs count on it.
            AlgorithmTable all = file_of(machine, false);
            all.add_missing(table);
            files_.make_directories(options_.folder);
            core::io::write_atomically(
                files_, core::io::join(options_.folder, algorithm_file_name(machine)),
                algorithm_file(all));
            of_files_.of(machine) = all;
        }
    } catch (const Error& error) {
        if (options_.warn)
            options_.warn(
                fmt::format("run.algorithm_cache: {}; the algorithms of matrix products "
                            "are kept in this run and its checkpoints only",
                            error.what()));
        options_.folder.clear();
    }
}

void MatmulAlgorithms::resume(const std::string& stored) {
    if (!is_open_) return;
    AlgorithmTables tables;
    std::string problem = "holds no algorithms of matrix products of a GPU";
    try {
        if (!stored.empty()) tables = AlgorithmTables::read(stored);
        if (!tables.empty())
            problem =
                fmt::format("holds the algorithms of matrix products of {}", machines_of(tables));
    } catch (const Error& error) {
        problem = fmt::format("holds unreadable algorithms of matrix products ({})", error.what());
    }
    std::string others;
    for (const auto& [machine, table] : in_use_.all())
        if (const AlgorithmTable* same = tables.find(machine))
            in_use_.of(machine).set_all(*same);
        else
            others += (others.empty() ? "" : "; ") + machine;
    take(in_use_.save());
    if (!others.empty() && ranks_.rank() == 0 && options_.warn)
        options_.warn(
            fmt::format("the checkpoint {}: on {} they come from run.algorithm_cache or "
                        "are chosen anew, and other algorithms round otherwise",
                        problem, others));
}

void MatmulAlgorithms::let_first_rank_time() {
    if (!is_open_) return;
    waits_for_exchange_ = true;
    if (store_ && ranks_.rank() > 0) store_->let_be_timed(false);
}

bool MatmulAlgorithms::has_news() const {
    return is_open_ && (waits_for_exchange_ || (store_ && store_->count() > known_));
}

void MatmulAlgorithms::exchange() {
    if (!is_open_) return;
    std::string news;
    if (store_) {
        const AlgorithmTables own = AlgorithmTables::read(store_->save());
        for (const auto& [machine, table] : own.all())
            news += table.beside(in_use_.of(machine)).save();
    }
    // The lowest rank's choice counts, and what is in use stays.
    for (const std::string& of_rank : ranks_.gather(news, 0)) {
        if (of_rank.empty()) continue;
        const AlgorithmTables tables = AlgorithmTables::read(of_rank);
        for (const auto& [machine, table] : tables.all())
            in_use_.of(machine).add_missing(table);
    }
    take(ranks_.broadcast(in_use_.save(), 0));
    waits_for_exchange_ = false;
    if (store_) store_->let_be_timed(true);
    if (ranks_.rank() == 0) write_files();
}

void MatmulAlgorithms::take(const std::string& tables) {
    in_use_ = AlgorithmTables::read(tables);
    if (!store_) return;
    store_->load(tables);
    known_ = store_->count();
}

std::string MatmulAlgorithms::text() const {
    const bool has_entries = std::ranges::any_of(
        in_use_.all(), [](const auto& entry) { return entry.second.size() > 0; });
    return has_entries ? in_use_.save() : "";
}

}  // namespace plinth::launch
