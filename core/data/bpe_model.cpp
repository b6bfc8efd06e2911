// SPDX-License-Identifier: Apache-2.0
#include "core/data/bpe_model.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "core/data/byte_level_bpe.h"
#include "core/data/special_tokens.h"
#include "core/data/unicode.h"
#include "core/io/json.h"
#include "kernels/runtime/error.h"

namespace plinth::core::data {

namespace {

/// Code point of each byte.
std::array<uint16_t, 256> byte_level_code_points() {
    std::array<uint16_t, 256> points{};
    uint16_t next = 0x100;
    for (uint16_t byte = 0; byte < 256; ++byte) {
        const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
                               (byte >= 0xAE && byte <= 0xFF);
        points[byte] = printable ? byte : next++;
    }
    return points;
}

const std::array<uint16_t, 256> code_points = byte_level_code_points();

/// Byte of each code point below U+0144, or -1.
const std::array<int16_t, 0x144> bytes_of_code_points = [] {
    std::array<int16_t, 0x144> bytes{};
    bytes.fill(-1);
    for (size_t byte = 0; byte < 256; ++byte) {
        bytes[code_points[byte]] = static_cast<int16_t>(byte);
    }
    return bytes;
}();

using TokenIds = std::unordered_map<std::string_view, int32_t>;

/// Fills `tokens` with the keys of vocab.json by id.
std::vector<std::string> read_vocab(std::string_view text, const std::string& path) {
    const io::Json json = io::Json::parse(text, path);
    REQUIRE(data, json.is_object(), "{}: expected one object of tokens and ids, found {}", path,
            json.type_name());
    const auto& members = json.as_object().members();
    std::vector<std::string> tokens(members.size());
    std::vector<bool> taken(members.size(), false);
    for (const auto& [token, id] : members) {
        REQUIRE(data, id.is_int(), "{}: token \"{}\": the id must be an integer, found {}", path,
                token, id.type_name());
        const int64_t value = id.as_int();
        REQUIRE(data, value >= 0 && value < static_cast<int64_t>(members.size()),
                "{}: token \"{}\": id {} is not in 0..{}; ids must have no gaps", path, token,
                value, static_cast<int64_t>(members.size()) - 1);
        const auto index = static_cast<size_t>(value);
        REQUIRE(data, !taken[index], "{}: token \"{}\": id {} belongs to \"{}\" already", path,
                token, value, tokens[index]);
        taken[index] = true;
        tokens[index] = token;
    }
    return tokens;
}

/// Splits "left right"; false if the line is anything else.
bool split_pair(std::string_view line, std::string_view& left, std::string_view& right) {
    const size_t space = line.find(' ');
    if (space == std::string_view::npos) return false;
    left = line.substr(0, space);
    right = line.substr(space + 1);
    return !left.empty() && !right.empty() && right.find(' ') == std::string_view::npos;
}

/// The merges of merges.txt. `ids` maps the written form of ordinary tokens.
std::vector<BpeModel::Merge> read_merges(std::string_view text, const std::string& path,
                                         const TokenIds& ids) {
    std::vector<BpeModel::Merge> merges;
    std::unordered_set<uint64_t> seen;
    std::string joined;
    for (int64_t line_number = 1; !text.empty(); ++line_number) {
        const size_t end = std::min(text.find('\n'), text.size());
        std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        if (line.ends_with('\r')) line.remove_suffix(1);
        if (line_number == 1 && line.starts_with("#version")) continue;
        if (line.empty() && text.empty()) break;
        std::string_view left, right;
        REQUIRE(data, split_pair(line, left, right),
                "{}:{}: expected two tokens with one space between", path, line_number);
        joined.assign(left).append(right);
        std::array<int32_t, 3> found{};
        const std::array<std::string_view, 3> parts{left, right, joined};
        for (size_t i = 0; i < parts.size(); ++i) {
            const auto id = ids.find(parts[i]);
            REQUIRE(data, id != ids.end(), "{}:{}: \"{}\" is not in the vocabulary", path,
                    line_number, parts[i]);
            found[i] = id->second;
        }
        const uint64_t pair =
            static_cast<uint64_t>(found[0]) << 32 | static_cast<uint64_t>(found[1]);
        REQUIRE(data, seen.insert(pair).second, "{}:{}: the pair \"{} {}\" was merged before", path,
                line_number, left, right);
        merges.push_back({found[0], found[1], found[2]});
    }
    return merges;
}

}  // namespace

std::string to_byte_level_text(std::string_view bytes) {
    std::string text;
    for (const char c : bytes) {
        const uint16_t point = code_points[static_cast<unsigned char>(c)];
        if (point < 0x80) {
            text.push_back(static_cast<char>(point));
        } else {
            text.push_back(static_cast<char>(0xC0 | point >> 6));
            text.push_back(static_cast<char>(0x80 | (point & 0x3F)));
        }
    }
    return text;
}

std::optional<std::string> from_byte_level_text(std::string_view text) {
    std::string bytes;
    while (!text.empty()) {
        const Utf8Sequence sequence = next_utf8_sequence(text);
        if (sequence.state != Utf8Sequence::State::whole || sequence.length > 2) return {};
        const auto first = static_cast<unsigned char>(text[0]);
        const size_t point = sequence.length == 1
                                 ? first
                                 : (first & 0x1Fu) << 6 | (static_cast<unsigned>(text[1]) & 0x3Fu);
        if (point >= bytes_of_code_points.size() || bytes_of_code_points[point] < 0) return {};
        bytes.push_back(static_cast<char>(bytes_of_code_points[point]));
        text.remove_prefix(sequence.length);
    }
    return bytes;
}

std::array<unsigned char, 256> byte_level_order() {
    std::array<unsigned char, 256> order{};
    for (size_t i = 0; i < 256; ++i)
        order[i] = static_cast<unsigned char>(i);
    std::sort(order.begin(), order.end(),
              [](unsigned char a, unsigned char b) { return code_points[a] < code_points[b]; });
    return order;
}

BpeModel parse_bpe_model(std::string_view vocab_json, const std::string& vocab_path,
                         std::string_view merges_text, const std::string& merges_path,
                         const std::vector<std::string>* special_tokens) {
    BpeModel model;
    model.tokens = read_vocab(vocab_json, vocab_path);
    const auto in_vocab = [&](const std::string& token) {
        return std::find(model.tokens.begin(), model.tokens.end(), token) != model.tokens.end();
    };
    if (special_tokens != nullptr) {
        model.special_tokens = *special_tokens;
    } else if (in_vocab(end_of_text)) {
        model.special_tokens = {end_of_text};
    }
    for (const std::string& token : model.special_tokens) {
        REQUIRE(data, !token.empty() && in_vocab(token),
                "{}: the special token \"{}\" is not in the vocabulary", vocab_path, token);
    }
    const std::unordered_set<std::string> special(model.special_tokens.begin(),
                                                  model.special_tokens.end());

    TokenIds ids;
    std::vector<std::string> bytes_of(model.tokens.size());
    model.byte_ids.fill(-1);
    for (size_t id = 0; id < model.tokens.size(); ++id) {
        const std::string& written = model.tokens[id];
        if (special.contains(written)) {
            bytes_of[id] = written;
            continue;
        }
        std::optional<std::string> bytes = from_byte_level_text(written);
        REQUIRE(data, bytes && !bytes->empty(),
                "{}: token {} \"{}\" is not in the byte-level alphabet; if it is a special token, "
                "name it in {}",
                vocab_path, id, written, tokenizer_description_file);
        ids.emplace(written, static_cast<int32_t>(id));
        if (bytes->size() == 1) {
            model.byte_ids[static_cast<unsigned char>((*bytes)[0])] = static_cast<int32_t>(id);
        }
        bytes_of[id] = std::move(*bytes);
    }
    for (size_t byte = 0; byte < 256; ++byte) {
        REQUIRE(data, model.byte_ids[byte] >= 0, "{}: no token for the byte 0x{:02X} (\"{}\")",
                vocab_path, byte, to_byte_level_text(std::string(1, static_cast<char>(byte))));
    }
    model.merges = read_merges(merges_text, merges_path, ids);
    model.tokens = std::move(bytes_of);
    return model;
}

TokenizerFiles write_bpe_model(const BpeModel& model) {
    const std::unordered_set<std::string> special(model.special_tokens.begin(),
                                                  model.special_tokens.end());
    const auto written = [&](int32_t id) {
        const std::string& token = model.tokens[static_cast<size_t>(id)];
        return special.contains(token) ? token : to_byte_level_text(token);
    };
    io::JsonObject vocab;
    for (size_t id = 0; id < model.tokens.size(); ++id) {
        const auto number = static_cast<int32_t>(id);
        CHECK(vocab.insert(written(number), number), "token {} is twice in the vocabulary", id);
    }
    std::string merges = "#version: 0.2\n";
    for (const BpeModel::Merge& merge : model.merges) {
        merges += written(merge.left) + ' ' + written(merge.right) + '\n';
    }
    io::Json description = io::Json::object();
    description["kind"] = ByteLevelBpe::kind;
    description["special_tokens"] = io::Json::array();
    for (const std::string& token : model.special_tokens) {
        description["special_tokens"].push_back(token);
    }
    return {{bpe_vocab_file, io::Json(std::move(vocab)).dump() + "\n"},
            {bpe_merges_file, merges},
            {tokenizer_description_file, description.dump(2) + "\n"}};
}

}  // namespace plinth::core::data
