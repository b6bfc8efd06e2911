// SPDX-License-Identifier: Apache-2.0
#include "kernels/kv_cache.h"

#include "tests/gpu/device_test.h"
#include "tests/support/expect_error.h"

namespace plinth::test {
namespace {

using KvCacheDeviceTest = DeviceTest;

void append(const std::vector<View>& v, Stream& stream) {
    kernels::kv_cache_append(v[0], v[1], v[2], v[3], stream);
}

TEST_F(KvCacheDeviceTest, TokensGoBehindThoseOfTheirSequence) {
    struct Case {
        int64_t batch, tokens, capacity, width, query_width;
    };
    for (const DType dtype : {DType::f32, DType::bf16})
        for (const Case& c : std::initializer_list<Case>{{1, 1, 1, 1, 1},
                                                         {2, 3, 9, 5, 10},
                                                         {3, 1, 64, 64, 64},
                                                         {2, 7, 20, 128, 516},
                                                         {2, 17, 40, 1024, 4096}}) {
            std::vector<int32_t> starts;
            for (int64_t b = 0; b < c.batch; ++b)
                starts.push_back(static_cast<int32_t>((c.capacity - c.tokens) / (b + 1)));
            const Shape cache{c.batch, c.capacity, c.width};
            expect_same(
                {in_out(input("k", cache, dtype), 0.0), in_out(input("v", cache, dtype), 0.0),
                 input("qkv", {c.batch, c.tokens, c.query_width + 2 * c.width}, dtype),
                 input_of("starts", {c.batch}, starts)},
                append,
                fmt::format("{} x {} tokens of {} {}", c.batch, c.tokens, c.width, name_of(dtype)));
        }
}

TEST_F(KvCacheDeviceTest, AFullCacheIsRefused) {
    const Operand k = output("k", {2, 4, 8}, DType::f32, 0.0),
                  v = output("v", {2, 4, 8}, DType::f32, 0.0);
    expect_error(
        ErrorKind::internal,
        [&] {
            on_device({k, v, input("qkv", {2, 2, 24}),
                       input_of("starts", {2}, std::vector<int32_t>{2, 3})},
                      append);
        },
        "a cache of 4 tokens cannot take those of sequence 1 up to 5");
}

}  // namespace
}  // namespace plinth::test
