// SPDX-License-Identifier: Apache-2.0
#include "launch/config/load.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "kernels/runtime/error.h"

namespace plinth::launch {
namespace {

using core::io::FileSystem;

constexpr uint64_t largest_file = uint64_t{1} << 20;

std::string normal_path(const std::string& path) {
    return std::filesystem::path(path).lexically_normal().string();
}

std::string read_limited(FileSystem& files, const std::string& path) {
    REQUIRE(config, files.exists(path), "{}: no such configuration file", path);
    REQUIRE(config, !files.is_directory(path), "{}: is a folder, not a configuration file", path);
    const uint64_t size = files.open_read(path)->size();
    REQUIRE(config, size <= largest_file, "{}: {} bytes; a configuration file holds at most 1 MiB",
            path, size);
    return core::io::read_all(files, path);
}

// Takes the key `include` out of the document and returns the files it names.
std::vector<std::string> take_includes(Value& document, const std::string& path) {
    const auto entry = std::find_if(document.entries.begin(), document.entries.end(),
                                    [](const Value::Entry& e) { return e.key == "include"; });
    if (entry == document.entries.end()) return {};
    Value value = entry->value;
    document.entries.erase(entry);
    if (value.kind == Value::Kind::scalar) value = {.kind = Value::Kind::list, .items = {value}};
    const auto names =
        make_codec(std::type_identity<std::vector<std::string>>{}, {}).read(value, "include");
    std::vector<std::string> included;
    const std::filesystem::path folder = std::filesystem::path(path).parent_path();
    for (const std::string& name : names)
        included.push_back(normal_path((folder / name).string()));
    return included;
}

// `chain` holds the files whose includes are being read, outermost first.
void read_chain(Schema& schema, FileSystem& files, std::vector<std::string> chain,
                const std::string& path) {
    const bool cycle = std::find(chain.begin(), chain.end(), path) != chain.end();
    chain.push_back(path);
    constexpr size_t longest_chain = 16;
    REQUIRE(config, !cycle && chain.size() <= longest_chain,
            "{}: include: the files include each other in a circle: {}", chain.front(),
            fmt::join(chain, " -> "));
    Value document = parse_yaml(read_limited(files, path), path);
    for (const std::string& included : take_includes(document, path))
        read_chain(schema, files, chain, included);
    schema.read(document);
}

}  // namespace

void read_file(Schema& schema, FileSystem& files, const std::string& path) {
    read_chain(schema, files, {}, normal_path(path));
}

void read_text(Schema& schema, const std::string& text, const std::string& name) {
    schema.read(parse_yaml(text, name));
}

void require_no_problem(const Schema& schema, const std::optional<Problem>& problem) {
    if (problem) fail_at(schema.origin(problem->key), problem->key, problem->message);
}

}  // namespace plinth::launch
