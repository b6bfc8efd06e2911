// SPDX-License-Identifier: Apache-2.0
#include "launch/config/schema.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "launch/config/load.h"
#include "tests/support/expect_error.h"

namespace plinth::launch {
namespace {

using test::expect_error;

enum class Colour { red, blue };

struct Part {
    std::string path;
    double weight = 1;
};

struct Sample {
    bool flag = false;
    int64_t steps = 10;
    double rate = 0.5;
    std::string name = "x";
    Colour colour = Colour::red;
    int64_t memory = 1024;
    double limit = 60;
    std::optional<int64_t> tokens;
    std::vector<int64_t> numbers{1, 2};
    std::vector<std::string> words;
    std::vector<Part> parts;
};

void declare(Schema& schema, Sample& sample) {
    schema.section("train", "Training.", Resume::recorded);
    schema.key("train.flag", &sample.flag, {.doc = "A switch."});
    schema.key("train.steps", &sample.steps, {.doc = "Steps.", .min = 1, .max = 1000000});
    schema.key("train.deep.rate", &sample.rate, {.doc = "Rate.", .above = 0, .below = 1e300});
    schema.key("train.name", &sample.name, {.doc = "Name.", .resume = Resume::free});
    schema.section("other", "The rest.", Resume::free);
    schema.choice("other.colour", &sample.colour, {{"red", Colour::red}, {"blue", Colour::blue}},
                  {.doc = "Colour."});
    schema.bytes("other.memory", &sample.memory, {.doc = "Memory.", .min = 0});
    schema.seconds("other.limit", &sample.limit, {.doc = "Limit.", .min = 0});
    schema.key("other.tokens", &sample.tokens, {.doc = "Tokens.", .resume = Resume::refused});
    schema.key("other.numbers", &sample.numbers, {.doc = "Numbers."});
    schema.key("other.words", &sample.words, {.doc = "Words."});
    schema.list<Part>("other.parts", &sample.parts, {.doc = "Parts."},
                      [](Schema& element, Part& part) {
                          element.key("path", &part.path, {.doc = "Path."});
                          element.key("weight", &part.weight, {.doc = "Weight.", .above = 0});
                      });
}

class SchemaTest : public ::testing::Test {
  protected:
    SchemaTest() { declare(schema, sample); }

    void read(const std::string& text) { read_text(schema, text, "run.yaml"); }
    void refuse(const std::string& text, const std::string& message) {
        expect_error(
            ErrorKind::config, [&] { read(text); }, message);
    }
    void refuse_word(const std::string& word, const std::string& message) {
        expect_error(
            ErrorKind::config, [&] { schema.apply_override(word); }, "command line: " + word,
            message);
    }

    Sample sample;
    Schema schema;
};

TEST_F(SchemaTest, ReadsEveryType) {
    read(
        "train: {flag: true, steps: 7, deep: {rate: 1e-3}, name: 2024}\n"
        "other:\n"
        "  colour: blue\n"
        "  memory: 1.5MiB\n"
        "  limit: 2h30m\n"
        "  tokens: 5\n"
        "  numbers: [4, -5]\n"
        "  words: [a, 'b c', \"d\\ne\"]\n"
        "  parts:\n"
        "    - path: /data/a\n"
        "      weight: 2\n"
        "    - {path: b}\n");
    EXPECT_TRUE(sample.flag);
    EXPECT_EQ(sample.steps, 7);
    EXPECT_EQ(sample.rate, 1e-3);
    EXPECT_EQ(sample.name, "2024");
    EXPECT_EQ(sample.colour, Colour::blue);
    EXPECT_EQ(sample.memory, 1572864);
    EXPECT_EQ(sample.limit, 9000);
    EXPECT_EQ(sample.tokens, 5);
    EXPECT_EQ(sample.numbers, (std::vector<int64_t>{4, -5}));
    EXPECT_EQ(sample.words, (std::vector<std::string>{"a", "b c", "d\ne"}));
    ASSERT_EQ(sample.parts.size(), 2u);
    EXPECT_EQ(sample.parts[0].path, "/data/a");
    EXPECT_EQ(sample.parts[0].weight, 2);
    EXPECT_EQ(sample.parts[1].weight, 1);
    EXPECT_EQ(schema.origin("train.steps").text(), "run.yaml:1:28");
    EXPECT_EQ(schema.origin("other.parts.1").text(), "run.yaml:10:5");
    read("other: {tokens: null}");
    EXPECT_FALSE(sample.tokens);
}

TEST_F(SchemaTest, UnknownKeysNameTheirPlaceAndTheNearestKey) {
    refuse("train:\n  stpes: 3\n", "run.yaml:2:3: train.stpes: unknown key (did you mean steps?)");
    refuse("trian: {steps: 3}\n", "run.yaml:1:1: trian: unknown key (did you mean train?)");
    refuse("train: {memory: 3}", "train.memory: unknown key (did you mean other.memory?)");
    refuse("steps: 3", "steps: unknown key (did you mean train.steps?)");
    refuse("other: {parts: [{path: a}, {path: b, wieght: 2}]}",
           "run.yaml:1:38: other.parts.1.wieght: unknown key (did you mean weight?)");
    refuse("train: {steps:3}", "unknown key");
    refuse("zzzzzzzzzz: 1", "run.yaml:1:1: zzzzzzzzzz: unknown key");
    EXPECT_EQ(sample.steps, 10);
}

TEST_F(SchemaTest, TypesAreStrict) {
    refuse("train: {steps: ten}", "run.yaml:1:16: train.steps: expected an integer, got 'ten'");
    refuse("train: {steps: \"7\"}", "expected an integer, got the text \"7\"");
    refuse("train: {steps: 1e3}", "got '1e3' (write 1000)");
    refuse("train: {steps: 0x10}", "expected an integer");
    refuse("train: {steps: 1_000}", "expected an integer");
    refuse("train: {steps: 99999999999999999999}", "expected an integer");
    refuse("train: {steps: null}", "expected an integer, got null");
    refuse("train: {steps: [1]}", "expected an integer, got a list");
    refuse("train: {flag: yes}", "expected true or false, got 'yes'");
    refuse("train: {flag: 1}", "expected true or false");
    refuse("train: {deep: {rate: .inf}}", "expected a number");
    refuse("train: {deep: {rate: nan}}", "expected a number");
    refuse("train: {deep: 4}", "train.deep: is a section; expected its keys, got '4'");
    refuse("train: {name: null}", "expected text, got null");
    refuse("other: {colour: bleu}", "expected one of red | blue, got 'bleu' (did you mean blue?)");
    refuse("other: {memory: 12XB}", "expected a size such as 512MiB");
    refuse("other: {memory: 0.3B}", "expected a size");
    refuse("other: {limit: 30m2h}", "expected a duration such as 90s");
    refuse("other: {numbers: 3}", "expected a list such as [a, b], got '3'");
    refuse("other: {numbers: [1, x]}", "other.numbers.1: expected an integer");
    refuse("other: {parts: [3]}", "other.parts.0: expected keys (name: value), got '3'");
    refuse("other: {parts: [{path: a, weight: 0}]}", "other.parts.0.weight: 0 is out of range");
    refuse("- 1", "expected keys");
    refuse("just text", "expected keys");
}

TEST_F(SchemaTest, RangesAreChecked) {
    refuse("train: {steps: 0}", "train.steps: 0 is out of range, must be >= 1, <= 1000000");
    refuse("train: {steps: 1000001}", "out of range");
    refuse("train: {deep: {rate: 0}}", "must be > 0");
    refuse("train: {deep: {rate: 1e300}}", "< 1e+300");
    refuse("other: {limit: -1}", "out of range, must be >= 0");
}

TEST_F(SchemaTest, YamlThatHidesThingsIsRefused) {
    refuse("train: {steps: 1}\ntrain: {steps: 2}", "run.yaml:2:1: train: given twice (first at");
    refuse("train:\n  steps: 1\n  steps: 2\n", "run.yaml:3:3: steps: given twice");
    refuse("train: &a {steps: 1}\nother: *a\n", "anchors (&name) are not supported");
    refuse("train: *a\n", "run.yaml:1:8");
    refuse("train: {steps: !!int 3}", "tags are not supported");
    refuse("train: !thing {steps: 3}", "tags are not supported");
    refuse("train: {<<: {steps: 3}}", "merge keys (<<) are not supported");
    refuse("train: {? [a] : 3}", "a key must be plain text");
    refuse("train: {~: 3}", "a key must be plain text");
    refuse("train: {steps: 3}\n---\ntrain: {steps: 4}", "more than one document");
    refuse("train: {steps: 3", "run.yaml:1:");
    refuse("train: {steps: \xff}", "not UTF-8");
    refuse("include: a.yaml", "include: unknown key");
    refuse("a: " + std::string(32, '[') + std::string(32, ']'), "nested deeper than 32 levels");
    refuse("a: " + std::string(100000, '['), "run.yaml:1:");
    refuse(std::string(100000, '['), "run.yaml:1:1");
    refuse(std::string((1 << 20) + 1, ' '), "at most 1 MiB");
    EXPECT_NO_THROW(read(""));
    EXPECT_NO_THROW(read("# nothing\n"));
    EXPECT_NO_THROW(read(std::string(1 << 20, ' ')));
}

TEST_F(SchemaTest, OverridesReadPlainWordsListsAndNull) {
    for (const char* word :
         {"train.steps=3", "train.flag=true", "train.name=a b # c: d=e", "other.numbers=[7, 8]",
          "other.words=[\"x,y\", z]", "other.tokens=9", "other.limit=1d",
          "other.parts=[{path: p}, {path: q, weight: 3}]", "train.deep={rate: 0.25}"})
        schema.apply_override(word);
    EXPECT_EQ(sample.steps, 3);
    EXPECT_TRUE(sample.flag);
    EXPECT_EQ(sample.name, "a b # c: d=e");
    EXPECT_EQ(sample.numbers, (std::vector<int64_t>{7, 8}));
    EXPECT_EQ(sample.words, (std::vector<std::string>{"x,y", "z"}));
    EXPECT_EQ(sample.tokens, 9);
    EXPECT_EQ(sample.limit, 86400);
    EXPECT_EQ(sample.parts.at(1).path, "q");
    EXPECT_EQ(sample.rate, 0.25);
    EXPECT_EQ(schema.origin("train.steps").text(), "command line: train.steps=3");

    schema.apply_override("other.tokens=null");
    EXPECT_FALSE(sample.tokens);
    schema.apply_override("train.name=");
    EXPECT_EQ(sample.name, "");
    schema.apply_override("train.name=\"null\"");
    EXPECT_EQ(sample.name, "null");
    schema.apply_override("train.name='one, two'");
    EXPECT_EQ(sample.name, "one, two");
    schema.apply_override("other.parts.0.weight=5");
    schema.apply_override("other.numbers.1=-1");
    EXPECT_EQ(sample.parts.at(0).path, "p");
    EXPECT_EQ(sample.parts.at(0).weight, 5);
    EXPECT_EQ(sample.parts.at(1).weight, 3);
    EXPECT_EQ(sample.numbers, (std::vector<int64_t>{7, -1}));

    schema.apply_override("~train.steps");
    EXPECT_EQ(sample.steps, 10);
    EXPECT_FALSE(schema.origin("train.steps").known());
    schema.apply_override("~other");
    EXPECT_TRUE(sample.parts.empty());
    EXPECT_EQ(sample.limit, 60);
}

TEST_F(SchemaTest, WrongOverridesNameTheWord) {
    refuse_word("train.stpes=3", "train.stpes: unknown key (did you mean steps?)");
    refuse_word("steps=3", "did you mean train.steps?");
    refuse_word("train.steps=ten", "train.steps: expected an integer, got 'ten'");
    refuse_word("train.steps=", "expected an integer, got ''");
    refuse_word("train.steps=1,2", "looks like a sweep");
    refuse_word("train.name=a,b", "needs inner quotes: train.name='\"a,b\"'");
    refuse_word("train.steps", "expected key=value");
    refuse_word("=3", "expected key=value");
    refuse_word("+train.steps=3", "every key exists already");
    refuse_word("~train.steps=3", "takes no value");
    refuse_word("~train.stpes", "unknown key (did you mean steps?)");
    refuse_word("train=llama", "train: is a section");
    refuse_word("train.steps.deep=3", "leads into a single value");
    refuse_word("other.numbers.2=3", "'2' is not an element; the list has 2");
    refuse_word("other.numbers.x=3", "'x' is not an element");
    refuse_word("other.numbers=[1,2", "command line");
    refuse_word("other.numbers=[1,2] 3", "command line");
    schema.apply_override("other.parts=[{path: p}]");
    refuse_word("other.parts.0.wieght=3",
                "other.parts.0.wieght: unknown key (did you mean weight?)");
    EXPECT_EQ(sample.parts.at(0).weight, 1);
    EXPECT_EQ(sample.steps, 10);
}

TEST_F(SchemaTest, DumpReadsBackExactly) {
    sample.rate = 0.1 + 0.2;
    sample.name = "tab\t quote\" back\\slash\nline \x01 e\xcc\x81 : # [x] ~";
    sample.colour = Colour::blue;
    sample.memory = (int64_t{1} << 40) + 1;
    sample.limit = 90061.125;
    sample.tokens = std::numeric_limits<int64_t>::max();
    sample.words = {"", "null", "true", "12", "- a", "a: b", "~", "/plain/path-1.bin", "*a", "&a"};
    sample.parts = {{"p,q]", 1.0 / 3}, {"", 5e-324}};
    const std::string text = schema.dump();
    EXPECT_NE(text.find("train:\n  flag: false\n  steps: 10\n  deep:\n    rate: "),
              std::string::npos);

    Sample copy;
    Schema other;
    declare(other, copy);
    read_text(other, text, "dump");
    EXPECT_EQ(other.dump(), text);
    EXPECT_EQ(copy.rate, sample.rate);
    EXPECT_EQ(copy.name, sample.name);
    EXPECT_EQ(copy.memory, sample.memory);
    EXPECT_EQ(copy.limit, sample.limit);
    EXPECT_EQ(copy.tokens, sample.tokens);
    EXPECT_EQ(copy.words, sample.words);
    EXPECT_EQ(copy.parts.at(0).path, "p,q]");
    EXPECT_EQ(copy.parts.at(0).weight, 1.0 / 3);
    EXPECT_EQ(copy.parts.at(1).weight, 5e-324);
}

TEST_F(SchemaTest, DiffNamesKeysWithTheirResumeClass) {
    Sample changed;
    changed.steps = 11;
    changed.name = "y";
    changed.tokens = 3;
    Schema other;
    declare(other, changed);
    EXPECT_TRUE(diff(schema, schema).empty());
    const auto changes = diff(schema, other);
    ASSERT_EQ(changes.size(), 3u);
    EXPECT_EQ(changes[0].path, "train.steps");
    EXPECT_EQ(changes[0].before, "10");
    EXPECT_EQ(changes[0].after, "11");
    EXPECT_EQ(changes[0].resume, Resume::recorded);
    EXPECT_EQ(changes[1].path, "train.name");
    EXPECT_EQ(changes[1].resume, Resume::free);
    EXPECT_EQ(changes[2].before, "null");
    EXPECT_EQ(changes[2].resume, Resume::refused);
}

}  // namespace
}  // namespace plinth::launch
