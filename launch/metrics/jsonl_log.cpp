// SPDX-License-Identifier: Apache-2.0
#include "launch/metrics/jsonl_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "kernels/runtime/error.h"

namespace plinth::launch {
namespace {

using core::io::FileSystem;
using core::io::Json;
using core::io::OpenMode;

constexpr size_t piece = size_t{1} << 20;

std::span<const std::byte> bytes_of(const std::string& text) {
    return std::as_bytes(std::span(text.data(), text.size()));
}

void set_optional(Json& line, const char* key, const std::optional<double>& value) {
    if (value) line[key] = *value;
}

// A whole line of a metrics file: its number, the offset of its first byte, and its text.
struct Line {
    int64_t number = 0;
    uint64_t begin = 0;
    std::string text;
};

// Calls `use` with each line that has its end, until it returns false; returns the offset after the
// last line used.
uint64_t for_each_line(FileSystem& files, const std::string& path,
                       const std::function<bool(const Line&)>& use) {
    const auto file = files.open_read(path);
    std::string buffer;
    Line line;
    for (uint64_t offset = 0; offset < file->size();) {
        const size_t length = std::min<uint64_t>(piece, file->size() - offset);
        const size_t kept = buffer.size();
        buffer.resize(kept + length);
        file->read_at(offset, std::as_writable_bytes(std::span(buffer.data() + kept, length)));
        offset += length;
        size_t begin = 0;
        for (size_t end; (end = buffer.find('\n', begin)) != std::string::npos; begin = end + 1) {
            ++line.number;
            line.text = buffer.substr(begin, end - begin);
            if (!use(line)) return line.begin;
            line.begin += line.text.size() + 1;
        }
        buffer.erase(0, begin);
    }
    return line.begin;
}

Json parse_line(const Line& line, const std::string& path) {
    Json object = Json::parse(line.text, fmt::format("{}: line {}", path, line.number));
    const Json* step = object.find("step");
    REQUIRE(data, step != nullptr && step->is_int(),
            "{}: line {}: not an object with a \"step\"; is this a metrics file?", path,
            line.number);
    return object;
}

// Shortens the file to its first bytes; whole or shortened is on the disk at any time. `kept_as`,
// if given, is where the whole file goes.
void cut(FileSystem& files, const std::string& path, uint64_t length, const std::string& kept_as) {
    const std::string shortened = path + ".tmp";
    const auto from = files.open_read(path);
    const auto to = files.open_write(shortened, OpenMode::truncate);
    std::string buffer;
    for (uint64_t offset = 0; offset < length; offset += buffer.size()) {
        buffer.resize(std::min<uint64_t>(piece, length - offset));
        from->read_at(offset, std::as_writable_bytes(std::span(buffer.data(), buffer.size())));
        to->append(bytes_of(buffer));
    }
    to->sync();
    to->close();
    if (!kept_as.empty()) files.rename(path, kept_as);
    files.rename(shortened, path);
    files.sync_directory(path.substr(0, path.rfind('/') + 1));
}

// Whether a run that goes on after `step` keeps the line.
bool is_before(const Line& line, const std::string& path, int64_t step) {
    const Json object = parse_line(line, path);
    const int64_t last = object.get_string("kind") == "step" ? step : step - 1;
    return object.get_int("step") <= last;
}

}  // namespace

Json to_json(const StepRecord& record) {
    Json line;
    line["kind"] = "step";
    line["step"] = record.step;
    line["time"] = record.wall_time;
    line["samples"] = record.samples;
    line["tokens"] = record.tokens;
    line["global_batch"] = record.global_batch;
    line["loss"] = record.loss;
    line["loss_hex"] = fmt::format("{:a}", record.loss);
    set_optional(line, "z_loss", record.z_loss);
    line["learning_rate"] = record.learning_rate;
    line["grad_norm"] = record.grad_norm;
    line["grad_norm_hex"] = fmt::format("{:a}", record.grad_norm);
    line["step_seconds"] = record.step_seconds;
    line["tokens_per_second"] = record.tokens_per_second;
    line["flops_per_second"] = record.flops_per_second;
    set_optional(line, "mfu", record.mfu);
    line["memory_bytes"] = record.memory_bytes;
    line["reserved_memory_bytes"] = record.reserved_memory_bytes;
    line["cached_memory_bytes"] = record.cached_memory_bytes;
    line["memory_requests"] = record.memory_requests;
    line["memory_taken"] = record.memory_taken;
    line["start_resident_bytes"] = record.start_resident_bytes;
    line["resident_bytes"] = record.resident_bytes;
    line["skipped_steps"] = record.skipped_steps;
    line["ranks"] = record.ranks;
    set_optional(line, "data_wait_seconds", record.data_wait_seconds);
    set_optional(line, "save_wait_seconds", record.save_wait_seconds);
    set_optional(line, "communication_wait_seconds", record.communication_wait_seconds);
    set_optional(line, "slowest_rank_seconds", record.slowest_rank_seconds);
    set_optional(line, "fastest_rank_seconds", record.fastest_rank_seconds);
    return line;
}

Json to_json(const EvaluationRecord& record) {
    Json line;
    line["kind"] = "evaluation";
    line["step"] = record.step;
    line["time"] = record.wall_time;
    line["samples"] = record.samples;
    line["held_out_loss"] = record.loss;
    line["held_out_loss_hex"] = fmt::format("{:a}", record.loss);
    line["held_out_samples"] = record.held_out_samples;
    line["held_out_total"] = record.held_out_total;
    set_optional(line, "bits_per_byte", record.bits_per_byte);
    set_optional(line, "accuracy", record.accuracy);
    set_optional(line, "macro_f1", record.macro_f1);
    line["seconds"] = record.seconds;
    return line;
}

JsonlLog::JsonlLog(FileSystem& files, const std::string& path)
    : file_(files.open_write(path, OpenMode::append)) {}

void JsonlLog::step(const StepRecord& record) {
    write(to_json(record));
}
void JsonlLog::evaluation(const EvaluationRecord& record) {
    write(to_json(record));
}

// One append a line: a kill leaves at most one line without its end, and a full disk part of a line
// that the next one overwrites.
void JsonlLog::write(const Json& line) {
    file_->append(bytes_of(line.dump() + "\n"));
}

void read_metrics(FileSystem& files, const std::string& path,
                  const std::function<void(const Json&)>& use) {
    for_each_line(files, path, [&](const Line& line) {
        use(parse_line(line, path));
        return true;
    });
}

uint64_t cut_metrics(FileSystem& files, const std::string& path, int64_t step,
                     const std::function<void(const std::string&)>& warn) {
    if (!files.exists(path)) return 0;
    std::string problem;
    const uint64_t keep = for_each_line(files, path, [&](const Line& line) {
        try {
            return is_before(line, path, step);
        } catch (const Error& error) {
            if (error.kind() != ErrorKind::data) throw;
            problem = error.what();
            return false;
        }
    });
    const uint64_t size = files.open_read(path)->size();
    if (keep == size) return 0;
    const std::string kept_as = problem.empty() ? "" : path + ".damaged";
    cut(files, path, keep, kept_as);
    if (!problem.empty())
        warn(fmt::format("{}; the log goes on behind the lines before it, and {} holds all of them",
                         problem, kept_as));
    return size - keep;
}

}  // namespace plinth::launch
