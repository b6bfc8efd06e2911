// SPDX-License-Identifier: Apache-2.0
#include "core/data/manifest.h"

#include <algorithm>
#include <limits>

#include "kernels/runtime/error.h"

namespace plinth::core::data {
namespace {

using io::Json;

int64_t total(const std::vector<ShardEntry>& shards, int64_t ShardEntry::*field) {
    int64_t sum = 0;
    for (const ShardEntry& shard : shards)
        REQUIRE(data, !__builtin_add_overflow(sum, shard.*field, &sum),
                "the shards up to {} together hold more than 2^63", shard.prefix);
    return sum;
}

int64_t get_count(const Json& json, const char* key) {
    const int64_t value = json.get_int(key);
    REQUIRE(data, value >= 0, "{}: key '{}': expected a count, found {}", json.as_object().where(),
            key, value);
    return value;
}

/// Shard files lie beside the manifest: a prefix that leaves the folder is refused.
const std::string& get_prefix(const Json& json) {
    const std::string& prefix = json.get_string("prefix");
    const bool inside =
        !prefix.empty() && prefix.front() != '/' && prefix.find("..") == std::string::npos;
    REQUIRE(data, inside, "{}: key 'prefix': '{}' does not lie in the manifest's folder",
            json.as_object().where(), prefix);
    return prefix;
}

Json to_json(const ShardEntry& shard) {
    Json json;
    json["prefix"] = shard.prefix;
    json["tokens"] = shard.tokens;
    json["documents"] = shard.documents;
    json["bytes"] = shard.bytes;
    json["bin_xxh3"] = shard.bin_xxh3;
    json["idx_xxh3"] = shard.idx_xxh3;
    return json;
}

ShardEntry shard_from(const Json& json) {
    return {.prefix = get_prefix(json),
            .tokens = get_count(json, "tokens"),
            .documents = get_count(json, "documents"),
            .bytes = get_count(json, "bytes"),
            .bin_xxh3 = json.get_string("bin_xxh3"),
            .idx_xxh3 = json.get_string("idx_xxh3")};
}

Json to_json(const SplitEntry& split) {
    Json json;
    json["tokens"] = split.tokens();
    json["documents"] = split.documents();
    json["bytes"] = split.bytes();
    Json& shards = json["shards"];
    shards = Json::array();
    for (const ShardEntry& shard : split.shards)
        shards.push_back(to_json(shard));
    return json;
}

SplitEntry split_from(const Json& json, const std::string& name) {
    SplitEntry split;
    for (const Json& shard : json.get_array("shards"))
        split.shards.push_back(shard_from(shard));
    const auto check = [&](const char* key, int64_t sum) {
        REQUIRE(data, get_count(json, key) == sum,
                "{}: split '{}': key '{}' is {}, but its shards add up to {}",
                json.as_object().where(), name, key, json.get_int(key), sum);
    };
    check("tokens", split.tokens());
    check("documents", split.documents());
    check("bytes", split.bytes());
    return split;
}

}  // namespace

int64_t SplitEntry::tokens() const {
    return total(shards, &ShardEntry::tokens);
}
int64_t SplitEntry::documents() const {
    return total(shards, &ShardEntry::documents);
}
int64_t SplitEntry::bytes() const {
    return total(shards, &ShardEntry::bytes);
}

const SplitEntry& DatasetManifest::split(const std::string& name, const std::string& where) const {
    const auto found = splits.find(name);
    if (found == splits.end()) {
        std::vector<std::string> names;
        for (const auto& [known, ignored] : splits)
            names.push_back(known);
        FAIL(data, "{}: there is no split '{}' (there is: {})", where, name,
             fmt::join(names, ", "));
    }
    return found->second;
}

Json DatasetManifest::to_json() const {
    Json json;
    json["format"] = kFormat;
    json["source"] = source;
    json["tokenizer"] = tokenizer;
    json["tokenizer_hash"] = tokenizer_hash;
    json["vocab_size"] = vocab_size;
    json["eod_id"] = eod_id;
    json["dtype"] = dtype;
    Json& reasons = json["dropped"];
    reasons = Json::object();
    for (const auto& [reason, documents] : dropped)
        reasons[reason] = documents;
    Json& parts = json["splits"];
    parts = Json::object();
    for (const auto& [name, split] : splits)
        parts[name] = data::to_json(split);
    return json;
}

DatasetManifest DatasetManifest::from_json(const Json& json, const std::string& where) {
    const int64_t format = json.get_int("format");
    REQUIRE(data, format == kFormat,
            "{}: manifest format {}, but this program reads format {}: prepare the data again",
            where, format, kFormat);
    DatasetManifest manifest;
    manifest.source = json.get_string("source");
    manifest.tokenizer = json.get_string("tokenizer");
    manifest.tokenizer_hash = json.get_string("tokenizer_hash");
    manifest.vocab_size = json.get_int("vocab_size");
    manifest.eod_id = json.get_int("eod_id");
    manifest.dtype = json.get_string("dtype");
    REQUIRE(data,
            manifest.vocab_size > 0 && manifest.vocab_size <= std::numeric_limits<int32_t>::max(),
            "{}: key 'vocab_size': {} is no number of token ids", where, manifest.vocab_size);
    REQUIRE(data, manifest.eod_id >= -1 && manifest.eod_id < manifest.vocab_size,
            "{}: key 'eod_id': {} lies outside the vocabulary of {}", where, manifest.eod_id,
            manifest.vocab_size);
    REQUIRE(data, manifest.dtype == "u16" || manifest.dtype == "i32",
            "{}: key 'dtype': expected 'u16' or 'i32', found '{}'", where, manifest.dtype);
    const Json& dropped = json.get_object("dropped");
    for (const auto& [reason, ignored] : dropped.as_object().members())
        manifest.dropped[reason] = get_count(dropped, reason.c_str());
    const Json& splits = json.get_object("splits");
    for (const auto& [name, ignored] : splits.as_object().members())
        manifest.splits[name] = split_from(splits.get_object(name), name);
    return manifest;
}

DatasetManifest DatasetManifest::load(io::FileSystem& files, const std::string& folder) {
    const std::string path = io::join(folder, kFileName);
    if (!files.exists(path)) {
        const io::FileStatus::Kind kind = files.status(folder).kind;
        REQUIRE(data, kind != io::FileStatus::Kind::none,
                "{}: no such file or folder; a data set is a folder that `plinth data prepare` "
                "wrote",
                folder);
        REQUIRE(data, kind == io::FileStatus::Kind::folder,
                "{}: is a file, no data set: make one of its text with `plinth data prepare` and "
                "name that folder",
                folder);
        FAIL(data, "{}: no such file: {} holds no finished data set; run `plinth data prepare`",
             path, folder);
    }
    return from_json(Json::parse(io::read_all(files, path), path), path);
}

void DatasetManifest::save(io::FileSystem& files, const std::string& folder) const {
    io::write_atomically(files, io::join(folder, kFileName), to_json().dump(2) + "\n");
}

}  // namespace plinth::core::data
