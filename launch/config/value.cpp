// SPDX-License-Identifier: Apache-2.0
#include "launch/config/value.h"

#include <fmt/format.h>

namespace plinth::launch {

std::string Origin::text() const {
    return line > 0 ? fmt::format("{}:{}:{}", source, line, column) : source;
}

std::string Value::describe() const {
    switch (kind) {
        case Kind::null:
            return "null";
        case Kind::list:
            return "a list";
        case Kind::map:
            return "a map";
        case Kind::scalar:
            break;
    }
    constexpr size_t longest = 60;
    const std::string shown = scalar.size() > longest ? scalar.substr(0, longest) + "..." : scalar;
    return quoted ? fmt::format("the text \"{}\"", shown) : fmt::format("'{}'", shown);
}

void relabel(Value& value, const Origin& origin) {
    value.origin = origin;
    for (Value& item : value.items)
        relabel(item, origin);
    for (Value::Entry& entry : value.entries) {
        entry.origin = origin;
        relabel(entry.value, origin);
    }
}

}  // namespace plinth::launch
