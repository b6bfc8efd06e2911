// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "launch/config/value.h"

namespace plinth::launch {

/// What changing a key between a stop and a resume means.
enum class Resume {
    free,      ///< changes no bit: data ranks, stages, logging
    recorded,  ///< allowed with a warning; bitwise comparability with the old run ends there
    refused,   ///< the run would be another one: start it with checkpoint.init instead
};
std::string to_string(Resume resume);

/// What the schema knows about a key beyond its type. Bounds are for numbers, sizes and durations.
struct Attributes {
    std::string doc;
    std::string unit = {};
    std::optional<double> min = {};     ///< value >= min
    std::optional<double> above = {};   ///< value > above
    std::optional<double> max = {};     ///< value <= max
    std::optional<double> below = {};   ///< value < below
    std::optional<Resume> resume = {};  ///< default: that of the section

    /// ">= 1, < 2", or empty.
    std::string range() const;
    bool contains(double value) const;
};

/// The text form of one type: how it is read from a typed-out value, written as one line of YAML
/// and described. `read` gets the key's path for its messages and throws Error of kind config.
template <class T>
struct Codec {
    std::string type;
    std::function<T(const Value&, const std::string& path)> read;
    std::function<std::string(const T&)> write;
};

/// Throws "origin: path: message" with kind config.
[[noreturn]] void fail_at(const Origin& origin, const std::string& path,
                          const std::string& message);

Codec<bool> make_codec(std::type_identity<bool>, const Attributes&);
Codec<int64_t> make_codec(std::type_identity<int64_t>, const Attributes&);
Codec<double> make_codec(std::type_identity<double>, const Attributes&);
Codec<std::string> make_codec(std::type_identity<std::string>, const Attributes&);
/// A whole number of bytes: "512MiB", "2GB", "4096".
Codec<int64_t> bytes_codec(const Attributes&);
/// Seconds: "90s", "2h30m", "600".
Codec<double> seconds_codec(const Attributes&);
/// One of the names, as its index.
Codec<size_t> name_codec(std::vector<std::string> names);

/// `null` is the empty optional.
template <class T>
Codec<std::optional<T>> make_codec(std::type_identity<std::optional<T>>,
                                   const Attributes& attributes) {
    const Codec<T> inner = make_codec(std::type_identity<T>{}, attributes);
    return {inner.type + " or null",
            [inner](const Value& value, const std::string& path) -> std::optional<T> {
                if (value.kind == Value::Kind::null) return std::nullopt;
                return inner.read(value, path);
            },
            [inner](const std::optional<T>& value) {
                return value ? inner.write(*value) : std::string("null");
            }};
}

/// A list of anything that has a codec. Bounds apply to the elements.
template <class T>
Codec<std::vector<T>> list_of(const Codec<T>& inner) {
    return {"list of " + inner.type,
            [inner](const Value& value, const std::string& path) {
                if (value.kind != Value::Kind::list)
                    fail_at(
                        value.origin, path,
                        fmt::format("expected a list such as [a, b], got {}", value.describe()));
                std::vector<T> items;
                for (const Value& item : value.items)
                    items.push_back(inner.read(item, fmt::format("{}.{}", path, items.size())));
                return items;
            },
            [inner](const std::vector<T>& items) {
                std::string text = "[";
                for (const T& item : items)
                    text += (text.size() > 1 ? ", " : "") + inner.write(item);
                return text + "]";
            }};
}

template <class T>
Codec<std::vector<T>> make_codec(std::type_identity<std::vector<T>>, const Attributes& attributes) {
    return list_of(make_codec(std::type_identity<T>{}, attributes));
}

/// A named value of an enumeration.
template <class E>
using Names = std::vector<std::pair<std::string, E>>;

template <class E>
Codec<E> choice_codec(const Names<E>& names) {
    std::vector<std::string> texts;
    for (const auto& [text, value] : names)
        texts.push_back(text);
    const Codec<size_t> index = name_codec(texts);
    return {index.type,
            [names, index](const Value& value, const std::string& path) {
                return names[index.read(value, path)].second;
            },
            [names](const E& value) {
                for (const auto& [text, named] : names)
                    if (named == value) return text;
                return std::string("?");
            }};
}

}  // namespace plinth::launch
