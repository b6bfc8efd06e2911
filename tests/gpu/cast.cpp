// SPDX-License-Identifier: Apache-2.0
#include "kernels/cast.h"

#include <cmath>
#include <limits>

#include "tests/gpu/device_test.h"
#include "tests/gpu/part_of.h"

namespace plinth::test {
namespace {

using CastTest = DeviceTest;

struct Types {
    DType to, from;
    std::string text() const { return fmt::format("{} from {}", name_of(to), name_of(from)); }
};

constexpr Types all_types[] = {{DType::bf16, DType::f32},
                               {DType::f32, DType::bf16},
                               {DType::f32, DType::f32},
                               {DType::bf16, DType::bf16}};
constexpr int64_t sizes[] = {1, 2, 7, 8, 9, 31, 257, 2047, 4099, (int64_t{1} << 20) + 3};

constexpr auto cast_call = [](const auto& v, Stream& s) { kernels::cast(v[0], v[1], s); };

TEST_F(CastTest, GivesTheBitsOfTheHost) {
    for (const Types& types : all_types)
        for (const int64_t n : sizes)
            expect_same({output("y", {n}, types.to, 0.0), input("x", {n}, types.from)}, cast_call,
                        fmt::format("{}, {} elements", types.text(), n));
}

TEST_F(CastTest, TakesViewsThatBeginBetweenVectors) {
    for (const Types& types : all_types)
        for (const int64_t n : {2, 300, 5001})
            for (const auto& [of_y, of_x] : {std::pair{1, 0}, std::pair{0, 1}, std::pair{1, 1}}) {
                const int64_t skipped_y = of_y, skipped_x = of_x;
                expect_same(
                    {in_out(input("y", {n + skipped_y}, types.to), 0.0),
                     input("x", {n + skipped_x}, types.from)},
                    [&](const auto& v, Stream& s) {
                        kernels::cast(part_of(v[0], skipped_y), part_of(v[1], skipped_x), s);
                    },
                    fmt::format("{}, {} elements from {} to {}", types.text(), n, skipped_x,
                                skipped_y));
            }
}

/// Values beside and at the middle between two bf16 numbers of every size, and those that are no
/// numbers; in a whole vector and behind the last one.
std::vector<float> hard_values() {
    std::vector<float> values{0.0f,
                              -0.0f,
                              std::numeric_limits<float>::infinity(),
                              -std::numeric_limits<float>::infinity(),
                              std::nanf(""),
                              std::numeric_limits<float>::max(),
                              std::numeric_limits<float>::lowest(),
                              std::numeric_limits<float>::denorm_min()};
    for (int exponent = -149; exponent < 128; ++exponent)
        for (const float mantissa : {1.0f, 1.0f + 0x1p-8f, 1.0f + 3 * 0x1p-8f, 1.0f + 0x1.8p-8f,
                                     1.0f + 0x1p-8f + 0x1p-23f, 2.0f - 0x1p-23f})
            for (const float sign : {1.0f, -1.0f})
                values.push_back(sign * std::ldexp(mantissa, exponent));
    values.insert(values.end(), {-0.0f, 1.0f + 0x1p-8f, std::nanf("")});
    return values;
}

TEST_F(CastTest, RoundsTiesSmallestNumbersAndWhatIsNoNumberAsTheHost) {
    const std::vector<float> values = hard_values();
    const auto n = static_cast<int64_t>(values.size());
    ASSERT_NE(n % 8, 0) << "no rest behind the last vector";
    for (const Types& types : all_types) {
        const std::vector<Operand> operands{output("y", {n}, types.to, 0.0),
                                            input_of("x", {n}, values, types.from)};
        expect_same(operands, cast_call, types.text());
        const auto device = on_device(operands, cast_call)[0],
                   host = on_host(operands, cast_call)[0];
        for (size_t i = 0; i < host.size(); ++i)  // 0 == -0
            EXPECT_TRUE(std::isnan(host[i]) || std::signbit(device[i]) == std::signbit(host[i]))
                << types.text() << ": the sign of " << values[i];
    }
}

}  // namespace
}  // namespace plinth::test
