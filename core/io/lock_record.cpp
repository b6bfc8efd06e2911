// SPDX-License-Identifier: Apache-2.0
#include "core/io/lock_record.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <random>

#include "core/io/json.h"
#include "kernels/runtime/error.h"

namespace plinth::core::io {

namespace {

constexpr const char* format_name = "plinth run lock 1";
constexpr size_t beat_digits = 20;  // the largest uint64_t has as many
constexpr size_t token_digits = 32;

bool is_hex(const std::string& text) {
    return std::all_of(text.begin(), text.end(),
                       [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

std::string head(const LockRecord& record) {
    Json json = Json::object();
    json["format"] = format_name;
    json["host"] = record.holder.host;
    json["boot"] = record.holder.boot;
    json["pid_namespace"] = record.holder.pid_namespace;
    json["pid"] = record.holder.pid;
    json["start_ticks"] = record.holder.start_ticks;
    json["token"] = record.token;
    return json.dump() + "\n";
}

}  // namespace

std::string LockRecord::encode_beats(uint64_t beats) {
    return fmt::format("{:020d}\n", beats);
}

std::string LockRecord::encode() const {
    return head(*this) + encode_beats(beats);
}

size_t LockRecord::beats_offset() const {
    return head(*this).size();
}

std::optional<LockRecord> LockRecord::parse(std::string_view bytes) {
    const size_t line = bytes.find('\n');
    if (line == std::string_view::npos || bytes.size() != line + beat_digits + 2) return {};
    const std::string_view digits = bytes.substr(line + 1, beat_digits);
    LockRecord record;
    const auto read = std::from_chars(digits.begin(), digits.end(), record.beats);
    if (read.ec != std::errc() || read.ptr != digits.end() || bytes.back() != '\n') return {};
    try {
        const Json json = Json::parse(bytes.substr(0, line), "lock");
        if (json.get_string("format") != format_name) return {};
        record.holder = {.host = json.get_string("host"),
                         .boot = json.get_string("boot"),
                         .pid_namespace = json.get_string("pid_namespace"),
                         .pid = json.get_int("pid"),
                         .start_ticks = json.get_int("start_ticks")};
        record.token = json.get_string("token");
    } catch (const Error&) {
        return {};
    }
    if (record.token.size() != token_digits || !is_hex(record.token)) return {};
    return record;
}

std::string new_token() {
    std::random_device device;
    return fmt::format("{:08x}{:08x}{:08x}{:08x}", device(), device(), device(), device());
}

}  // namespace plinth::core::io
