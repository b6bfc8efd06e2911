// SPDX-License-Identifier: Apache-2.0
// The only file that sees yaml-cpp. It listens to the parser's events instead of taking its node
// tree: events carry the marks, show duplicate keys, anchors and tags, and let us stop at a depth
// before anything recurses.
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <sstream>

#include "kernels/runtime/error.h"
#include "launch/config/text.h"
#include "launch/config/value.h"

namespace plinth::launch {
namespace {

constexpr size_t largest_file = size_t{1} << 20;
constexpr size_t deepest = 32;

class Builder final : public YAML::EventHandler {
  public:
    explicit Builder(const std::string& source) : source_(source) {}

    Value take() { return std::move(root_); }

    void OnDocumentStart(const YAML::Mark&) override {}
    void OnDocumentEnd() override {}

    void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
        refuse_anchor(mark, anchor);
        if (expects_key()) refuse(mark, "a key must be plain text");
        Value value;
        value.origin = origin(mark);
        add(std::move(value));
    }

    void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
        refuse(mark, "aliases are not supported; write the value again");
    }

    void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  const std::string& text) override {
        refuse_anchor(mark, anchor);
        if (tag != "?" && tag != "!") refuse_tag(mark, tag);
        if (expects_key()) return start_entry(mark, text);
        Value value;
        value.kind = Value::Kind::scalar;
        value.quoted = tag == "!";
        value.scalar = text;
        value.origin = origin(mark);
        add(std::move(value));
    }

    void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                         YAML::EmitterStyle::value) override {
        open(mark, tag, anchor, Value::Kind::list);
    }
    void OnSequenceEnd() override { close(); }
    void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                    YAML::EmitterStyle::value) override {
        open(mark, tag, anchor, Value::Kind::map);
    }
    void OnMapEnd() override { close(); }

  private:
    // An unfinished list or map; a map may hold a key that waits for its value.
    struct Level {
        Value value;
        bool has_key = false;
    };

    Origin origin(const YAML::Mark& mark) const {
        return {source_, mark.line + 1, mark.column + 1};
    }

    [[noreturn]] void refuse(const YAML::Mark& mark, const std::string& message) const {
        FAIL(config, "{}: {}", origin(mark).text(), message);
    }
    void refuse_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) const {
        if (anchor != 0) refuse(mark, "anchors (&name) are not supported");
    }
    [[noreturn]] void refuse_tag(const YAML::Mark& mark, const std::string& tag) const {
        refuse(mark, fmt::format("tags are not supported (found '{}')", tag));
    }

    bool expects_key() const {
        return !levels_.empty() && levels_.back().value.kind == Value::Kind::map &&
               !levels_.back().has_key;
    }

    void start_entry(const YAML::Mark& mark, const std::string& key) {
        Level& level = levels_.back();
        if (key == "<<") refuse(mark, "merge keys (<<) are not supported; use 'include: FILE'");
        if (key.empty()) refuse(mark, "a key must not be empty");
        for (const Value::Entry& entry : level.value.entries)
            if (entry.key == key)
                refuse(mark,
                       fmt::format("{}: given twice (first at line {})", key, entry.origin.line));
        level.value.entries.push_back({key, origin(mark), {}});
        level.has_key = true;
    }

    void open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
              Value::Kind kind) {
        refuse_anchor(mark, anchor);
        if (!tag.empty() && tag != "?") refuse_tag(mark, tag);
        if (expects_key()) refuse(mark, "a key must be plain text");
        if (levels_.size() >= deepest)
            refuse(mark, fmt::format("nested deeper than {} levels", deepest));
        Level level;
        level.value.kind = kind;
        level.value.origin = origin(mark);
        levels_.push_back(std::move(level));
    }

    void close() {
        Value value = std::move(levels_.back().value);
        levels_.pop_back();
        add(std::move(value));
    }

    void add(Value value) {
        if (levels_.empty()) {
            root_ = std::move(value);
            return;
        }
        Level& level = levels_.back();
        if (level.value.kind == Value::Kind::list) {
            level.value.items.push_back(std::move(value));
        } else {
            level.value.entries.back().value = std::move(value);
            level.has_key = false;
        }
    }

    const std::string& source_;
    std::vector<Level> levels_;
    Value root_;
};

}  // namespace

Value parse_yaml(const std::string& text, const std::string& source) {
    REQUIRE(config, text.size() <= largest_file,
            "{}: {} bytes; a configuration file holds at most 1 MiB", source, text.size());
    REQUIRE(config, is_utf8(text), "{}: not UTF-8 text", source);
    std::istringstream stream(text);
    Builder builder(source);
    try {
        YAML::Parser parser(stream);
        if (!parser.HandleNextDocument(builder)) {
            Value empty;
            empty.kind = Value::Kind::map;
            empty.origin = {source, 1, 1};
            return empty;
        }
        Value value = builder.take();
        Builder second(source);
        REQUIRE(config, !parser.HandleNextDocument(second),
                "{}: more than one document; a file holds one", source);
        return value;
    } catch (const YAML::Exception& error) {
        const Origin place{source, error.mark.line + 1, error.mark.column + 1};
        FAIL(config, "{}: {}", place.text(), error.msg);
    }
}

}  // namespace plinth::launch
