// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace plinth::core::io {

class Json;

/// The members of a JSON object in their order, with constant-time look-up.
class JsonObject {
  public:
    using Member = std::pair<std::string, Json>;
    /// Null when there is no such key.
    const Json* find(std::string_view key) const;
    Json* find(std::string_view key);
    /// False, and nothing changes, when the key exists.
    bool insert(std::string key, Json value);
    const std::vector<Member>& members() const { return members_; }
    /// "manifest.json:12", where the text had the object; empty for objects built in memory.
    std::string where() const;
    bool operator==(const JsonObject& other) const;

  private:
    friend class JsonBuilder;
    std::vector<Member> members_;
    std::unordered_map<std::string, size_t> index_;  ///< only for objects of many members
    std::shared_ptr<const std::string> source_;
    int64_t line_ = 0;
};

/// A JSON value. Errors are of kind data and name the source, the line of the object, and the key.
class Json {
  public:
    using Array = std::vector<Json>;

    Json() = default;
    Json(std::nullptr_t) {}              // NOLINT: implicit on purpose, as below
    Json(bool value) : value_(value) {}  // NOLINT
    Json(std::integral auto value)       // NOLINT
        : value_(static_cast<int64_t>(value)) {}
    Json(double value) : value_(value) {}  // NOLINT
    /// Stored as the double of the float's shortest text: 0.1f is written 0.1 and reads back equal.
    Json(float value);                                            // NOLINT
    Json(const char* value) : value_(std::string(value)) {}       // NOLINT
    Json(std::string_view value) : value_(std::string(value)) {}  // NOLINT
    Json(std::string value) : value_(std::move(value)) {}         // NOLINT
    Json(Array value) : value_(std::move(value)) {}               // NOLINT
    Json(JsonObject value) : value_(std::move(value)) {}          // NOLINT
    static Json array() { return Json(Array{}); }
    static Json object() { return Json(JsonObject{}); }

    /// One whole JSON text (RFC 8259, UTF-8; a byte-order mark is skipped). Repeated keys and more
    /// than 200 levels are errors. Integers beyond 64 bits become doubles. `source` names the text
    /// in errors, as in "source:line:column: message".
    static Json parse(std::string_view text, const std::string& source);

    /// Shortest text that reads back equal; NaN and infinities become null, bytes that are not
    /// UTF-8 become U+FFFD. `indent` < 0: one line, no spaces.
    std::string dump(int indent = -1) const;

    bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
    bool is_bool() const { return std::holds_alternative<bool>(value_); }
    bool is_int() const { return std::holds_alternative<int64_t>(value_); }
    bool is_number() const { return is_int() || std::holds_alternative<double>(value_); }
    bool is_string() const { return std::holds_alternative<std::string>(value_); }
    bool is_array() const { return std::holds_alternative<Array>(value_); }
    bool is_object() const { return std::holds_alternative<JsonObject>(value_); }
    const char* type_name() const;  ///< "an integer", "a string", ...

    bool as_bool() const;
    int64_t as_int() const;
    double as_double() const;  ///< also of integers
    const std::string& as_string() const;
    const Array& as_array() const;
    const JsonObject& as_object() const;

    /// Members of an object. A missing key or a value of another type is an error.
    const Json& at(std::string_view key) const;
    bool get_bool(std::string_view key) const;
    int64_t get_int(std::string_view key) const;
    double get_double(std::string_view key) const;
    const std::string& get_string(std::string_view key) const;
    const Array& get_array(std::string_view key) const;
    const Json& get_object(std::string_view key) const;
    /// Null when the value is no object or has no such key.
    const Json* find(std::string_view key) const;
    bool contains(std::string_view key) const { return find(key) != nullptr; }

    /// For building: a member that is created when missing (null becomes an object), and an
    /// element at the end (null becomes an array).
    Json& operator[](std::string_view key);
    void push_back(Json value);

    bool operator==(const Json&) const = default;

  private:
    std::variant<std::monostate, bool, int64_t, double, std::string, Array, JsonObject> value_;
};

}  // namespace plinth::core::io
