// SPDX-License-Identifier: Apache-2.0
#include "core/io/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>

#include "kernels/runtime/error.h"

namespace plinth::core::io {
namespace {

constexpr size_t kMaxDepth = 200;       // values are copied, written and freed by recursion
constexpr size_t kIndexedMembers = 16;  // below this a scan beats a hash table

/// Reads the text and tells how far the parser has come, which its callbacks do not.
struct Cursor {
    using iterator_category = std::input_iterator_tag;
    using value_type = char;
    using difference_type = std::ptrdiff_t;
    using pointer = const char*;
    using reference = const char&;

    const char* at;
    const char** reached;

    reference operator*() const { return *at; }
    Cursor& operator++() {
        *reached = ++at;
        return *this;
    }
    bool operator==(const Cursor& other) const { return at == other.at; }
    bool operator!=(const Cursor& other) const { return at != other.at; }
};

/// "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error ..." without
/// what precedes the reason: we state the place ourselves.
std::string reason_of(const std::string& message) {
    size_t begin = 0;
    if (const size_t bracket = message.find("] "); bracket != std::string::npos)
        begin = bracket + 2;
    if (message.compare(begin, 11, "parse error") == 0) {
        const size_t colon = message.find(": ", begin);
        if (colon != std::string::npos) begin = colon + 2;
    }
    return message.substr(begin);
}

template <typename Float>
std::string shortest(Float value) {
    char text[64];
    const auto end = std::to_chars(text, text + sizeof text, value).ptr;
    return {text, end};
}

void write_string(std::string& out, const std::string& text) {
    out += nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void write_double(std::string& out, double value) {
    if (!std::isfinite(value)) {
        out += "null";
        return;
    }
    const std::string text = shortest(value);
    out += text;
    // Kept apart from integers, so that a value reads back with its type.
    if (text.find_first_of(".e") == std::string::npos) out += ".0";
}

void new_line(std::string& out, int indent, int depth) {
    if (indent < 0) return;
    out += '\n';
    out.append(static_cast<size_t>(indent) * static_cast<size_t>(depth), ' ');
}

void write(std::string& out, const Json& value, int indent, int depth) {
    if (value.is_null()) {
        out += "null";
    } else if (value.is_bool()) {
        out += value.as_bool() ? "true" : "false";
    } else if (value.is_int()) {
        out += std::to_string(value.as_int());
    } else if (value.is_number()) {
        write_double(out, value.as_double());
    } else if (value.is_string()) {
        write_string(out, value.as_string());
    } else if (value.is_array()) {
        out += '[';
        const char* separator = "";
        for (const Json& element : value.as_array()) {
            out += separator;
            separator = ",";
            new_line(out, indent, depth + 1);
            write(out, element, indent, depth + 1);
        }
        if (!value.as_array().empty()) new_line(out, indent, depth);
        out += ']';
    } else {
        out += '{';
        const char* separator = "";
        for (const auto& [key, member] : value.as_object().members()) {
            out += separator;
            separator = ",";
            new_line(out, indent, depth + 1);
            write_string(out, key);
            out += indent < 0 ? ":" : ": ";
            write(out, member, indent, depth + 1);
        }
        if (!value.as_object().members().empty()) new_line(out, indent, depth);
        out += '}';
    }
}

}  // namespace

/// Receives the parser's events and builds the value.
class JsonBuilder {
  public:
    using number_integer_t = int64_t;
    using number_unsigned_t = uint64_t;
    using number_float_t = double;
    using string_t = std::string;
    using binary_t = nlohmann::json::binary_t;

    JsonBuilder(std::string_view text, const std::string& source)
        : begin_(text.data()),
          end_(text.data() + text.size()),
          reached_(text.data()),
          counted_(text.data()),
          source_(std::make_shared<const std::string>(source)) {}

    Json parse() {
        nlohmann::json::sax_parse(Cursor{begin_, &reached_}, Cursor{end_, &reached_}, this);
        return std::move(root_);
    }

    bool null() { return add({}); }
    bool boolean(bool value) { return add(value); }
    bool number_integer(int64_t value) { return add(value); }
    bool number_unsigned(uint64_t value) {
        constexpr auto kMax = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
        return value <= kMax ? add(value) : add(static_cast<double>(value));
    }
    bool number_float(double value, const std::string&) { return add(value); }
    bool string(std::string& value) { return add(std::move(value)); }
    bool binary(binary_t&) { return false; }
    bool start_object(size_t) {
        JsonObject object;
        object.source_ = source_;
        object.line_ = line();
        return open(std::move(object));
    }
    bool key(std::string& name) {
        if (open_.back().value.find(name)) fail(fmt::format("the key '{}' is repeated", name));
        open_.back().key = std::move(name);
        return true;
    }
    bool end_object() { return close(); }
    bool start_array(size_t) { return open(Json::array()); }
    bool end_array() { return close(); }
    bool parse_error(size_t, const std::string&, const nlohmann::json::exception& error) {
        fail(reason_of(error.what()));
    }

  private:
    struct Open {
        Json value;       ///< the array or object being filled
        std::string key;  ///< where its next member goes
    };

    bool add(Json value) {
        if (open_.empty()) {
            root_ = std::move(value);
        } else if (Open& top = open_.back(); top.value.is_array()) {
            top.value.push_back(std::move(value));
        } else {
            top.value[top.key] = std::move(value);
        }
        return true;
    }
    bool open(Json value) {
        if (open_.size() == kMaxDepth)
            fail(fmt::format("more than {} levels of arrays and objects", kMaxDepth));
        open_.push_back({std::move(value), {}});
        return true;
    }
    bool close() {
        Json done = std::move(open_.back().value);
        open_.pop_back();
        return add(std::move(done));
    }
    int64_t line() {
        line_ += std::count(counted_, reached_, '\n');
        counted_ = reached_;
        return line_;
    }
    [[noreturn]] void fail(const std::string& message) {
        // The last character read is the one at fault.
        const char* at = std::max(begin_, reached_ - 1);
        const char* row = at;
        while (row > begin_ && row[-1] != '\n')
            --row;
        FAIL(data, "{}:{}:{}: {}", *source_, 1 + std::count(begin_, at, '\n'), at - row + 1,
             message);
    }

    const char* begin_;
    const char* end_;
    const char* reached_;  ///< one past the last character the parser took
    const char* counted_;  ///< lines are counted up to here
    int64_t line_ = 1;
    std::shared_ptr<const std::string> source_;
    std::vector<Open> open_;
    Json root_;
};

const Json* JsonObject::find(std::string_view key) const {
    if (!index_.empty()) {
        const auto found = index_.find(std::string(key));
        return found == index_.end() ? nullptr : &members_[found->second].second;
    }
    for (const auto& [name, value] : members_)
        if (name == key) return &value;
    return nullptr;
}

Json* JsonObject::find(std::string_view key) {
    return const_cast<Json*>(std::as_const(*this).find(key));
}

bool JsonObject::insert(std::string key, Json value) {
    if (find(key)) return false;
    members_.emplace_back(std::move(key), std::move(value));
    if (!index_.empty()) {
        index_.emplace(members_.back().first, members_.size() - 1);
    } else if (members_.size() > kIndexedMembers) {
        for (size_t i = 0; i < members_.size(); ++i)
            index_.emplace(members_[i].first, i);
    }
    return true;
}

std::string JsonObject::where() const {
    return source_ ? fmt::format("{}:{}", *source_, line_) : std::string();
}

bool JsonObject::operator==(const JsonObject& other) const {
    return members_ == other.members_;
}

Json::Json(float value) {
    // The text's double rounds back to the float, except where both roundings meet halfway.
    double wide = value;
    if (std::isfinite(value)) {
        const std::string text = shortest(value);
        std::from_chars(text.data(), text.data() + text.size(), wide);
        if (static_cast<float>(wide) != value) wide = value;
    }
    value_ = wide;
}

Json Json::parse(std::string_view text, const std::string& source) {
    return JsonBuilder(text, source).parse();
}

std::string Json::dump(int indent) const {
    std::string out;
    write(out, *this, indent, 0);
    return out;
}

const char* Json::type_name() const {
    constexpr const char* kNames[] = {"null",     "a boolean", "an integer", "a number",
                                      "a string", "an array",  "an object"};
    return kNames[value_.index()];
}

namespace {
/// The error of a getter: "manifest.json:3: key 'tokens': expected an integer, found a string".
[[noreturn]] void wrong_type(const std::string& where, const char* expected, const Json& found) {
    FAIL(data, "{}expected {}, found {}", where, expected, found.type_name());
}
}  // namespace

bool Json::as_bool() const {
    if (!is_bool()) wrong_type("", "a boolean", *this);
    return std::get<bool>(value_);
}
int64_t Json::as_int() const {
    if (!is_int()) wrong_type("", "an integer", *this);
    return std::get<int64_t>(value_);
}
double Json::as_double() const {
    if (!is_number()) wrong_type("", "a number", *this);
    return is_int() ? static_cast<double>(std::get<int64_t>(value_)) : std::get<double>(value_);
}
const std::string& Json::as_string() const {
    if (!is_string()) wrong_type("", "a string", *this);
    return std::get<std::string>(value_);
}
const Json::Array& Json::as_array() const {
    if (!is_array()) wrong_type("", "an array", *this);
    return std::get<Array>(value_);
}
const JsonObject& Json::as_object() const {
    if (!is_object()) wrong_type("", "an object", *this);
    return std::get<JsonObject>(value_);
}

namespace {
std::string place(const Json& object) {
    const std::string where = object.as_object().where();
    return where.empty() ? where : where + ": ";
}
/// The member, which must have a type; the error names its key.
const Json& member(const Json& object, std::string_view key, bool (Json::*is)() const,
                   const char* expected) {
    const Json& value = object.at(key);
    if (!(value.*is)())
        wrong_type(fmt::format("{}key '{}': ", place(object), key), expected, value);
    return value;
}
}  // namespace

const Json* Json::find(std::string_view key) const {
    return is_object() ? std::get<JsonObject>(value_).find(key) : nullptr;
}
const Json& Json::at(std::string_view key) const {
    const Json* value = as_object().find(key);
    REQUIRE(data, value, "{}the key '{}' is missing", place(*this), key);
    return *value;
}
bool Json::get_bool(std::string_view key) const {
    return member(*this, key, &Json::is_bool, "true or false").as_bool();
}
int64_t Json::get_int(std::string_view key) const {
    return member(*this, key, &Json::is_int, "an integer").as_int();
}
double Json::get_double(std::string_view key) const {
    return member(*this, key, &Json::is_number, "a number").as_double();
}
const std::string& Json::get_string(std::string_view key) const {
    return member(*this, key, &Json::is_string, "a string").as_string();
}
const Json::Array& Json::get_array(std::string_view key) const {
    return member(*this, key, &Json::is_array, "an array").as_array();
}
const Json& Json::get_object(std::string_view key) const {
    return member(*this, key, &Json::is_object, "an object");
}

Json& Json::operator[](std::string_view key) {
    if (is_null()) value_ = JsonObject{};
    CHECK(is_object(), "member '{}' of {}", key, type_name());
    JsonObject& object = std::get<JsonObject>(value_);
    object.insert(std::string(key), Json());
    return *object.find(key);
}

void Json::push_back(Json value) {
    if (is_null()) value_ = Array{};
    CHECK(is_array(), "an element at the end of {}", type_name());
    std::get<Array>(value_).push_back(std::move(value));
}

}  // namespace plinth::core::io
