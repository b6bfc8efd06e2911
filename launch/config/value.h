// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace plinth::launch {

/// Where a value was written: "file.yaml:12:7", or "command line: a.b=v" (then `line` is 0).
struct Origin {
    std::string source = {};
    int line = 0;
    int column = 0;

    std::string text() const;
    bool known() const { return !source.empty(); }
};

/// One node of a configuration document, still untyped, that remembers where it was written.
/// Document order is kept; the parser has already refused duplicate keys.
struct Value {
    enum class Kind { null, scalar, list, map };
    struct Entry;

    Kind kind = Kind::null;
    bool quoted = false;         ///< a scalar in quotes is never a number, a bool or null
    std::string scalar = {};     ///< of a scalar
    std::vector<Value> items;    ///< of a list
    std::vector<Entry> entries;  ///< of a map
    Origin origin = {};

    /// "a list", "a map", "null", "'text'": for messages.
    std::string describe() const;
};

struct Value::Entry {
    std::string key;
    Origin origin;  ///< of the key
    Value value;
};

/// Marks the whole tree as coming from `origin` (a command-line word has no lines).
void relabel(Value& value, const Origin& origin);

/// Parses one YAML document into a map (an empty document is an empty map) or any other value.
///
/// Refused, with file:line:column: syntax errors, duplicate keys, anchors and aliases, tags, merge
/// keys, keys that are not plain text, several documents, more than 32 levels, more than 1 MiB, and
/// bytes that are not UTF-8. Errors are of kind config.
Value parse_yaml(const std::string& text, const std::string& source);

}  // namespace plinth::launch
