// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <span>
#include <string>

#include "core/io/file.h"
#include "launch/config/schema.h"

namespace plinth::launch {

/// Reads a configuration file over the schema's present values. Its key `include: FILE` (or a list
/// of files), relative to the file itself, is read first, so the file wins over what it includes.
/// Every file is checked in full, also where a later one overrides it.
void read_file(Schema& schema, core::io::FileSystem& files, const std::string& path);

/// Reads configuration text, for example the resolved one that a checkpoint holds. `name` stands
/// for the file in messages. Includes are refused.
void read_text(Schema& schema, const std::string& text, const std::string& name);

/// A key whose value does not fit the others.
struct Problem {
    std::string key;
    std::string message;
};

/// Throws the problem as one line that starts with the place where the key was given.
void require_no_problem(const Schema& schema, const std::optional<Problem>& problem);

/// Defaults, then the file with its includes, then the overrides in order; then what was left to be
/// derived is filled in and the whole is validated. `Config` has declare(Schema&, Config&),
/// resolve(Config&) and validate(const Config&). An empty path reads no file.
template <class Config>
Config load(core::io::FileSystem& files, const std::string& path,
            std::span<const std::string> overrides) {
    Config config;
    Schema schema;
    declare(schema, config);
    if (!path.empty()) read_file(schema, files, path);
    for (const std::string& word : overrides)
        schema.apply_override(word);
    resolve(config);
    require_no_problem(schema, validate(config));
    return config;
}

/// The resolved configuration as YAML text; `parse_config` reads it back exactly.
template <class Config>
std::string to_yaml(const Config& config) {
    Config copy = config;
    Schema schema;
    declare(schema, copy);
    return schema.dump();
}

template <class Config>
Config parse_config(const std::string& text, const std::string& name) {
    Config config;
    Schema schema;
    declare(schema, config);
    read_text(schema, text, name);
    resolve(config);
    require_no_problem(schema, validate(config));
    return config;
}

/// What differs between a stored configuration and the one of a resume, with each key's class.
template <class Config>
std::vector<Change> diff_configs(Config before, Config after) {
    Schema old_schema;
    Schema new_schema;
    declare(old_schema, before);
    declare(new_schema, after);
    return diff(old_schema, new_schema);
}

}  // namespace plinth::launch
