// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "launch/config/codec.h"
#include "launch/config/value.h"

namespace plinth::launch {

/// Upper bound of a dim: keeps every product of sizes far inside 64 bits.
inline constexpr double largest_dim = 1 << 30;

/// One configuration key, bound to the field of a configuration struct.
struct Key {
    std::string path;  ///< "train.steps"
    std::string type;  ///< for people: "integer", "list of text", "fp32 | bf16"
    Attributes attributes;
    Resume resume = Resume::free;
    std::string default_text;  ///< what `write` gave when the key was bound
    std::vector<Key> element;  ///< of a list of maps: the keys of one element
    /// Sets the field, or throws and keeps it. `path` is the whole path, for messages.
    std::function<void(const Value&, const std::string& path)> read;
    std::function<std::string()> write;  ///< the field as one line of YAML
    std::function<void()> reset;         ///< puts the default back
    Origin origin = {};                  ///< where the field's value was given; unknown: default
};

struct Section {
    std::string path;
    std::string doc;
    Resume resume;
};

/// The one declaration of a configuration: every key with its field, type, range, documentation and
/// resume class. Reading, overrides, the resolved text, the diff of two runs and the reference page
/// all come from it. It points into the structs it was bound to and must not outlive them.
///
///     schema.section("train", "The training loop.", Resume::free);
///     schema.key("train.steps", &train.steps, {.doc = "Optimizer steps to run.", .min = 1});
class Schema {
  public:
    /// Keys declared next have this resume class unless they name their own.
    void section(std::string path, std::string doc, Resume resume);

    /// bool, int64_t, double, std::string, and std::optional or std::vector of those.
    template <class T>
    void key(const std::string& path, T* field, const Attributes& attributes) {
        bind(path, field, attributes, make_codec(std::type_identity<T>{}, attributes));
    }
    /// A size in bytes ("512MiB").
    void bytes(const std::string& path, int64_t* field, const Attributes& attributes) {
        bind(path, field, attributes, bytes_codec(attributes));
    }
    /// A duration in seconds ("2h30m").
    void seconds(const std::string& path, double* field, const Attributes& attributes) {
        bind(path, field, attributes, seconds_codec(attributes));
    }
    /// One of several names.
    template <class E>
    void choice(const std::string& path, E* field, const Names<E>& names,
                const Attributes& attributes) {
        bind(path, field, attributes, choice_codec(names));
    }
    /// A list of maps: `declare(schema, element)` declares one element's keys, without a prefix. An
    /// element that is no map but plain text is taken as that of the key `main`, if one is named.
    template <class T>
    void list(const std::string& path, std::vector<T>* field, const Attributes& attributes,
              std::function<void(Schema&, T&)> declare, const std::string& main = {}) {
        T sample;
        Schema element;
        declare(element, sample);
        bind(path, field, attributes, list_of(map_codec<T>(std::move(declare), main)));
        keys_.back().element = element.keys_;
    }

    /// Applies a document's values over the present ones: unknown keys, wrong types and values out
    /// of range are refused with their place. `prefix` is the path of `document` in messages.
    void read(const Value& document, const std::string& prefix = {});

    /// Applies one command-line word: `a.b=value`, `a.0.b=value` (an element of a list) or `~a.b`
    /// (back to the default). Values are plain text, or YAML when they start with a quote, [ or {.
    void apply_override(const std::string& word);

    /// Every key with its present value, as YAML: sections and keys in declared order. Reading the
    /// text gives exactly the same values.
    std::string dump() const;
    /// The same on one line, "{a: 1, b: 2}", for an element of a list.
    std::string dump_inline() const;

    /// Where a key's value was given; unknown for a default.
    Origin origin(const std::string& path) const;

    const std::vector<Key>& keys() const { return keys_; }
    const std::vector<Section>& sections() const { return sections_; }

  private:
    template <class T>
    void bind(const std::string& path, T* field, const Attributes& attributes,
              const Codec<T>& codec) {
        add({.path = path,
             .type = codec.type,
             .attributes = attributes,
             .default_text = codec.write(*field),
             .read = [=](const Value& value,
                         const std::string& whole) { *field = codec.read(value, whole); },
             .write = [=] { return codec.write(*field); },
             .reset = [field, initial = *field] { *field = initial; }});
    }

    template <class T>
    static Codec<T> map_codec(std::function<void(Schema&, T&)> declare, const std::string& main) {
        return {main.empty() ? "map" : "map or text",
                [declare, main](const Value& value, const std::string& path) {
                    T element;
                    Schema schema;
                    declare(schema, element);
                    const bool is_short = !main.empty() && value.kind == Value::Kind::scalar;
                    schema.read(is_short ? map_of(main, value) : value, path);
                    return element;
                },
                [declare](const T& value) {
                    T element = value;
                    Schema schema;
                    declare(schema, element);
                    return schema.dump_inline();
                }};
    }

    /// {key: value}, where the value was written.
    static Value map_of(const std::string& key, const Value& value);
    void add(Key key);
    Key* find(std::string_view path);
    bool is_section(std::string_view path) const;
    void read_entry(const std::string& path, const Value::Entry& entry, const std::string& prefix);
    void set(const std::string& path, Value value);
    void set_element(const std::string& path, const Value& value);
    void reset(const std::string& path, const Origin& origin);
    [[noreturn]] void unknown(const std::string& path, const Origin& origin,
                              const std::string& prefix) const;

    std::vector<Section> sections_;
    std::vector<Key> keys_;
};

/// A key whose value differs between two runs.
struct Change {
    std::string path;
    std::string before;
    std::string after;
    Resume resume;
};

/// The keys of two schemas of the same declaration that differ, in declared order.
std::vector<Change> diff(const Schema& before, const Schema& after);

}  // namespace plinth::launch
