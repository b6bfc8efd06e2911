// SPDX-License-Identifier: Apache-2.0
#include "core/io/json.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "tests/support/expect_error.h"

namespace plinth::core::io {
namespace {

using test::expect_error;

TEST(Json, ParsesEveryTypeAndKeepsTheOrder) {
    const Json json = Json::parse(
        R"({"z": null, "a": [true, -7, 2.5, "x\n\u00e9"], "m": {"k": 9223372036854775807}})", "t");
    EXPECT_TRUE(json.at("z").is_null());
    const auto& a = json.get_array("a");
    EXPECT_EQ(a[0].as_bool(), true);
    EXPECT_EQ(a[1].as_int(), -7);
    EXPECT_EQ(a[2].as_double(), 2.5);
    EXPECT_EQ(a[1].as_double(), -7.0);
    EXPECT_EQ(a[3].as_string(), "x\n\xc3\xa9");
    EXPECT_EQ(json.get_object("m").get_int("k"), std::numeric_limits<int64_t>::max());
    EXPECT_EQ(json.dump(),
              "{\"z\":null,\"a\":[true,-7,2.5,\"x\\n\xc3\xa9\"],"
              "\"m\":{\"k\":9223372036854775807}}");
    EXPECT_EQ(Json::parse(json.dump(3), "t"), json);
    EXPECT_EQ(Json::parse("18446744073709551615", "t").as_double(), 18446744073709551615.0);
    EXPECT_EQ(Json::parse("\xef\xbb\xbf[]", "t"), Json::array());
}

TEST(Json, IndentedText) {
    Json json;
    json["a"] = 1;
    json["b"].push_back("x");
    json["c"] = Json::array();
    json["d"] = Json::object();
    EXPECT_EQ(json.dump(2),
              "{\n  \"a\": 1,\n  \"b\": [\n    \"x\"\n  ],\n  \"c\": [],\n  \"d\": {}\n}");
}

TEST(Json, FloatsReadBackEqualInTheirShortestText) {
    EXPECT_EQ(Json(0.1f).dump(), "0.1");
    EXPECT_EQ(Json(0.1).dump(), "0.1");
    EXPECT_EQ(Json(3.0).dump(), "3.0");
    EXPECT_EQ(Json(1e300).dump(), "1e+300");
    EXPECT_EQ(Json(static_cast<double>(0.1f)).dump(), "0.10000000149011612");
    EXPECT_EQ(Json(std::nan("")).dump(), "null");
    EXPECT_EQ(Json(-std::numeric_limits<float>::infinity()).dump(), "null");
    std::mt19937_64 random(3);
    for (int i = 0; i < 20000; ++i) {
        const auto narrow = std::bit_cast<float>(static_cast<uint32_t>(random()));
        const auto wide = std::bit_cast<double>(random());
        if (std::isfinite(narrow)) {
            const Json back = Json::parse(Json(narrow).dump(), "t");
            EXPECT_EQ(static_cast<float>(back.as_double()), narrow);
            EXPECT_FALSE(back.is_int());
        }
        if (std::isfinite(wide)) {
            EXPECT_EQ(Json::parse(Json(wide).dump(), "t").as_double(), wide);
        }
    }
}

TEST(Json, TextErrorsNameSourceLineAndColumn) {
    const auto refused = [](const char* text, const char* place, const char* reason) {
        expect_error(
            ErrorKind::data, [&] { Json::parse(text, "f.json"); }, place, reason);
    };
    refused("{\n  \"a\": x}", "f.json:2:8:", "invalid literal");
    refused("{\"a\": 1,\n \"b\": 2, \"a\": 3}", "f.json:2:12:", "'a' is repeated");
    refused("[1, 2", "f.json:1:5:", "unexpected end");
    refused("[1] 2", "f.json:1:5:", "end of input");
    refused("", "f.json:1:1:", "unexpected end");
    refused("[1e999]", "f.json:1:", "number overflow");
    refused("\"\xff\"", "f.json:1:2:", "UTF-8");
    refused("[\"a\nb\"]", "f.json:", "control character");
}

TEST(Json, DepthIsLimited) {
    const auto nested = [](size_t depth) {
        return std::string(depth, '[') + std::string(depth, ']');
    };
    EXPECT_NO_THROW(Json::parse(nested(200), "t"));
    expect_error(
        ErrorKind::data, [&] { Json::parse(nested(201), "t"); }, "t:1:201:", "200 levels");
    expect_error(
        ErrorKind::data, [&] { Json::parse(std::string(1 << 20, '['), "t"); }, "200 levels");
}

TEST(Json, GettersNameKeyAndPlace) {
    const Json json = Json::parse("{\"list\": [\n{\"tokens\": \"5\"}]}", "m.json");
    const Json& shard = json.get_array("list")[0];
    expect_error(
        ErrorKind::data, [&] { shard.get_int("tokens"); }, "m.json:2:", "'tokens'",
        "expected an integer, found a string");
    expect_error(
        ErrorKind::data, [&] { shard.get_int("bytes"); }, "m.json:2:", "'bytes' is missing");
    expect_error(
        ErrorKind::data, [&] { json.get_string("list"); }, "m.json:1:", "'list'", "found an array");
    expect_error(
        ErrorKind::data, [&] { json.get_array("list")[0].as_array(); }, "expected an array");
    EXPECT_EQ(json.find("none"), nullptr);
    EXPECT_EQ(Json(3).find("none"), nullptr);
}

TEST(Json, ManyKeysAreFoundAndRepeatsCaught) {
    std::string text = "{";
    for (int i = 0; i < 50000; ++i)
        text += fmt::format("\"k{}\": {}, ", i, i);
    const Json json = Json::parse(text + "\"last\": 0}", "t");
    for (int i = 0; i < 50000; i += 97)
        EXPECT_EQ(json.get_int(fmt::format("k{}", i)), i);
    expect_error(
        ErrorKind::data, [&] { Json::parse(text + "\"k49999\": 0}", "t"); },
        "'k49999' is repeated");
}

TEST(Json, InvalidBytesAreReplacedWhenWritten) {
    EXPECT_EQ(Json("a\xff"
                   "b\x01\"")
                  .dump(),
              "\"a\xef\xbf\xbd"
              "b\\u0001\\\"\"");
}

}  // namespace
}  // namespace plinth::core::io
