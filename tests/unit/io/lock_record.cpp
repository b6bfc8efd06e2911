// SPDX-License-Identifier: Apache-2.0
#include "core/io/lock_record.h"

#include <gtest/gtest.h>

#include <limits>

namespace plinth::core::io {
namespace {

const LockRecord some{
    .holder = {.host = "node \"7\"\n", .boot = "b", .pid_namespace = "pid:[1]", .pid = 17},
    .token = new_token(),
    .beats = 12};

TEST(LockRecord, ReadsBackWhatItWrote) {
    for (const uint64_t beats : {uint64_t{0}, std::numeric_limits<uint64_t>::max()}) {
        LockRecord record = some;
        record.beats = beats;
        const auto read = LockRecord::parse(record.encode());
        ASSERT_TRUE(read);
        EXPECT_EQ(read->holder, record.holder);
        EXPECT_EQ(read->token, record.token);
        EXPECT_EQ(read->beats, beats);
    }
}

TEST(LockRecord, TheHeartbeatIsRewrittenInPlace) {
    LockRecord later = some;
    later.beats = 987654321;
    std::string bytes = some.encode();
    const std::string beats = LockRecord::encode_beats(later.beats);
    bytes.replace(some.beats_offset(), beats.size(), beats);
    EXPECT_EQ(bytes, later.encode());
}

TEST(LockRecord, RefusesWhatItDidNotWrite) {
    const std::string whole = some.encode();
    for (size_t size = 0; size < whole.size(); ++size) {
        EXPECT_FALSE(LockRecord::parse(whole.substr(0, size))) << size;
        std::string torn = whole;
        torn.resize(size);
        torn.resize(whole.size());  // a size that was durable before the bytes
        EXPECT_FALSE(LockRecord::parse(torn)) << size;
    }
    for (const std::string& text :
         {whole + "\n", whole + "x", std::string("{}\n00000000000000000001\n"),
          std::string("[]\n00000000000000000001\n"), std::string("\n00000000000000000001\n"),
          std::string("{\"format\":\n99999999999999999999\n")})
        EXPECT_FALSE(LockRecord::parse(text)) << text;
    LockRecord short_token = some;
    short_token.token = "12ab";
    EXPECT_FALSE(LockRecord::parse(short_token.encode()));
    LockRecord path_as_token = some;
    path_as_token.token = std::string(24, '.') + "/../../x";
    EXPECT_FALSE(LockRecord::parse(path_as_token.encode()));
}

TEST(LockRecord, TokensDiffer) {
    EXPECT_NE(new_token(), new_token());
}

}  // namespace
}  // namespace plinth::core::io
