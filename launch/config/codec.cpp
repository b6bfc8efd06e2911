// SPDX-License-Identifier: Apache-2.0
#include "launch/config/codec.h"

#include <fmt/ranges.h>

#include <cmath>

#include "kernels/runtime/error.h"
#include "launch/config/text.h"

namespace plinth::launch {
namespace {

// The text of a scalar that is not in quotes; a quoted one is text on purpose.
const std::string& plain_scalar(const Value& value, const std::string& path,
                                const std::string& expected) {
    if (value.kind != Value::Kind::scalar || value.quoted)
        fail_at(value.origin, path, fmt::format("expected {}, got {}", expected, value.describe()));
    return value.scalar;
}

template <class T>
T in_range(T number, const Value& value, const std::string& path, const Attributes& attributes) {
    if (!attributes.contains(static_cast<double>(number)))
        fail_at(value.origin, path,
                fmt::format("{} is out of range, must be {}", value.scalar, attributes.range()));
    return number;
}

}  // namespace

std::string to_string(Resume resume) {
    switch (resume) {
        case Resume::free:
            return "free";
        case Resume::recorded:
            return "recorded";
        case Resume::refused:
            return "refused";
    }
    return "?";
}

std::string Attributes::range() const {
    std::vector<std::string> parts;
    if (min) parts.push_back(fmt::format(">= {}", *min));
    if (above) parts.push_back(fmt::format("> {}", *above));
    if (max) parts.push_back(fmt::format("<= {}", *max));
    if (below) parts.push_back(fmt::format("< {}", *below));
    return fmt::format("{}", fmt::join(parts, ", "));
}

bool Attributes::contains(double value) const {
    return (!min || value >= *min) && (!above || value > *above) && (!max || value <= *max) &&
           (!below || value < *below);
}

void fail_at(const Origin& origin, const std::string& path, const std::string& message) {
    if (!origin.known()) FAIL(config, "{}: {}", path, message);
    FAIL(config, "{}: {}: {}", origin.text(), path, message);
}

Codec<bool> make_codec(std::type_identity<bool>, const Attributes&) {
    return {"bool",
            [](const Value& value, const std::string& path) {
                const std::string& text = plain_scalar(value, path, "true or false");
                if (text != "true" && text != "false")
                    fail_at(value.origin, path,
                            fmt::format("expected true or false, got '{}'", text));
                return text == "true";
            },
            [](bool value) { return std::string(value ? "true" : "false"); }};
}

Codec<int64_t> make_codec(std::type_identity<int64_t>, const Attributes& attributes) {
    return {"integer",
            [attributes](const Value& value, const std::string& path) {
                const std::string& text = plain_scalar(value, path, "an integer");
                if (const auto number = parse_integer(text))
                    return in_range(*number, value, path, attributes);
                const auto number = parse_number(text);
                const bool whole =
                    number && *number == std::floor(*number) && std::abs(*number) < 9e15;
                const std::string hint =
                    whole ? fmt::format(" (write {})", static_cast<int64_t>(*number)) : "";
                fail_at(value.origin, path,
                        fmt::format("expected an integer, got {}{}", value.describe(), hint));
            },
            [](int64_t value) { return fmt::format("{}", value); }};
}

Codec<double> make_codec(std::type_identity<double>, const Attributes& attributes) {
    return {"number",
            [attributes](const Value& value, const std::string& path) {
                const auto number = parse_number(plain_scalar(value, path, "a number"));
                if (!number)
                    fail_at(value.origin, path,
                            fmt::format("expected a number, got {}", value.describe()));
                return in_range(*number, value, path, attributes);
            },
            // fmt writes the shortest digits that read back as the same double.
            [](double value) { return fmt::format("{}", value); }};
}

Codec<std::string> make_codec(std::type_identity<std::string>, const Attributes&) {
    return {
        "text",
        [](const Value& value, const std::string& path) {
            if (value.kind == Value::Kind::null)
                fail_at(value.origin, path, "expected text, got null (the empty text is '\"\"')");
            if (value.kind != Value::Kind::scalar)
                fail_at(value.origin, path, fmt::format("expected text, got {}", value.describe()));
            return value.scalar;
        },
        [](const std::string& value) { return quote_yaml(value); }};
}

Codec<int64_t> bytes_codec(const Attributes& attributes) {
    return {"size",
            [attributes](const Value& value, const std::string& path) {
                const auto bytes = parse_bytes(plain_scalar(value, path, "a size"));
                if (!bytes)
                    fail_at(value.origin, path,
                            fmt::format("expected a size such as 512MiB or 2GB, got {}",
                                        value.describe()));
                return in_range(*bytes, value, path, attributes);
            },
            [](int64_t value) { return format_bytes(value); }};
}

Codec<double> seconds_codec(const Attributes& attributes) {
    return {"duration",
            [attributes](const Value& value, const std::string& path) {
                const auto seconds = parse_seconds(plain_scalar(value, path, "a duration"));
                if (!seconds)
                    fail_at(value.origin, path,
                            fmt::format("expected a duration such as 90s or 2h30m, got {}",
                                        value.describe()));
                return in_range(*seconds, value, path, attributes);
            },
            [](double value) { return format_seconds(value); }};
}

Codec<size_t> name_codec(std::vector<std::string> names) {
    const std::string type = fmt::format("{}", fmt::join(names, " | "));
    return {type,
            [names, type](const Value& value, const std::string& path) {
                for (size_t i = 0; i < names.size(); ++i)
                    if (value.kind == Value::Kind::scalar && value.scalar == names[i]) return i;
                const std::string near =
                    value.kind == Value::Kind::scalar ? nearest(value.scalar, names) : "";
                const std::string hint =
                    near.empty() ? "" : fmt::format(" (did you mean {}?)", near);
                fail_at(value.origin, path,
                        fmt::format("expected one of {}, got {}{}", type, value.describe(), hint));
            },
            [names](const size_t& index) { return names.at(index); }};
}

}  // namespace plinth::launch
