// SPDX-License-Identifier: Apache-2.0
#include "launch/config/schema.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/runtime/error.h"
#include "launch/config/text.h"

namespace plinth::launch {
namespace {

std::string child(const std::string& prefix, const std::string& name) {
    return prefix.empty() ? name : fmt::format("{}.{}", prefix, name);
}

bool starts_with_path(std::string_view path, std::string_view prefix) {
    return path.size() > prefix.size() && path.starts_with(prefix) && path[prefix.size()] == '.';
}

std::string parent(const std::string& path) {
    const size_t dot = path.rfind('.');
    return dot == std::string::npos ? std::string() : path.substr(0, dot);
}

std::string leaf(const std::string& path) {
    return path.substr(path.rfind('.') + 1);
}

// The value behind `steps` ("0", "weight") inside a list's value, which must exist.
Value& descend(Value& value, std::string_view steps, const std::string& path,
               const Origin& origin) {
    if (steps.empty()) return value;
    const size_t dot = steps.find('.');
    const std::string step(steps.substr(0, dot));
    const std::string_view rest =
        dot == std::string_view::npos ? std::string_view() : steps.substr(dot + 1);
    if (value.kind == Value::Kind::list) {
        const auto index = parse_integer(step);
        if (!index || *index < 0 || *index >= static_cast<int64_t>(value.items.size()))
            fail_at(origin, path,
                    fmt::format("'{}' is not an element; the list has {}, counted from 0", step,
                                value.items.size()));
        return descend(value.items[static_cast<size_t>(*index)], rest, path, origin);
    }
    if (value.kind != Value::Kind::map)
        fail_at(origin, path, fmt::format("'{}' leads into a single value", step));
    for (Value::Entry& entry : value.entries)
        if (entry.key == step) return descend(entry.value, rest, path, origin);
    // A new name: the element's own schema decides whether it is a key.
    value.entries.push_back({step, origin, {}});
    if (!rest.empty()) value.entries.back().value.kind = Value::Kind::map;
    return descend(value.entries.back().value, rest, path, origin);
}

// The value of a command-line word. Plain text is taken as it stands, so that '#' or ': ' in a
// path or a prompt need no second layer of quotes.
Value parse_word(const std::string& text, const std::string& path, const Origin& origin) {
    Value value;
    if (!text.empty() && std::string_view("[{\"'").find(text[0]) != std::string_view::npos) {
        value = parse_yaml(text, origin.source);
    } else if (text != "null") {
        value.kind = Value::Kind::scalar;
        value.scalar = text;
        if (text.find(',') != std::string::npos)
            fail_at(origin, path,
                    fmt::format("'{}' looks like a sweep; one run takes one value (a list is "
                                "[a,b], a text with a comma needs inner quotes: {}='\"{}\"')",
                                text, path, text));
        if (!is_utf8(text)) fail_at(origin, path, "not UTF-8 text");
    }
    relabel(value, origin);
    return value;
}

}  // namespace

void Schema::section(std::string path, std::string doc, Resume resume) {
    sections_.push_back({std::move(path), std::move(doc), resume});
}

Value Schema::map_of(const std::string& key, const Value& value) {
    Value map;
    map.kind = Value::Kind::map;
    map.entries.push_back({key, value.origin, value});
    map.origin = value.origin;
    return map;
}

void Schema::add(Key key) {
    CHECK(find(key.path) == nullptr, "key {} is declared twice", key.path);
    const Resume inherited = sections_.empty() ? Resume::free : sections_.back().resume;
    key.resume = key.attributes.resume.value_or(inherited);
    keys_.push_back(std::move(key));
}

Key* Schema::find(std::string_view path) {
    for (Key& key : keys_)
        if (key.path == path) return &key;
    return nullptr;
}

bool Schema::is_section(std::string_view path) const {
    return std::any_of(keys_.begin(), keys_.end(),
                       [&](const Key& key) { return starts_with_path(key.path, path); });
}

Origin Schema::origin(const std::string& path) const {
    for (const Key& key : keys_)
        if (key.path == path || starts_with_path(path, key.path)) return key.origin;
    return {};
}

void Schema::read(const Value& document, const std::string& prefix) {
    if (document.kind != Value::Kind::map)
        fail_at(document.origin, prefix.empty() ? "configuration" : prefix,
                fmt::format("expected keys (name: value), got {}", document.describe()));
    for (const Value::Entry& entry : document.entries)
        read_entry(entry.key, entry, prefix);
}

// `path` is the key's path in this schema, `prefix` where this schema hangs in the whole document.
void Schema::read_entry(const std::string& path, const Value::Entry& entry,
                        const std::string& prefix) {
    if (Key* key = find(path)) {
        key->read(entry.value, child(prefix, path));
        key->origin = entry.value.origin;
        return;
    }
    if (!is_section(path)) unknown(path, entry.origin, prefix);
    if (entry.value.kind != Value::Kind::map)
        fail_at(entry.value.origin, child(prefix, path),
                fmt::format("is a section; expected its keys, got {}", entry.value.describe()));
    for (const Value::Entry& inner : entry.value.entries)
        read_entry(child(path, inner.key), inner, prefix);
}

void Schema::unknown(const std::string& path, const Origin& origin,
                     const std::string& prefix) const {
    const std::string section = parent(path);
    std::vector<std::string> siblings;
    std::vector<std::string> elsewhere;
    for (const Key& key : keys_) {
        if (section.empty() || starts_with_path(key.path, section)) {
            const size_t begin = section.empty() ? 0 : section.size() + 1;
            siblings.push_back(key.path.substr(begin, key.path.find('.', begin) - begin));
        }
        if (leaf(key.path) == leaf(path)) elsewhere.push_back(key.path);
    }
    std::string hint = nearest(leaf(path), siblings);
    if (hint.empty() && !elsewhere.empty()) hint = elsewhere.front();
    std::string message = "unknown key";
    if (!hint.empty())
        message += fmt::format(" (did you mean {}?)", hint);
    else if (leaf(path).find(':') != std::string::npos)
        message += " (YAML wants a space after the colon)";
    fail_at(origin, child(prefix, path), message);
}

void Schema::apply_override(const std::string& word) {
    const Origin origin{"command line: " + word, 0, 0};
    REQUIRE(config, is_utf8(word), "command line: an override is not UTF-8 text");
    if (word.starts_with('~')) return reset(word.substr(1), origin);
    const size_t equals = word.find('=');
    REQUIRE(config, equals != std::string::npos && equals > 0,
            "{}: expected key=value, or ~key for the default", origin.source);
    REQUIRE(config, word[0] != '+', "{}: every key exists already; write it without '+'",
            origin.source);
    const std::string path = word.substr(0, equals);
    Value value = parse_word(word.substr(equals + 1), path, origin);
    set(path, std::move(value));
}

void Schema::set(const std::string& path, Value value) {
    for (Key& key : keys_)
        if (starts_with_path(path, key.path)) return set_element(path, value);
    const Origin origin = value.origin;
    read_entry(path, {path, origin, std::move(value)}, {});
}

// The list's present value, written out and parsed, with one part replaced, is read as a whole:
// elements need no second way of being set, and every check applies.
void Schema::set_element(const std::string& path, const Value& value) {
    const auto key = std::find_if(keys_.begin(), keys_.end(), [&](const Key& candidate) {
        return starts_with_path(path, candidate.path);
    });
    Value whole = parse_yaml(key->write(), value.origin.source);
    relabel(whole, value.origin);
    descend(whole, std::string_view(path).substr(key->path.size() + 1), path, value.origin) = value;
    key->read(whole, key->path);
    key->origin = value.origin;
}

void Schema::reset(const std::string& path, const Origin& origin) {
    REQUIRE(config, path.find('=') == std::string::npos,
            "{}: ~key puts the default back and takes no value", origin.source);
    bool found = false;
    for (Key& key : keys_) {
        if (key.path != path && !starts_with_path(key.path, path)) continue;
        key.reset();
        key.origin = {};
        found = true;
    }
    if (!found) unknown(path, origin, {});
}

std::string Schema::dump() const {
    std::string text;
    std::vector<std::string> open;  // the sections that the last line was in
    for (const Key& key : keys_) {
        std::vector<std::string> names;
        for (std::string_view rest = key.path; !rest.empty();) {
            const size_t dot = std::min(rest.find('.'), rest.size());
            names.emplace_back(rest.substr(0, dot));
            rest.remove_prefix(std::min(dot + 1, rest.size()));
        }
        const std::string name = names.back();
        names.pop_back();
        size_t shared = 0;
        while (shared < std::min(open.size(), names.size()) && open[shared] == names[shared])
            ++shared;
        for (size_t i = shared; i < names.size(); ++i)
            text += fmt::format("{:{}}{}:\n", "", 2 * i, names[i]);
        text += fmt::format("{:{}}{}: {}\n", "", 2 * names.size(), name, key.write());
        open = std::move(names);
    }
    return text;
}

std::string Schema::dump_inline() const {
    std::string text = "{";
    for (const Key& key : keys_)
        text += fmt::format("{}{}: {}", text.size() > 1 ? ", " : "", key.path, key.write());
    return text + "}";
}

std::vector<Change> diff(const Schema& before, const Schema& after) {
    CHECK(before.keys().size() == after.keys().size(), "the schemas are not of one declaration");
    std::vector<Change> changes;
    for (size_t i = 0; i < before.keys().size(); ++i) {
        const Key& old_key = before.keys()[i];
        const Key& new_key = after.keys()[i];
        CHECK(old_key.path == new_key.path, "{} is compared with {}", old_key.path, new_key.path);
        const std::string old_text = old_key.write();
        const std::string new_text = new_key.write();
        if (old_text != new_text)
            changes.push_back({old_key.path, old_text, new_text, new_key.resume});
    }
    return changes;
}

}  // namespace plinth::launch
